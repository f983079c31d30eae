"""A run's own records in the store: its request, its status with every outcome report, and its pages."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

from faceid_core import __version__
from faceid_core.config import NightlyConfig
from faceid_core.errors import DamagedRecord, ObjectMissing
from faceid_core.evaluate.grid import STANDARD_GRIDS
from faceid_core.outcomes import tally
from faceid_core.run.state import Run
from faceid_core.store import ObjectStore
from faceid_core.store.keys import canonical_json, sha256_hex
from faceid_core.store.layout import is_run_id, run_object
from faceid_core.store.records import PagesRecord, RequestRecord, StatusRecord, read_record

REQUEST, STATUS, INDEX, PAGES = "request.json", "status.json", "index.html", "pages.json"
_THREADS = 16  # that read requests at once
_ANOTHER_RUN = "name another run, or run again"


def new_run_id(config: NightlyConfig, run_date: dt.date, suffix: str | None = None) -> str:
    """A run's id: date, name and eight hex digits; a flow run passes its own, so that its retries share it."""
    return f"{run_date:%Y%m%d}-{config.name}-{suffix or uuid.uuid4().hex[:8]}"


def run_title(run: Run) -> str:
    """What a run is called where people look at runs: name, date, base model and number of people."""
    base = PurePosixPath(run.config.base_model.source).name.lower()
    base = re.sub(r"[^a-z0-9]+", "-", base).strip("-") or "model"
    return f"{run.config.name}-{run.run_date:%Y-%m-%d}-{base}-{len(run.outcome_reports)}"


def config_digest(run: Run) -> str:
    """sha256 over what decides results; a grid of one's own counts by its prompts, not by its file's name."""
    digest = run.config.digest()
    if run.config.generate.grid in STANDARD_GRIDS:
        return digest
    return sha256_hex(canonical_json([digest, run.plan.grid.digest]))


def manifest_digest(run: Run) -> str:
    """sha256 over the identities that are asked for and their photos."""
    asked = [[key, run.subjects[key].photo_digest] for key in run.outcome_reports]
    return sha256_hex(canonical_json(sorted(asked, key=str)))


def write_request(run: Run) -> None:
    """Record what was asked, once per run; ids that were typed stand here as keys, as everywhere outside tables."""
    config = run.config.model_dump(mode="json")
    config["run"]["only"] = [run.secret.identity_key(each) for each in run.config.run.only]
    request = {
        "run_id": run.run_id,
        "run_date": run.run_date.isoformat(),
        "started_at": run.started_at.isoformat(),
        "faceid_version": __version__,
        "config": config,
        "config_digest": config_digest(run),
        "weights": dict(run.plan.weights),
        "identities": sorted(run.outcome_reports),
    }
    run.store.put_if_absent(run_object(run.run_id, REQUEST), canonical_json(request))


def write_status(run: Run, state: str, **more: Any) -> None:
    """Record how far the run is, with every outcome report; replaced after every stage.

    Identity keys stand here, not ids: this object belongs to no person's prefix.
    """
    people = []
    for outcome_report in run.outcome_reports.values():
        # Not asdict, which would copy every report deeply after every stage.
        row = vars(outcome_report) | {"message": outcome_report.sentence}
        del row["identity_id"]
        people.append(row)
    record = {
        "run_id": run.run_id,
        "state": state,
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "outcomes": tally(run.outcome_reports.values()),
        "computed": dict(run.computed),
        "common_failures": run.failures_common,
        "people": people,
        **more,
    }
    replace_object(run.store, run_object(run.run_id, STATUS), canonical_json(record))


def replace_object(store: ObjectStore, name: str, data: bytes) -> None:
    """Put an object whether or not it is there; for records that only one run writes."""
    try:
        etag = store.get_with_etag(name)[1]
    except ObjectMissing:
        etag = None
    store.replace_if_match(name, data, etag)


def read_request(store: ObjectStore, run_id: str) -> dict:
    """What was asked of a run.

    Raises:
        ConfigurationError: no run can have this id.
        ObjectMissing: there is no such run.
        DamagedRecord: its record is something else.
    """
    return read_record(store, run_object(run_id, REQUEST), RequestRecord, _ANOTHER_RUN).as_dict()


def read_status(store: ObjectStore, run_id: str) -> dict:
    """A run's status, with the outcome of every identity.

    Raises:
        ConfigurationError: no run can have this id.
        ObjectMissing: there is no such run, or it ended before it recorded a status.
        DamagedRecord: its record is something else.
    """
    return read_record(store, run_object(run_id, STATUS), StatusRecord, _ANOTHER_RUN).as_dict()


def read_pages(store: ObjectStore, run_id: str) -> dict[str, str]:
    """Identity key -> page, as a run recorded them. Raises as `read_status` does."""
    return dict(read_record(store, run_object(run_id, PAGES), PagesRecord, _ANOTHER_RUN).root)


def run_ids(store: ObjectStore) -> list[str]:
    """All runs of the store, by when they started, oldest first.

    The time at which a request was written is no measure: a store that was copied or restored has new ones.
    """
    asked = {}
    for info in store.list("runs/"):
        _, run_id, name = (*info.name.split("/", 2), "")[:3]
        if name == REQUEST and is_run_id(run_id):
            asked[run_id] = info.modified

    def started(run_id: str) -> tuple[float, str]:
        try:
            request = read_request(store, run_id)
            return dt.datetime.fromisoformat(request["started_at"]).timestamp(), run_id
        except (DamagedRecord, ObjectMissing, ValueError):  # what is damaged is told where it is read
            return asked[run_id], run_id

    with ThreadPoolExecutor(_THREADS) as threads:
        return [run_id for _, run_id in sorted(threads.map(started, asked))]
