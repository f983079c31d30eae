"""A store as a run leaves it, without a model: every stage's works are planned as ever and get made-up outputs."""

from __future__ import annotations

import csv
import datetime as dt
from collections.abc import Callable, Mapping
from pathlib import Path

from faceid_core.config import NightlyConfig, parse_config
from faceid_core.run.execute import put_photo
from faceid_core.run.lookup import lookup_stage
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter
from faceid_core.run.state import Run
from faceid_core.stages import STAGES, Work
from faceid_core.store import Manifest, ObjectStore, Output, StageCache
from faceid_core.store.keys import sha256_hex

_OUTPUTS = {
    "detect": ("crop.png", "valid.png", "detection.json"),
    "parse": ("labels.png", "parser.json"),
    "mask": ("mask.png", "verdict.json"),
    "personalize": ("tokens.safetensors", "curve.json", "attention.safetensors", "training.json"),
    "generate": ("pictures.parquet",),
}
SECONDS: Mapping[str, float] = {"detect": 0.5, "personalize": 30.0, "generate": 12.0}


def write_manifest(folder: Path, people: int) -> Path:
    """identities.csv of so many people, whose photos are a few bytes that differ."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "identities.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["identity_id", "photo", "class_word"])
        for number in range(people):
            (folder / f"{number:06}.png").write_bytes(b"photo of %d" % number)
            writer.writerow([f"person-{number:06}", f"{number:06}.png", "person"])
    return folder / "identities.csv"


def pretend_config(store: str, manifest: Path, **sections) -> NightlyConfig:
    """A configuration whose works are quickly planned."""
    data = {"store": store, "identities": str(manifest), "score": {"named_people": 1}}
    return parse_config(data | sections)


def made_up(work: Work) -> dict[str, Output]:
    """A few bytes for each output; as of a real stage, they are settled by the call."""
    names = _OUTPUTS.get(work.call.stage, ("scores.parquet",))
    return {name: Output(sha256_hex(f"{work.call.key} {name}".encode()).encode(), "x/y") for name in names}


def pretend_night(
    config: NightlyConfig,
    *,
    stages: tuple[str, ...] = STAGES,
    outputs_of: Callable[[Work], Mapping[str, Output]] = made_up,
    store_of: Callable[[ObjectStore], ObjectStore] = lambda store: store,
) -> Run:
    """Commit made-up results of everything that the configuration misses; the run is open no more.

    Args:
        config: of the run.
        stages: those that it reaches.
        outputs_of: makes the outputs of a piece of work.
        store_of: what is written to, in place of the run's own store.
    """
    run = open_run(config, LogReporter())
    run.store = store_of(run.store)
    try:
        for stage in stages:
            works = lookup_stage(run, stage)
            for work in works:
                if stage == "detect":
                    put_photo(run, run.subjects[work.subject])
                manifest = commit(run.store, work, outputs_of(work), run.run_id)
                run.adopt(run.subjects[work.subject], work.result, manifest)
    finally:
        run.release()
    return run


def commit(store: ObjectStore, work: Work, outputs: Mapping[str, Output], run_id: str) -> Manifest:
    """Commit a made-up result as a worker of a run would; the manifest that stands."""
    provenance = {
        "run_id": run_id,
        "seconds": SECONDS.get(work.call.stage, 0.25),
        "finished_at": dt.datetime.now(dt.UTC).isoformat(timespec="microseconds"),
        "device": "cpu",
    }
    return StageCache(store, work.scope).commit(work.call, outputs, provenance)
