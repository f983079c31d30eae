"""A fully cached run of 1,000 people: seconds on a folder, requests on S3, and what the driver imports.

Measured: the ordinary command on a store that the ordinary command made, with one training step, one prompt and one
seed, and everything else at its default. On S3 the store is a byte-for-byte copy of the folder's objects, since stage
keys do not depend on where a store is, in moto's server in the benchmark's own process; every request of the driver is
counted there by what it asks for, and the time in which the server was answering is told apart from the driver's.

Fair: nothing is kept between runs but the store. The seconds begin after start-up (interpreter, imports; with
`--executor ray` Prefect's server), which is listed. moto answers far fewer requests a second than S3 does, so that on
S3 the requests are the figure and the seconds are not. The benchmark breaks if the driver imports a model library.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from .counting_server import BUCKET, counting_server
from .measuring import spread
from .results import Row, absent
from .runs import METRICS, STAGES, Seen, brevity, start_run, write_grid, write_people
from .settings import Settings

NAME = "cached-night"
PEOPLE = 1_000
PREFIX = "nights"
OF_A_PERSON = ("identities/", "tombstones")


def run(settings: Settings) -> list[Row]:
    """Make the store once, then run cached runs on it."""
    people = settings.people or (10 if settings.quick else PEOPLE)
    manifest = write_people(settings.scratch / f"people-{people}", people)
    common = (
        *(
            "--identities",
            str(manifest),
            "--preset",
            "semantic-fidelity",
            "--set",
            "personalize.method.steps=1",
        ),
        *("--set", f"generate.grid={write_grid(settings.scratch, 1)}", "--set", "generate.seeds=1"),
        *brevity(settings),
    )
    store = settings.scratch / "store"
    start_run(settings, "--store", str(store), *common, executor="inline")
    runs = [start_run(settings, "--store", str(store), *common) for _ in range(settings.repeats)]
    for run in runs:
        require_light(run)
    case, last = f"{people} people, {settings.executor}, folder", runs[-1]
    beyond = spread([run.beyond_start_up for run in runs])
    rows = [
        Row(NAME, f"{case}: beyond start-up", "s", beyond, ("at most", 10.0), note=last.told()),
        Row(NAME, f"{case}: start-up", "s", spread([run.start_up for run in runs])),
    ]
    try:
        import moto.server  # noqa: F401
    except ImportError:
        why = "moto is not installed (pip install '.[test]')"
        return [*rows, absent(NAME, "requests for each person on S3", why)]
    return [*rows, *_on_s3(settings, store, common, people)]


def require_light(run: Seen) -> None:
    """Refuse a cached run whose driver loaded a model library.

    Raises:
        AssertionError: it did; the text names them.
    """
    assert not run.model_libraries, f"the driver of a cached run imported {', '.join(run.model_libraries)}"


def _on_s3(settings: Settings, store: Path, common: tuple[str, ...], people: int) -> list[Row]:
    with counting_server(PREFIX) as (server, client, environment):
        copy_store(store, client)
        runs, counts, busy = [], [], []
        for _ in range(settings.repeats):
            server.forget()
            run = start_run(settings, "--store", f"s3://{BUCKET}/{PREFIX}", *common, **environment)
            require_light(run)
            runs.append(run)
            counts.append(Counter(server.requests))
            busy.append(server.busy_seconds)
    bar = ("at most", 3.0 + len(STAGES) + len(METRICS))
    case = f"{people} people, {settings.executor}, S3"
    every = spread([sum(count.values()) / people for count in counts])
    own = spread(
        [sum(n for (_, kind), n in c.items() if kind.startswith(OF_A_PERSON)) / people for c in counts]
    )
    share = spread([seconds / run.beyond_start_up for seconds, run in zip(busy, runs, strict=True)])
    last = runs[-1]
    return [
        Row(NAME, f"{case}: requests for each person", "", every, bar, note=told(counts[-1], people)),
        Row(NAME, f"{case}: of them for what is the person's own", "", own),
        Row(
            NAME,
            f"{case}: beyond start-up",
            "s",
            spread([n.beyond_start_up for n in runs]),
            note=last.told(),
        ),
        Row(NAME, f"{case}: in which the server was answering", "of it", share),
    ]


def copy_store(folder: Path, client, prefix: str = PREFIX) -> int:
    """Copy every object of a folder store into the bucket, below a prefix; returns their number."""
    from faceid_core.store import open_store

    source, copied = open_store(str(folder)), 0
    for info in source.list(""):
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/{info.name}", Body=source.get(info.name))
        copied += 1
    return copied


def told(counts: Counter[tuple[str, str]], people: int) -> str:
    """Requests by what they ask for: what is a person's own for each person, the rest in all."""
    parts = [
        f"{method} {kind} {number / people:.1f} each"
        if kind.startswith(OF_A_PERSON)
        else f"{method} {kind} {number} in all"
        for (method, kind), number in counts.most_common()
    ]
    return ", ".join(parts)
