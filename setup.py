"""Record the commit that a wheel is built from; all other settings are in pyproject.toml."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


def revision() -> str:
    """The commit of the checkout, or FACEID_REVISION where a build has no checkout; empty if neither is there."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    if not (Path(__file__).parent / ".git").exists():
        return os.environ.get("FACEID_REVISION", "")
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("FACEID_REVISION", "")


class BuildWithRevision(build_py):
    """Builds the packages, and writes faceid_core/revision.txt into the build."""

    def run(self) -> None:
        """Build."""
        super().run()
        known = revision()
        if known and not self.editable_mode:
            (Path(self.build_lib) / "faceid_core" / "revision.txt").write_text(known + "\n", encoding="ascii")


setup(cmdclass={"build_py": BuildWithRevision})
