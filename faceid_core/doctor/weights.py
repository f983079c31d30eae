"""Each weight file: present, and matching its digest."""

from __future__ import annotations

from collections.abc import Iterator

from faceid_core.config import NightlyConfig
from faceid_core.weights.lock import LOCK, ModelsLock
from faceid_core.weights.required import required
from faceid_core.weights.resolve import base_files, resolve
from faceid_core.weights.status import model_statuses

from .finding import Finding


def weights(config: NightlyConfig) -> Iterator[Finding]:
    """Everything that the configuration asks for; every file is read, large ones once as long as they stay."""
    shipped = {resolve(ref, check=True).digest for ref in required(config) if ref.ships}
    if shipped:
        yield Finding("weights: shipped", "ok", f"{len(shipped)} models match models.lock")
    for status in model_statuses(config, check=True):
        if status.state == "ships":
            continue
        if status.state == "here" and status.role == "base model":
            yield _base(config)
        elif status.state == "here":
            digest = f", sha256 {status.digest[:12]}…" if status.digest else ""
            yield Finding(f"weights: {status.role}", "ok", f"{status.name} in {status.detail}{digest}")
        else:
            fetch = "faceid models fetch --config …" if status.model is not None else "see the message"
            yield Finding(f"weights: {status.role}", "fail", status.detail, fetch)


def _base(config: NightlyConfig) -> Finding:
    """A base model's folder, against the lock beside it if a fetch made one."""
    files = base_files(config)
    folder = files.folder
    lock = folder.parent / LOCK
    if lock.exists() and folder.name in (locked := ModelsLock.load(lock)).models:
        locked.verify(folder.name, folder)
        return Finding("weights: base model", "ok", f"{folder.name} matches {lock}")
    digest = files.digest()
    return Finding(
        "weights: base model",
        "ok",
        f"{folder.name}, sha256 {digest[:12]}…; no lock beside it to compare with",
    )
