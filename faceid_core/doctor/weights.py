"""Each weight file: present, and matching its digest."""

from __future__ import annotations

from collections.abc import Iterator

from faceid_core.config import NightlyConfig
from faceid_core.stages.weights import base_files, shipped_lock
from faceid_core.weights.describe import MINIATURE
from faceid_core.weights.locate import LOCK
from faceid_core.weights.lock import SHIPPED, ModelsLock
from faceid_core.weights.miniature_sets import SELECTION, SETS
from faceid_core.weights.needs import needs_of

from .finding import Finding


def weights(config: NightlyConfig) -> Iterator[Finding]:
    """Everything that the configuration asks for; every file is read, large ones once as long as they stay."""
    for name in _shipped(config):
        shipped_lock().verify(name, SHIPPED.parent / name)
    count = len(_shipped(config))
    if count:
        yield Finding("weights: shipped", "ok", f"{count} models match models.lock")
    for need in needs_of(config, check=True):
        if need.state == "ships":
            continue
        if need.state == "here" and need.role == "base model":
            yield _base(config)
        elif need.state == "here":
            digest = f", sha256 {need.digest[:12]}…" if need.digest else ""
            yield Finding(f"weights: {need.role}", "ok", f"{need.name} in {need.detail}{digest}")
        else:
            fetch = "faceid models fetch --config …" if need.model is not None else "see the message"
            yield Finding(f"weights: {need.role}", "fail", need.detail, fetch)


def _shipped(config: NightlyConfig) -> list[str]:
    names = set()
    if config.base_model.source == MINIATURE:
        names.add("pipeline")
    if not config.score.of_photographs:
        names |= set(SETS[config.score.scorers].values())
    if config.faces.backend == MINIATURE:
        names |= {SETS[SELECTION][role] for role in ("detector", "parser")}
    return sorted(names)


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
