"""A store as a run leaves it, without a model: every stage's works are planned as ever and get made-up outputs."""

from __future__ import annotations

import csv
import datetime as dt
from collections.abc import Mapping
from pathlib import Path

from faceid_core.config import NightlyConfig, parse_config
from faceid_core.run.execute import put_photo
from faceid_core.run.lookup import lookup_stage
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter
from faceid_core.run.state import Run
from faceid_core.stages import STAGES, Work
from faceid_core.store import Output, StageCache
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


def pretend_night(config: NightlyConfig, *, stages: tuple[str, ...] = STAGES) -> Run:
    """Commit made-up results of everything that the configuration misses; the run is open no more."""
    run = open_run(config, LogReporter())
    try:
        for stage in stages:
            works = lookup_stage(run, stage)
            for work in works:
                if stage == "detect":
                    put_photo(run, run.subjects[work.subject])
                _commit(run, work)
    finally:
        run.release()
    return run


def _commit(run: Run, work: Work) -> None:
    call = work.call
    names = _OUTPUTS.get(call.stage, ("scores.parquet",))
    # As of a real stage, the outputs are settled by the call.
    outputs = {name: Output(sha256_hex(f"{call.key} {name}".encode()).encode(), "x/y") for name in names}
    provenance = {
        "run_id": run.run_id,
        "seconds": SECONDS.get(call.stage, 0.25),
        "finished_at": dt.datetime.now(dt.UTC).isoformat(timespec="microseconds"),
        "device": "cpu",
    }
    manifest = StageCache(run.store, work.scope).commit(call, outputs, provenance)
    run.adopt(run.subjects[work.subject], work.result, manifest)
