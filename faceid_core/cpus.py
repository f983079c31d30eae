"""How many CPUs this process may use, which in a container or under a CPU limit are fewer than the machine has."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def available_cpus(cgroups: Path = _CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> int:
    """The whole CPUs that this process may keep busy, at least 1: its affinity, and each CPU limit above it.

    Args:
        cgroups: Where the control groups are mounted (version 2, or version 1 with its folder `cpu`).
        membership: Which control groups this process is in.

    Source: the Linux kernel's documentation of cgroup v2 (`cpu.max`) and of CFS bandwidth control (`cpu.cfs_quota_us`).
    """
    has_affinity = hasattr(os, "sched_getaffinity")  # Linux
    cpus = float(len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1)
    for group in _groups(cgroups, membership):
        cpus = min(cpus, _limit(group))
    return max(1, int(cpus))


def _groups(cgroups: Path, membership: Path) -> list[Path]:
    """The folders of this process's control groups and of those above them; a container sees its own as the root."""
    try:
        lines = membership.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    found = [cgroups, cgroups / "cpu"]
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / "cpu" if controllers else cgroups
        group = root / path.lstrip("/")
        while group != root and root in group.parents:
            found.append(group)
            group = group.parent
    return found


def _limit(group: Path) -> float:
    """The CPUs that a group may use; infinite where it has no limit or is not there."""
    try:
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota = (group / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (group / "cpu.cfs_period_us").read_text(encoding="ascii")
        except (OSError, ValueError):
            return float("inf")
    try:
        used, of = float(quota), float(period)
    except ValueError:  # "max"
        return float("inf")
    return used / of if used > 0 and of > 0 else float("inf")
