"""A publication alone, in a process of its own: `python -m tests.benchmarks.scale_publication CONFIG 2` prints JSON.

Two runs are opened, looked up and published as ever: the second one finds every row in the tables already. Nothing is
computed, and people's own pages are not made, because they are made of pictures: what stands in their place is the record
of them that the index and the gallery are made from.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

from rich.console import Console

from faceid_core.config import load_config
from faceid_core.publish import pages
from faceid_core.publish import publish as publication
from faceid_core.publish.run_summary import identity_rows
from faceid_core.run.lookup import lookup_stage
from faceid_core.run.open import open_run
from faceid_core.run.records import INDEX, PAGES, STATUS, replace_object, write_status
from faceid_core.run.reporter import LogReporter
from faceid_core.run.state import Run
from faceid_core.stages import STAGES
from faceid_core.store.keys import canonical_json, sha256_hex
from faceid_core.store.layout import run_object
from flows.console import final_table

from .child import peak_bytes, store_requests


class Meter:
    """What the phases of a process take: wall-clock and processor seconds, requests, and the most memory by their end."""

    def __init__(self) -> None:
        self.phases: dict[str, dict[str, float]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a block."""
        wall, processor, requests = time.monotonic(), time.process_time(), store_requests()
        try:
            yield
        finally:
            self.phases[name] = {
                "seconds": time.monotonic() - wall,
                "processor_seconds": time.process_time() - processor,
                "requests": store_requests() - requests,
                "mebibytes": (peak_bytes() or 0) / 2**20,
            }

    def around(self, owner: object, attribute: str, name: Callable[[], str]) -> None:
        """Measure every call of a function as a phase."""
        original: Callable[..., Any] = getattr(owner, attribute)

        def measured(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name()):
                return original(*args, **kwargs)

        setattr(owner, attribute, measured)


def publish(config_file: Path, runs: int) -> dict[str, Any]:
    """Publish one run or two of the same people, and what each phase of them took."""
    config, meter, which = load_config(config_file), Meter(), ""
    publication.write_pages = write_records_of_pages
    for name in ("collect_scores", "outcome_tables", "write_pages", "judge"):
        meter.around(publication, name, lambda name=name: f"{which}: {name}")
    meter.around(publication.Tables, "publish", lambda: f"{which}: tables")
    sizes = {}
    for which in ("first", "second")[:runs]:
        with meter.phase(f"{which}: opening"):
            run = open_run(config, LogReporter())
        try:
            with meter.phase(f"{which}: lookup"):
                missing = [work for stage in STAGES for work in lookup_stage(run, stage)]
            assert not missing, f"{len(missing)} results are missing, such as {missing[0].call.stage}"
            run.finish()
            with meter.phase(f"{which}: publication"):
                published = publication.publish(run)
            assert published.exit_status == 0, published.sentence
            with meter.phase(f"{which}: status"):
                write_status(run, "complete")
            with meter.phase(f"{which}: table of the terminal"), Path(os.devnull).open("w") as nowhere:
                Console(file=nowhere).print(final_table(identity_rows(run, published, attrgetter("identity_id"))))
        finally:
            run.release()
        sizes = {
            name: len(run.store.get(run_object(run.run_id, name))) for name in (INDEX, STATUS, "gallery.html")
        }
    return {"phases": meter.phases, "bytes": sizes, "run": run.run_id}


def write_records_of_pages(run: Run, found: Any, summary: list[dict], _last_run: str | None) -> str:
    """In the place of `write_pages`: the record of people's pages and what is made from it, without the pages."""
    names = {
        subject.name: f"{subject.scope}/reports/{sha256_hex(subject.name.encode())[:32]}.html"
        for subject, _ in found
        if subject.kind == "person"
    }
    replace_object(run.store, run_object(run.run_id, PAGES), canonical_json(names))
    pages._write_gallery(run, names)
    return pages.write_index(run, found, summary)


if __name__ == "__main__":
    print(json.dumps(publish(Path(sys.argv[1]), int(sys.argv[2]))))
