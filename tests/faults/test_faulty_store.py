"""Runs on a store that fails, lies or is full: the right result or a clear error, whole outcome reports, no wrong table.

Whatever happened, the same command on the mended store ends as if nothing had been.
"""

from __future__ import annotations

import json
import os
import time

import pytest

from faceid_core.errors import StoreError
from faceid_core.store import FolderStore, RunLease, StageCache
from faceid_core.upkeep.scopes import all_scopes
from tests.helpers.aftermath import no_wrong_row, run_again
from tests.helpers.fault_counts import FaultRecord
from tests.helpers.faulty import WRITES, FaultCount, Faults, FaultyStore
from tests.helpers.killed import night_in_a_child

SEED = int(os.environ["FACEID_FAULT_SEED"])  # drawn and printed by tests/conftest.py
RATES = (0.0, 0.1, 0.5, 0.9)
PEOPLE_LEFT = (
    r"^(identities|common|tombstones)/"  # what belongs to people, so not the lease and the run's own records
)
ACCOUNTED = {"done", "cached", "rejected", "refused", "failed", "not_reached"}


def survive(night_on, undisturbed: dict, faults: Faults, name: str) -> tuple[dict, int]:
    """A run among faults, what must hold after it, and the run after the store was mended."""
    where = f"{faults} (FACEID_FAULT_SEED={SEED})"
    config = night_on(name, people=2)
    ended = night_in_a_child(config, faults=faults, suffix="faulted0")
    report = ended.report
    assert report is not None, f"{where}: it ended without a word: {ended.exit_code}"
    assert report["clear"] and (report["error"] is None or len(report["error"]) > 20), (
        f"{where}: {report['error']}"
    )
    compared = 0
    if "outcomes" in report:  # else the run was refused before it began
        assert set(report["outcomes"]) == {"ann", "bob"}, where
        assert set(report["outcomes"].values()) <= ACCOUNTED, f"{where}: {report['outcomes']}"
        finished = set(report["outcomes"].values()) <= {"done", "cached"}
        assert (report["exit_status"] == 0) == (finished and not report["error"]), f"{where}: {report}"
        for who, outcome in report["outcomes"].items():
            assert outcome in ("done", "cached") or "None" not in report["reasons"][who][:20], report[
                "reasons"
            ][who]
        compared += no_wrong_row(report, undisturbed, where)
    return report, compared + run_again(config, undisturbed, where)


CASES = {
    "refused": Faults(kinds=("refused",), rate=0.1),
    "late": Faults(kinds=("late",), rate=0.3),
    "slow": Faults(kinds=("slow",), rate=0.3),
    "full": Faults(kinds=("full",), rate=1.0, first=60),
    "lies": Faults(kinds=("wrong", "torn"), rate=0.1, names=PEOPLE_LEFT),
    "lies-of-all": Faults(kinds=("wrong", "torn"), rate=0.1),
    "skew": Faults(clock_seconds=3600.0),
}


def test_a_night_with_a_tenth_of_its_calls_failing(night_on, undisturbed_pair):
    kind = ("refused", "late", "wrong", "torn")
    # A run that cannot even begin tells little: see below.
    faults = Faults(seed=SEED, kinds=kind, rate=0.1, names=PEOPLE_LEFT, first=20)
    report, compared = survive(night_on, undisturbed_pair, faults, "sample")
    assert sum(report["met"].values()) > 3 and compared > 40, report


@pytest.mark.exhaustive
@pytest.mark.timeout(6 * 3600)
def test_many_nights_on_faulty_stores(night_on, undisturbed_pair):
    record = FaultRecord("faulty-store")
    points = [f"{kind} {rate} {seed}" for kind in ("refused", "mixed") for rate in RATES for seed in range(5)]
    points += [f"{case} - {seed}" for case in CASES for seed in range(5)]
    for point in record.left(points):
        case, rate, seed = point.split()
        if rate == "-":
            faults = Faults(**{**vars(CASES[case]), "seed": int(seed)})
        else:
            kinds = ("refused", "late", "wrong", "torn") if case == "mixed" else ("refused",)
            # A run that cannot even begin tells little: from its twentieth call on everything may fail.
            faults = Faults(seed=int(seed), rate=float(rate), kinds=kinds, first=20)
        report, compared = survive(night_on, undisturbed_pair, faults, point.replace(" ", "-"))
        record.add(point, faults=sum(report["met"].values()), runs=1, compared=compared)


def damage_blob(store, cache, manifest) -> None:
    name = next(iter(manifest.outputs.values())).digest
    store.delete(f"{cache.scope}/blobs/{name}")


def lose_manifest(store, cache, manifest) -> None:
    store.delete(f"{cache.scope}/stages/{manifest.stage}/{manifest.stage_key}.json")


@pytest.mark.parametrize("lose", [damage_blob, lose_manifest], ids=["blob", "manifest"])
def test_a_manifest_without_its_blob_and_a_blob_without_its_manifest(night_on, undisturbed, lose):
    """Every stage's at once: the run finds out whatever it reads, and what it cannot read it makes again."""
    config = night_on(f"without-{lose.__name__}")
    assert night_in_a_child(config).exit_code == 0
    store = FolderStore(config.store)
    for scope in list(all_scopes(store)):
        cache = StageCache(store, scope.name)
        for key in scope.manifests:
            if key[0] != "personalize" or lose is damage_blob:
                lose(store, cache, cache.read_manifest(*key, read_only=True))
    first = night_in_a_child(config).report
    assert first["clear"] and set(first["outcomes"].values()) <= {"done", "cached", "failed"}
    # A run that needs nothing reads nothing: what is still missing `verify --repair` sets aside.
    from faceid_core.upkeep.verify import verify

    verify(store, repair=True)
    run_again(config, undisturbed, lose.__name__)


def test_the_same_seed_gives_the_same_faults_and_each_kind_does_what_it_says(tmp_path):
    def outcomes(kind: str, seed: int) -> list:
        store = FaultyStore(FolderStore(str(tmp_path / f"{kind}-{seed}")), count := FaultCount(
            Faults(seed=seed, rate=0.5, kinds=(kind,))
        ))  # fmt: skip
        found = []
        for number in range(30):
            try:
                store.put_if_absent(f"a/{number}", b"whole" * 10)
                found.append(store.get(f"a/{number}"))
            except StoreError as error:
                found.append(str(error).partition(" in ")[0])
        assert (kind == "slow") or sum(count.met.values()) > 5
        return found

    assert outcomes("refused", 1) == outcomes("refused", 1)[:30] != outcomes("refused", 2)
    assert {len(each) for each in outcomes("torn", 1)} == {25, 50}
    assert len(set(outcomes("wrong", 1))) == 2
    assert any("injected" not in each for each in map(str, outcomes("late", 1)))
    full = FaultyStore(FolderStore(str(tmp_path / "full")), FaultCount(Faults(rate=1.0, kinds=("full",))))
    with pytest.raises(StoreError, match="No space left on device; check space"):
        full.put_if_absent("a", b"x")
    assert full.sweep_unfinished(-1, delete=False) == (0, 0), (
        "a write that found no space leaves nothing behind"
    )


def test_a_late_write_has_landed(tmp_path):
    inner = FolderStore(str(tmp_path / "store"))
    late = FaultyStore(inner, FaultCount(Faults(rate=1.0, kinds=("late",), calls=WRITES)))
    with pytest.raises(StoreError, match="timeout"):
        late.put_if_absent("a", b"x")
    assert inner.get("a") == b"x"


@pytest.mark.parametrize("renewals", [0, 2])
def test_a_lease_whose_renewal_was_answered_too_late_is_not_lost(tmp_path, renewals):
    """Neither to the next renewal, nor to a release that comes before it."""
    inner = FolderStore(str(tmp_path / "store"))
    count = FaultCount(
        Faults(rate=1.0, kinds=("late",), names="leases", calls=("replace_if_match",), first=2)
    )

    def renewed() -> float:
        return json.loads(inner.get("leases/run.json"))["renewed"]

    lease = RunLease.acquire(FaultyStore(inner, count), "a-run", ttl=0.6 if renewals else 1.2)
    try:
        before = renewed()
        while renewed() == before:
            time.sleep(0.01)
        count.lift()
        for _ in range(renewals):
            before = renewed()
            while renewed() == before:
                assert not lease.lost, "its own late renewal took it away"
                time.sleep(0.01)
    finally:
        lease.release()
    assert count.met["late"] and json.loads(inner.get("leases/run.json"))["released"]
