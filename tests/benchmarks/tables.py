"""The tables at ten million rows: publishing nights, the twelve questions of the cookbook, and many small nights.

Measured: processor seconds of `Tables.publish` for the first and the last of twelve nights of 1,000 people, and of the
last one published again; wall-clock seconds, processor seconds and memory of every question of docs/cookbook.md, each in
a process of its own on its second asking (imports and the system's cache are warm), opening and locking included; one
aggregate over `image_metrics` through the views beside the same by DuckDB over the same files, in turn; processor
seconds of the comparison with the night before, for a night in which everything was computed and for one in which
everything was cached; data files of all tables after 150 nights of two people.

Fair: no night shares a result with another, so that all rows of every night are new.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from .cookbook import questions
from .measuring import alternate, ratios, spread
from .results import Bar, Row
from .runs import ROOT, environment
from .settings import Settings
from .table_nights import cached_night, night, run_name

NAME = "tables"
NIGHTS, PEOPLE, SMALL_NIGHTS = 12, 1000, 150
SECOND: Bar = ("at most", 1.0)
_AGGREGATE = "SELECT metric, avg(value), count(*) FROM {} GROUP BY ALL"


def run(settings: Settings) -> list[Row]:
    """Make the store, then ask."""
    nights, people = (2, 20) if settings.quick else (NIGHTS, settings.people or PEOPLE)
    store = settings.scratch / "tables"
    rows, count = _publish(store, nights, people)
    case = f"{count / 1e6:.2g} million rows"
    for name in questions():
        found = [_in_a_process(settings, store, name) for _ in range(settings.repeats)]
        note = f"processor time {max(f['cpu'] for f in found):.1f} s, memory {max(f['mebibytes'] for f in found):.0f} MiB"
        rows.append(
            Row(NAME, f"{case}: {name}", "s", spread([f["seconds"] for f in found]), SECOND, note=note)
        )
    rows.append(
        Row(
            NAME,
            f"{case}: an aggregate, views / read_parquet",
            "x",
            _beside_raw(settings, store),
            ("at most", 1.5),
        )
    )
    rows += _comparisons(store, nights, people)
    return [*rows, _small_nights(settings)]


def _publish(store: Path, nights: int, people: int) -> tuple[list[Row], int]:
    from faceid_core.store import open_store
    from faceid_core.tables import Tables

    tables, rows, count = Tables(open_store(str(store))), [], 0
    for number in range(nights):
        made = night(number, people)
        count += made["image_metrics"].num_rows
        seconds = _processor(lambda made=made, number=number: tables.publish(run_name(number), made))
        if number in (0, nights - 1):
            case = f"publish night {number + 1} of {people} people, {made['image_metrics'].num_rows} rows"
            rows.append(Row(NAME, case, "processor s", spread([seconds]), ("at most", 5.0)))
    again = _processor(lambda: tables.publish(run_name(number), made))
    return [*rows, Row(NAME, f"publish night {nights} again", "processor s", spread([again]))], count


def _processor(work) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _in_a_process(settings: Settings, store: Path, name: str) -> dict:
    command = [sys.executable, "-m", "tests.benchmarks.tables", str(store), name]
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment(settings), check=True
    )
    return json.loads(ended.stdout.splitlines()[-1])


def ask(store: str, name: str) -> dict:
    """Ask one question twice; seconds, processor seconds and memory of the second time."""
    from faceid_core.store import open_store
    from faceid_core.tables import Tables

    found = {}
    for _ in range(2):
        began = time.perf_counter()
        cpu = _processor(lambda: Tables(open_store(store)).query(questions()[name]))
        found = {"seconds": time.perf_counter() - began, "cpu": cpu}
    return found | {"mebibytes": _peak_mebibytes()}


def _peak_mebibytes() -> float:
    """Most memory of this process; on Linux `ru_maxrss` counts that of the process which started it as well."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (peak,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak) / 1024


def _beside_raw(settings: Settings, store: Path):
    import duckdb

    from faceid_core.store import open_store
    from faceid_core.tables import Tables

    tables = Tables(open_store(str(store)))
    files = sorted(str(path) for path in (store / "tables" / "image_metrics").glob("v*/*.parquet"))

    def raw() -> float:
        began = time.perf_counter()
        with duckdb.connect() as connection:
            connection.sql(_AGGREGATE.format(f"read_parquet({files})")).to_arrow_table()
        return time.perf_counter() - began

    def ours() -> float:
        began = time.perf_counter()
        tables.query(_AGGREGATE.format("image_metrics"))
        return time.perf_counter() - began

    found = alternate({"ours": ours, "raw": raw}, max(5, settings.repeats))
    return ratios(found["ours"], found["raw"])


def _comparisons(store: Path, nights: int, people: int) -> list[Row]:
    from faceid_core.config.execution import GateConfig
    from faceid_core.publish.gate import compare_runs
    from faceid_core.store import open_store
    from faceid_core.tables import Tables

    tables = Tables(open_store(str(store)))
    before, last, cached = (run_name(number) for number in (nights - 2, nights - 1, nights))
    tables.publish(cached, cached_night(night(nights - 1, people), nights))
    rows = []
    for case, first, second in (("computed", before, last), ("cached", last, cached)):
        seconds = [
            _processor(lambda first=first, second=second: compare_runs(tables, first, second, GateConfig()))
            for _ in range(2)
        ]
        name = f"comparison with the night before, {people} people, everything {case}"
        rows.append(Row(NAME, name, "processor s", spread(seconds[1:])))
    return rows


def _small_nights(settings: Settings) -> Row:
    from data_contracts import NAMES
    from faceid_core.store import open_store
    from faceid_core.tables import Tables
    from faceid_core.tables.files import file_sizes
    from faceid_core.tables.write import DeltaPlace

    store = open_store(str(settings.scratch / "small-nights"))
    nights = 12 if settings.quick else SMALL_NIGHTS
    for number in range(nights):
        Tables(store).publish(run_name(number), night(number, 2, prompts=1))
    files = sum(len(DeltaPlace(store).read(name, file_sizes) or ()) for name in NAMES)
    return Row(
        NAME, f"data files after {nights} nights of 2 people", "files", spread([files]), ("at most", 20.0)
    )


if __name__ == "__main__":
    print(json.dumps(ask(*sys.argv[1:3])))
