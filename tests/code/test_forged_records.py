"""Objects of a store that are cut, edited or forged: every command tells of them or passes them over; none breaks."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from faceid_core.config import NightlyConfig
from faceid_core.config.parse import changed
from faceid_core.errors import FaceidError
from faceid_core.outcomes import EXIT_COMPLETE, EXIT_FAILURES
from faceid_core.run.records import write_status
from faceid_core.store import IdentitySecret, layout, open_store, sha256_hex
from faceid_core.store.keys import spelled
from faceid_core.upkeep.erase import erase
from flows.cli import cli
from tests.code.test_erase import fill
from tests.conftest import TEST_SECRET
from tests.helpers.fault_counts import FaultRecord
from tests.helpers.pretend_night import pretend_night

SECRET = IdentitySecret(bytes.fromhex(TEST_SECRET))
WHO, GONE = "person-000000", "person-of-the-past"
SCOPE = layout.identity_scope(SECRET.identity_key(WHO))
SEED = int(os.environ["FACEID_FAULT_SEED"])  # drawn and printed by tests/conftest.py
SAMPLE = 4
WRONG = {
    "null": "null",
    "list": "[]",
    "list of lists": "[[1], {}]",
    "object": "{}",
    "text": '"x"',
    "markup": '"[/x]"',
    "no text": '""',
    "truth": "true",
    "negative": "-1",
    "fraction": "0.5",
    "huge": "1" + "0" * 30,
    "without end": "1e999",
    "no number": "NaN",
    "nested": "[" * 400 + "]" * 400,
    "nested too deeply": "[" * 100_000 + "]" * 100_000,
    "half a character": '"\\ud800"',
}
WHOLE = {
    "nothing": b"",
    "cut": b'{"format": ',
    "null": b"null",
    "list": b"[]",
    "text": b'"x"',
    "bytes": b"\xff\xfe",
}
_ALIKE = {"tables", "outcomes", "computed", "stage_keys", "weights", "rows"}
_HERE = "\x00here"  # stands for a value that JSON libraries do not write


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A store with everything in it: two people, their rows, a run's records, an erased person, a pin."""
    folder = tmp_path_factory.mktemp("forged")
    made = fill(open_store(str(folder / "store")), folder, days=(1,))
    store, run_id = made.store, made.run.run_id
    write_status(made.run, "complete")
    store.put_if_absent(f"runs/{run_id}/pages.json", json.dumps({SECRET.identity_key(WHO): "a"}).encode())
    erase(store, SECRET, GONE, wait=False, longest_lease=0.0)
    return changed(made.config, {"store": str(folder / "store")}, source="test")


def records(root: Path) -> dict[str, Path]:
    """One object of each kind of record."""
    (run,) = (root / "runs").iterdir()
    scope = root / SCOPE / "stages"
    found = {f"manifest of {stage}": next((scope / stage).iterdir()) for stage in ("detect", "generate")}
    found["tombstone"] = next((root / "tombstones").iterdir())
    found["catalog"] = root / layout.CATALOG
    found["store"] = root / layout.STORE
    return found | {name: run / f"{name}.json" for name in ("request", "status", "pages")}


def fields(value, above: tuple = ()) -> Iterator[tuple]:
    """Where every value of a record stands; of lists and of entries that are alike the first."""
    if above:
        yield above
    if isinstance(value, dict) and above[-1:] not in (("config",), ("parameters",)):
        for name in list(value)[:1] if above and above[-1] in _ALIKE else value:
            yield from fields(value[name], (*above, name))
    elif isinstance(value, list) and value:
        yield from fields(value[0], (*above, 0))


def points(root: Path) -> list[str]:
    """Every way to forge a record: kind, field, and what stands there."""
    found = [f"{kind}||{how}" for kind in records(root) for how in WHOLE]
    for kind, path in records(root).items():
        for place in fields(json.loads(path.read_bytes())):
            found += [f"{kind}|{'.'.join(map(str, place))}|{how}" for how in WRONG]
    return found


def forge(root: Path, point: str) -> None:
    """Put the forged record in the place of the true one, a manifest with digest and key that fit."""
    kind, place, how = point.split("|")
    path = records(root)[kind]
    if not place:
        path.write_bytes(WHOLE[how])
        return
    record = json.loads(path.read_bytes())
    *above, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    inner = record
    for part in above:
        inner = inner[part]
    inner[last] = _HERE

    def text(part) -> bytes:
        return spelled(part).replace(spelled(_HERE), WRONG[how].encode())

    if kind.startswith("manifest") and isinstance(record["content"], dict):
        if above != [] or last != "content_sha256":
            record["content_sha256"] = sha256_hex(text(record["content"]))
        key = sha256_hex(text(record["content"].get("preimage")))
        path = path.with_name(f"{key}.json")
    path.write_bytes(text(record))


# Which uses of the store read a record at all.
_READERS = {
    "manifest of detect": ("plan", "explain", "run", "verify", "gc"),
    "manifest of generate": ("plan", "run", "verify", "gc"),
    "tombstone": ("plan", "run", "verify", "gc", "erase"),
    "catalog": ("query", "run", "verify", "gc", "erase"),
    "store": ("plan", "explain", "run", "status", "query", "verify", "gc", "erase"),
    "request": ("plan", "status", "verify", "gc"),
    "status": ("plan", "status", "verify", "gc"),
    "pages": ("run", "verify", "gc"),
}


def require_no_traceback(config: NightlyConfig, point: str) -> dict[str, int]:
    """Use the store in every way that reads a forged record; the exit status of each."""
    kind = point.partition("|")[0]
    forge(Path(config.store), point)
    where, run = ["--store", config.store], ["--identities", config.identities, "--set", "score.named_people=1"]
    who = GONE if kind == "tombstone" else WHO
    commands = {
        "plan": ["plan", *run, *where],
        "explain": ["explain", WHO, "detect", *run, *where],
        "status": ["status", *where],
        "query": ["query", "select count(*) from runs", *where],
        "verify": ["verify", *where],
        "gc": ["gc", *where, "--delete", "--unused-days", "1"],
        "erase": ["erase", who, "--yes", "--no-wait", *where],
    }
    return {name: _use(config, point, name, commands.get(name)) for name in _READERS[kind]}


def _use(config: NightlyConfig, point: str, name: str, command: list[str] | None) -> int:
    """The exit status of a command, or of a run without models; anything but an error of ours is a failed test."""
    if command is None:
        try:
            pretend_night(config)
            return EXIT_COMPLETE
        except FaceidError:
            return EXIT_FAILURES
    told = CliRunner().invoke(cli, command)
    known = told.exception is None or isinstance(told.exception, FaceidError | SystemExit)
    assert known, f"{point}: {name}: {told.exception!r}"
    return EXIT_FAILURES if isinstance(told.exception, FaceidError) else told.exit_code


@pytest.fixture
def copied(filled, tmp_path):
    """Make the configuration of a copy of the filled store."""

    def make(name: str) -> NightlyConfig:
        shutil.copytree(filled.store, tmp_path / name)
        return changed(filled, {"store": str(tmp_path / name)}, source="test")

    return make


@pytest.mark.parametrize(
    "point, kind",
    [
        ("manifest of detect|content.preimage.inputs|list", "damaged manifest"),
        ("manifest of generate|provenance.seconds|text", "damaged manifest"),
        ("tombstone|objects|text", "damaged record"),
        ("catalog|tables.runs.version|text", "damaged table"),
        ("status|people.0.stage_keys|list", "damaged record"),
    ],
)
def test_a_forged_record_is_told_by_verify_and_passed_over_by_the_others(copied, point, kind):
    answers = require_no_traceback(copied("used"), point)
    # Where the tables cannot be read, the erasure that is due cannot be completed, which is a failure.
    assert answers["gc"] == (EXIT_FAILURES if kind == "damaged table" else EXIT_COMPLETE)
    config = copied("verified")
    forge(Path(config.store), point)
    told = CliRunner().invoke(cli, ["verify", "--store", config.store])
    assert told.exit_code == EXIT_FAILURES and f"1 {kind}" in told.output


def test_a_few_ways_to_forge_a_record_break_no_command(filled, copied):
    for number, point in enumerate(random.Random(SEED).sample(points(Path(filled.store)), SAMPLE)):
        require_no_traceback(copied(str(number)), point)


@pytest.mark.exhaustive
@pytest.mark.timeout(3 * 3600)
def test_no_way_to_forge_a_record_breaks_a_command(filled, copied):
    record = FaultRecord("forged-records")
    for number, point in enumerate(record.left(points(Path(filled.store)))):
        config = copied(str(number))
        answers = require_no_traceback(config, point)
        record.add(point, faults=1, runs=len(answers))
        shutil.rmtree(config.store)
