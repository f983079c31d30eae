"""Is the container of use? Exit status 0: yes.

`faceid serve` is asked as a browser would ask it: the health page of the Prefect server that it starts, or of the one
that PREFECT_API_URL names. Any other command is of use while it runs, and Docker sees that by itself.
"""

from __future__ import annotations

import os
import sys
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

SECONDS = 5


def address(command: list[str], environment: dict[str, str]) -> str:
    """The page to ask for the container's command; empty where there is none."""
    if "serve" not in command:
        return ""
    words = [word for each in command for word in each.split("=", 1)]
    port = words[words.index("--port") + 1] if "--port" in words else "4200"
    return (environment.get("PREFECT_API_URL") or f"http://127.0.0.1:{port}/api").rstrip("/") + "/health"


def answers(page: str) -> bool:
    """Whether a page answers; one on this machine is asked without a proxy."""
    local = urlsplit(page).hostname in ("127.0.0.1", "localhost", "::1")
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))
    try:
        with opener.open(page, timeout=SECONDS) as answer:
            return answer.status == 200
    except OSError:
        return False


def main() -> int:
    """Ask the page of process 1's command."""
    command = Path("/proc/1/cmdline").read_bytes().decode(errors="replace").split("\0")
    page = address(command, dict(os.environ))
    return 0 if not page or answers(page) else 1


if __name__ == "__main__":
    sys.exit(main())
