"""The version of faceid and the source revision that it was made from."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from faceid_core import __version__

_ROOT = Path(__file__).parents[1]
# A build records the commit here (setup.py); in a checkout git is asked.
RECORDED = Path(__file__).with_name("revision.txt")
_GIT_SECONDS = 5


def version_text() -> str:
    """The version with the source revision, where one is known: `0.2.0 (revision 142f39e0aa11)`."""
    revision = source_revision()
    return f"{__version__} (revision {revision})" if revision else __version__


@cache  # pages, rows and the end of a run ask, and a checkout asks git
def source_revision() -> str | None:
    """The commit that this copy of faceid comes from, `-dirty` if the checkout was changed since; None if unknown."""
    return _of_checkout(_ROOT) or _of_build(RECORDED) or _of_installation("faceid")


def _of_checkout(root: Path) -> str | None:
    if not (root / ".git").exists():  # an installed package may lie within the checkout of another project
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip() or None


def _of_build(file: Path) -> str | None:
    try:
        commit, dash, dirty = file.read_text(encoding="ascii").strip().partition("-")
        return f"{commit[:12]}{dash}{dirty}" or None
    except (OSError, ValueError):
        return None


def _of_installation(name: str) -> str | None:
    """What pip records of an installation from a repository (PEP 610)."""
    try:
        record = json.loads(distribution(name).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return None
    commit = record.get("vcs_info", {}).get("commit_id", "")
    return commit[:12] or None
