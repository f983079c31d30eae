"""What a thousand, ten thousand and a hundred thousand people cost outside the models, each part alone.

Measured: planning (`faceid plan`) with every result there and with none; `faceid doctor`; opening, lookup and
publication of a run, the first time and again; `faceid status` and questions of `faceid query`; whole runs under Prefect
and Ray whose workers compute nothing; requests on S3's wire. Stores are made up (`pretend_store`): the keys are those
that a run plans, the results are not computed. Processor seconds of a process are the figure, and its wall-clock
seconds, most memory and requests stand beside: other work on the machine makes the wall clock longer, and nothing else.

Fair: files are in the system's cache; stores are not synchronized to disk while they are made; repeats are for up to a
thousand people, more are measured once. People's pages are not made, since they are made of pictures: `publish` in a real
run takes longer by the pages of those who were computed. Publications of more than 10,000 people in one run are not
measured: their memory is what the line through the others says.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .cached_night import OF_A_PERSON, copy_store, told
from .counting_server import BUCKET, counting_server
from .measuring import line_through, spread
from .results import Bar, Row, absent
from .runs import ROOT, Seen, brevity, environment, start_command, start_run, write_grid, write_people
from .settings import Settings

NAME = "scale"
SIZES = (1_000, 10_000, 100_000)
MOST_REPEATED, MOST_PUBLISHED = 1_000, 10_000
DOCTOR_BAR: Bar = ("at most", 20.0)
ORCHESTRATED, ON_S3, COMPUTED_ON_S3 = (200, 1_000), (100, 400), 4
RUNS_OF_ALL, PEOPLE_OF_EACH = 50, 2_000  # a hundred thousand people, as several runs publish them
PREFIX = "scale"
_GIVEN_MEBIBYTES = 8192  # that a driver may have, to say how many people fit
QUESTIONS = {
    "a person's runs": "select run_id, outcome, identity_similarity from people where identity_id = '{person}'",
    "a person's images": "select prompt_id, avg(value) from scores where identity_id = '{person}' "
    "and metric = 'identity' group by 1",
    "a run's outcomes": "select outcome, count(*), avg(identity_similarity) from people "
    "where run_id = '{run}' group by 1",
    "the latest run's weakest": "select identity_id, identity_similarity from latest order by 2 limit 20",
}
# What `scale_orchestration` counts and what it is called.
_COUNTED = {
    "ray_tasks": "Ray tasks", "task_run": "Prefect task runs", "flow_run": "Prefect flow runs",
    "task_run_state": "Prefect states of task runs", "events": "Prefect events", "log": "Prefect log lines",
    "artifact": "Prefect artifacts", "database_bytes": "bytes of Prefect's database",
    "requests": "the driver's requests to the store",
}  # fmt: skip


def run(settings: Settings) -> Iterator[Row]:
    """Every part at every size up to `--people`."""
    sizes = (
        (20,)
        if settings.quick
        else [n for n in SIZES if n <= (settings.people or SIZES[-1])] or [settings.people]
    )
    memory: dict[int, float] = {}
    yield from _operations()
    for people in sizes:
        yield from _of_size(settings, people, memory)
    if len(memory) > 1:
        line = line_through(list(memory), list(memory.values()))
        held = (_GIVEN_MEBIBYTES - line.start) / line.each
        note = f"and {line.start:.0f} MiB for none; {_GIVEN_MEBIBYTES} MiB hold {held:,.0f} people of one run"
        yield Row(NAME, "publication: memory of each person", "MiB", spread([line.each]), note=note)
    if not settings.quick and sizes[-1] > MOST_PUBLISHED:
        yield from _questions_of_several_runs(settings)
    yield from _orchestrated(settings, sizes[-1])
    yield from _on_s3(settings)


def _of_size(settings: Settings, people: int, memory: dict[int, float]) -> Iterator[Row]:
    from .pretend_store import fill, write_config

    root = settings.scratch / f"scale-{people}"
    config, empty = write_config(root, people), write_config(root, people, store=str(root / "empty"))
    repeats = settings.repeats if people <= MOST_REPEATED else 1
    case = f"{people:,} people"
    plan = partial(_command, settings, repeats)
    yield plan(f"{case}: plan, nothing there", "plan", "--config", str(empty), wanted="first time")
    if people <= MOST_REPEATED:
        yield _doctor(settings, repeats, case, empty)
    os.environ["FACEID_IDENTITY_SECRET"] = environment(settings)["FACEID_IDENTITY_SECRET"]
    fill(config)
    yield plan(
        f"{case}: plan, everything cached", "plan", "--config", str(config), wanted="everything is cached"
    )
    files, size = _weighed(root / "store")
    yield Row(
        NAME,
        f"{case}: bytes of manifests",
        "bytes a person",
        spread([size / people]),
        note=f"{files:,} files",
    )
    if people > MOST_PUBLISHED:
        yield absent(NAME, f"{case}: publication", "one run of so many people does not fit into 8 GiB")
        return
    found = _part(settings, "scale_publication", str(config), "2")
    yield from _phases(case, found["phases"])
    memory[people] = max(phase["mebibytes"] for phase in found["phases"].values())
    for name, length in found["bytes"].items():
        yield Row(NAME, f"{case}: bytes of {name}", "bytes", spread([length]))
    yield from _of_tables(case, root / "store", people)
    yield plan(f"{case}: status", "status", "--config", str(config), wanted="cached")
    yield from _questions(settings, repeats, case, ("--config", str(config)), found["run"], "person-000007")


def _command(settings: Settings, repeats: int, case: str, *arguments: str, wanted: str = "") -> Row:
    seen = [start_command(settings, *arguments, wanted=wanted) for _ in range(repeats)]
    return Row(
        NAME, case, "processor s", spread([each.processor_seconds for each in seen]), note=_beside(seen)
    )


def _beside(seen: Sequence[Seen]) -> str:
    """Wall-clock seconds, memory and requests, for a note."""
    last = seen[-1]
    wall = spread([each.seconds for each in seen])
    range_ = f" ({wall.low:.1f} to {wall.high:.1f})" if wall.repeats > 1 else ""
    mebibytes = (last.peak_bytes or 0) / 2**20
    return f"wall clock {wall.median:.1f} s{range_}, {mebibytes:,.0f} MiB, {last.requests:,} requests"


def _doctor(settings: Settings, repeats: int, case: str, config: Path) -> Row:
    """Over people of whom nothing is there, so that it measures some steps; Ray is started and joined as ever."""
    options = ("--config", str(config), "--executor", "ray")
    seen = [start_command(settings, "doctor", *options, wanted="people to compute") for _ in range(repeats)]
    wall = spread([each.seconds for each in seen])
    processor = max(each.processor_seconds for each in seen)
    return Row(
        NAME, f"{case}: doctor, Ray included", "s", wall, DOCTOR_BAR, note=f"processor time {processor:.1f} s"
    )


def _phases(case: str, phases: Mapping[str, Mapping[str, float]]) -> Iterator[Row]:
    for name, phase in phases.items():
        note = f"wall clock {phase['seconds']:.1f} s, {phase['mebibytes']:,.0f} MiB by its end"
        note += f", {phase['requests']:,} requests"
        yield Row(NAME, f"{case}: {name}", "processor s", spread([phase["processor_seconds"]]), note=note)


def _of_tables(case: str, store: Path, people: int) -> Iterator[Row]:
    commits = {
        table.name: len([*table.glob("*/_delta_log/*.json")])
        for table in sorted((store / "tables").iterdir())
    }
    told = ", ".join(f"{name} {count}" for name, count in commits.items())
    yield Row(NAME, f"{case}: Delta commits of two runs", "", spread([sum(commits.values())]), note=told)
    files, size = _weighed(store / "tables")
    yield Row(
        NAME, f"{case}: bytes of tables", "bytes a person", spread([size / people]), note=f"{files} files"
    )


def _questions(
    settings: Settings, repeats: int, case: str, options: Sequence[str], run_id: str, person: str
) -> Iterator[Row]:
    for name, sql in QUESTIONS.items():
        asked = sql.format(run=run_id, person=person)
        yield _command(settings, repeats, f"{case}: query, {name}", "query", asked, *options)


def _questions_of_several_runs(settings: Settings) -> Iterator[Row]:
    """A hundred thousand people's rows, published as runs of two thousand: a run of them all does not fit into memory."""
    from .table_nights import run_name

    store = settings.scratch / "scale-several"
    found = _part(settings, "scale_several", str(store), str(RUNS_OF_ALL), str(PEOPLE_OF_EACH))
    case = f"{RUNS_OF_ALL} runs of {PEOPLE_OF_EACH:,} people"
    size = f"{found['files']} files of {found['bytes'] / 2**20:,.0f} MiB"
    note = f"{found['rows'] / 1e6:.0f} million rows of image_metrics in {size}"
    yield Row(NAME, f"{case}: publishing the first", "processor s", spread([found["first"]]), note=note)
    yield Row(NAME, f"{case}: publishing the last", "processor s", spread([found["last"]]))
    last = run_name(RUNS_OF_ALL - 1)
    yield from _questions(settings, 1, case, ("--store", str(store)), last, "person-0007")


def _orchestrated(settings: Settings, most: int) -> Iterator[Row]:
    """Whole runs under Prefect and Ray; what they come to for each person, and for each run."""
    from .pretend_store import write_config

    found = []
    for people in (5, 10) if settings.quick else [n for n in ORCHESTRATED if n <= most]:
        root = settings.scratch / f"scale-orchestrated-{people}"
        config, home = write_config(root, people), str(root / "prefect")
        found.append(each := _part(settings, "scale_orchestration", str(config), PREFECT_HOME=home))
        note = f"wall clock {each['seconds']:.0f} s, {each['mebibytes']:,.0f} MiB, at most {each['threads']} threads"
        case = f"{people:,} people under Prefect and Ray: the driver"
        yield Row(NAME, case, "processor s", spread([each["processor_seconds"]]), note=note)
    if len(found) < 2:
        return
    for name, title in _COUNTED.items():
        line = line_through([each["people"] for each in found], [each[name] for each in found])
        yield Row(
            NAME,
            f"{title} for each person",
            "",
            spread([line.each]),
            note=f"and {max(0.0, line.start):,.0f} for a run",
        )


def _on_s3(settings: Settings) -> Iterator[Row]:
    """Requests by S3's wire protocol, the tables' library's among them."""
    try:
        import moto.server  # noqa: F401
    except ImportError:
        yield absent(NAME, "requests on S3", "moto is not installed (pip install '.[test]')")
        return
    for people in (4,) if settings.quick else ON_S3:
        yield _requests(
            f"{people} people, all cached, published on S3", people, _published_on_s3(settings, people)
        )
    people = 2 if settings.quick else COMPUTED_ON_S3
    yield _requests(f"{people} people, all computed on S3", people, _computed_on_s3(settings, people))


def _requests(case: str, people: int, requests: Counter) -> Row:
    own = sum(count for (_, kind), count in requests.items() if kind.startswith(OF_A_PERSON))
    in_all = f"{sum(requests.values()):,.0f} in all: {told(requests, people)}"
    return Row(
        NAME, f"{case}: requests for what is a person's own", "a person", spread([own / people]), note=in_all
    )


def _published_on_s3(settings: Settings, people: int) -> Counter:
    """Of one run; moto's buckets outlive its server, so each prefix is used once."""
    from .pretend_store import fill, write_config

    root, prefix = settings.scratch / f"scale-s3-{people}", f"{PREFIX}-published-{people}"
    fill(write_config(root, people))
    config = write_config(root, people, store=f"s3://{BUCKET}/{prefix}")
    with counting_server(prefix) as (server, client, own):
        copy_store(root / "store", client, prefix)
        server.forget()
        _part(settings, "scale_publication", str(config), "1", **own)
        return Counter(server.requests)


def _computed_on_s3(settings: Settings, people: int) -> Counter:
    """A real run of some people, with one step, prompt and seed: requests do not depend on how long a stage takes."""
    options = (
        *("--identities", str(write_people(settings.scratch / f"scale-people-{people}", people))),
        *("--preset", "semantic-fidelity", "--set", "personalize.method.steps=1"),
        *("--set", f"generate.grid={write_grid(settings.scratch, 1)}", "--set", "generate.seeds=1"),
        *("--set", "score.named_people=1", *brevity(settings)),
    )
    prefix = f"{PREFIX}-computed-{people}"
    with counting_server(prefix) as (server, _, own):
        start_run(settings, "--store", f"s3://{BUCKET}/{prefix}", *options, executor="inline", **own)
        return Counter(server.requests)


def _operations() -> Iterator[Row]:
    """What a person asks of a GPU, counted on Stable Diffusion 1.5's networks without their numbers."""
    import torch

    from .models import autoencoder_15, unet_15
    from .operations import count_operations

    with torch.device("meta"):
        unet, autoencoder = unet_15().requires_grad_(False), autoencoder_15().requires_grad_(False)
        latent, timestep = torch.zeros(1, 4, 64, 64), torch.zeros((), dtype=torch.long)
        context = torch.zeros(1, 77, 768, requires_grad=True)
        works = {
            "a training sample, forward and backward": lambda: (
                unet(latent, timestep, context).sample.sum().backward()
            ),
            "a sampling step of a picture, without guidance": lambda: (
                unet(latent, timestep, context.detach()).sample
            ),
            "decoding a picture": lambda: autoencoder.decode(latent).sample,
        }
        for name, work in works.items():
            count = sum(count_operations(work).values())
            yield Row(NAME, f"Stable Diffusion 1.5, {name}", "T operations", spread([count / 1e12]))


def _part(settings: Settings, module: str, *arguments: str, **env: str) -> dict[str, Any]:
    """What a module of ours prints as the last line of a process of its own."""
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments]
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment(settings, **env)
    )
    lines = [line for line in ended.stdout.splitlines() if re.match(r"\{.*\}$", line)]
    if ended.returncode or not lines:
        last = "\n".join((ended.stdout + ended.stderr).splitlines()[-12:])
        raise RuntimeError(f"{module} ended with status {ended.returncode}:\n{last}")
    return json.loads(lines[-1])


def _weighed(folder: Path) -> tuple[int, int]:
    """How many files lie below a folder, and their bytes."""
    files = size = 0
    for above, _, names in os.walk(folder):
        files += len(names)
        size += sum(os.path.getsize(os.path.join(above, name)) for name in names)
    return files, size
