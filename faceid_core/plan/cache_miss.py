"""Why a result is missing from the cache: the earlier result that comes nearest, and where its key preimage differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from faceid_core.stages.work import Work
from faceid_core.store import Manifest, StageCache
from faceid_core.store.differences import Leaf, differences, shown
from faceid_core.store.layout import stage_manifest

FIRST, DAMAGED, FORCED = "first time", "its record in the store is damaged", "forced"
_LEAVES_NAMED = 3


@dataclass(frozen=True)
class CacheMiss:
    """A piece of work that would be computed, why, and where its preimage differs from the nearest earlier result's."""

    subject: str
    work: Work
    why: str
    leaves: Sequence[Leaf] = ()


def explain_cache_miss(cache: StageCache, work: Work, earlier: Sequence[Manifest]) -> CacheMiss:
    """Why a piece of work has no result in the store.

    Args:
        cache: Of the work's scope.
        work: What would be computed.
        earlier: The scope's results of this stage, newest first.
    """
    nearest, leaves = nearest_result(earlier, work)
    if nearest is not None:
        return CacheMiss(work.subject, work, reason_of(leaves) if leaves else DAMAGED, tuple(leaves))
    manifest = stage_manifest(work.scope, work.call.stage, work.call.key)
    return CacheMiss(work.subject, work, DAMAGED if cache.store.head(manifest) is not None else FIRST)


def earlier_results(cache: StageCache, stage: str) -> list[Manifest]:
    """Every result of a stage in a scope that can be read, newest first."""
    return sorted(cache.manifests(stage, read_only=True), key=finished_at, reverse=True)


def finished_at(manifest: Manifest) -> str:
    """When a result was computed, ISO 8601; empty where that is not known."""
    return str(manifest.provenance.get("finished_at", ""))


def nearest_result(earlier: Iterable[Manifest], work: Work) -> tuple[Manifest | None, list[Leaf]]:
    """The earlier result whose preimage differs least from a work's, the newest of equals, and where it differs."""
    wanted, best, fewest = work.call.preimage(), None, []
    for manifest in earlier:
        leaves = differences(manifest.content["preimage"], wanted)
        if best is None or len(leaves) < len(fewest):
            best, fewest = manifest, leaves
    return best, fewest


def reason_of(leaves: Sequence[Leaf]) -> str:
    """Changed leaves as one reason, worded alike for all identities that it concerns: without digests of their own."""
    parts, follow = [], []
    for leaf in leaves:
        section, _, name = leaf.path.partition(".")
        if leaf.path == "inputs.photo":
            parts.insert(0, "photo changed")
        elif section == "inputs":
            follow.append(f"{name} changed")
        elif section == "weights":
            parts.append(f"weights of {name} changed ({shown(leaf.before)} -> {shown(leaf.after)})")
        elif section == "version":
            parts.append(f"stage version {leaf.before} -> {leaf.after}")
        else:
            parts.append(str(leaf))
    parts = parts or follow  # an input that follows from a changed photo or parameter is no reason of its own
    more = f", and {len(parts) - _LEAVES_NAMED} more" if len(parts) > _LEAVES_NAMED else ""
    return ", ".join(parts[:_LEAVES_NAMED]) + more
