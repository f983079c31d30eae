"""What must hold in a store after a fault, once the same run was run again without one."""

from __future__ import annotations

import time

from faceid_core.config import NightlyConfig
from faceid_core.store import StageCache, open_store
from faceid_core.upkeep.gc import GRACE_SECONDS, collect
from faceid_core.upkeep.scopes import all_scopes
from faceid_core.upkeep.tables import vacuum
from faceid_core.upkeep.verify import named_digests, verify
from tests.helpers.killed import Ended, night_in_a_child

_COMPARED = ("contents", "blobs", "tables")


def compare_with(undisturbed: dict, ended: Ended, where: str) -> int:
    """Require that a run ended well and equal to the undisturbed one; how many manifests, blobs and rows that were."""
    again = ended.report
    assert again is not None and again["error"] is None, f"{where}: the same command does not go on: {ended}"
    assert again["exit_status"] == 0, f"{where}: {again['reasons']}"
    assert set(again["outcomes"].values()) <= {"done", "cached"}, f"{where}: {again['reasons']}"
    for part in _COMPARED:
        ours, theirs = again[part], undisturbed[part]
        wrong = {
            name: (ours.get(name), theirs.get(name))
            for name in ours | theirs
            if ours.get(name) != theirs.get(name)
        }
        assert not wrong, f"{where}: {part} differ: {wrong}"
    assert again["index"] > 0, where
    rows = sum(len(table) for table in again["tables"].values())
    return len(again["contents"]) + len(again["blobs"]) + rows


def run_again(config: NightlyConfig, undisturbed: dict, where: str, *, collected: bool = True) -> int:
    """Run the same run without a fault, compare it, and look for what is orphaned; how many objects were compared."""
    compared = compare_with(undisturbed, night_in_a_child(config), where)
    if collected:
        nothing_is_left_over(config, where)
    return compared


def nothing_is_left_over(config: NightlyConfig, where: str) -> None:
    """Collect the garbage, then require that every result can be read and that nothing stands there unneeded."""
    store = open_store(config.store, config.s3.settings())
    later = time.time() + 2 * GRACE_SECONDS
    collect(store, delete=True, now=later)
    vacuum(store, 0.0, delete=True)
    checked = verify(store)
    assert checked.sound, f"{where}: {[str(finding) for finding in checked.findings]}"
    left = collect(store, now=later)
    assert vacuum(store, 0.0, delete=False) == [], where
    assert left.objects == 0 and left.scopes_in_doubt == left.scopes_in_use == 0, f"{where}: {left}"
    for scope in all_scopes(store):
        cache = StageCache(store, scope.name)
        named = named_digests([cache.read_manifest(*key, read_only=True) for key in scope.manifests])
        assert set(scope.blobs) <= named, f"{where}: orphaned blobs in {scope.name}"
        assert not scope.checkpoints and not scope.leases and not scope.quarantine, f"{where}: {scope}"


def no_wrong_row(report: dict, undisturbed: dict, where: str) -> int:
    """Require that a disturbed night's tables say nothing that the undisturbed one's do not; how many rows those were.

    Rows of pictures and people may lack, never differ; `runs` and `identity_outcomes` tell of the trouble itself.
    """
    rows = 0
    for name in ("images", "image_metrics"):
        wrong = set(report["tables"][name]) - set(undisturbed["tables"][name])
        assert not wrong, f"{where}: {name} says {sorted(wrong)[:1]}"
        rows += len(report["tables"][name])
    finished = {who for who, outcome in report["outcomes"].items() if outcome in ("done", "cached")}
    told = [row for row in report["tables"]["identity_summary"] if '"subject_kind": "person"' in row]
    people = [row for row in told if any(f'"identity_id": "{who}"' in row for who in finished)]
    if finished == set(report["outcomes"]) and report["exit_status"] == 0:
        wrong = set(people) - set(undisturbed["tables"]["identity_summary"])
        assert not wrong, f"{where}: identity_summary says {sorted(wrong)[:1]}"
    assert len(told) == len(people), f"{where}: figures of somebody who did not finish"
    return rows + len(people)
