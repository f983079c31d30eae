"""A worker: reads inputs from the store, runs a stage over a batch, commits what comes out."""

from __future__ import annotations

import datetime as dt
import logging
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from faceid_core.errors import DamagedInput, FaceidError
from faceid_core.stages import stage_named
from faceid_core.stages.files import REJECTION, read_json
from faceid_core.stages.models import Models, WorkerSettings
from faceid_core.stages.sharing import SharedWork
from faceid_core.stages.work import JOURNAL, Done, Entry, Work
from faceid_core.store import IdentityErased, StageCache, open_store
from faceid_core.store.journal import WorkJournal
from faceid_core.weights.offline import refuse_downloads

log = logging.getLogger(__name__)

Tick = Callable[[str, int, int], None]


def silent(subject: str, done: int, total: int) -> None:
    """A progress callback for callers who want none."""


class Worker:
    """Runs stages for an executor; one per process, models loaded once.

    Args:
        settings: Store, models and batch sizes.
        run_id: Goes into the provenance of every manifest.
    """

    def __init__(self, settings: WorkerSettings, run_id: str):
        refuse_downloads()
        self.settings, self.run_id = settings, run_id
        self.store = open_store(settings.store, settings.s3)
        self.models = Models(settings)
        self.shared = SharedWork(self.store, run_id)

    def execute(self, works: Sequence[Work], tick: Tick = silent) -> Iterator[Done]:
        """Run one stage over works of that same stage; yield one Done for each, whatever happens to it."""
        if self.settings.threads:
            import torch

            # OpenMP keeps this number per thread, and an actor computes in another thread than it was made in.
            torch.set_num_threads(self.settings.threads)
        left = list(works)
        while left:
            mine, elsewhere, made = self.shared.begin(left)
            yield from made
            try:
                for done in self._execute(mine, tick) if mine else ():
                    self.shared.end(done.work)  # before a further attempt at it takes the lease again
                    yield done
            finally:
                for work in mine:
                    self.shared.end(work)
            yield from (Done(work, "elsewhere") for work in elsewhere if not work.patient)
            left = [work for work in elsewhere if work.patient]
            if left:
                for _ in self.shared.wait_for_one(left):
                    tick(left[0].subject, 0, 1)

    def _execute(self, works: Sequence[Work], tick: Tick) -> Iterator[Done]:
        stage = stage_named(works[0].call.stage)
        started = time.monotonic()
        ready, inputs, open_works = [], [], {work.subject + work.call.key: work for work in works}
        for work in works:
            blobs = self._inputs(stage, work)
            if isinstance(blobs, Done):
                open_works.pop(work.subject + work.call.key)
                yield blobs
            else:
                ready.append(work)
                inputs.append(blobs)
        if not ready:
            return
        reading, since = (time.monotonic() - started) / len(ready), time.monotonic()
        try:
            for index, outputs, provenance in stage.execute(ready, inputs, self.models, tick):
                work = ready[index]
                if isinstance(outputs, Entry):
                    self._note(work, outputs)
                    continue
                own = provenance.pop("share_seconds", None)
                seconds = reading + (time.monotonic() - since if own is None else own)
                open_works.pop(work.subject + work.call.key)
                if isinstance(outputs, Exception):
                    self._clear_journal(work)
                    yield failed(work, outputs, seconds)
                else:
                    yield self._commit(work, outputs, seconds, provenance)
                since = time.monotonic()
        except Exception as error:  # a stage that breaks takes only this batch with it
            if isinstance(error, FaceidError):
                log.error("stage %s: %s", stage.name, error)
            else:
                log.exception("stage %s broke", stage.name)
            for work in open_works.values():
                yield failed(work, error, reading + (time.monotonic() - since) / len(open_works))

    def _inputs(self, stage, work: Work) -> dict[str, bytes] | Done:
        """The work's input blobs by name, checked; a damaged one ends the work and names its producer."""
        blobs: dict[str, bytes] = {}
        for name, source in work.sources.items():
            try:
                blobs[name] = StageCache(self.store, source.scope).read_blob(
                    source.digest, stage=source.stage, stage_key=source.stage_key
                )
            except DamagedInput as damage:
                return Done(work, "damaged", reason="damaged_input", message=str(damage), damaged=source)
            except FaceidError as error:
                return failed(work, error, 0.0)
        if getattr(stage, "keeps_journal", False):
            entry = self._journal(work).read(work.call, own=work.replace)
            if entry is not None:
                blobs[JOURNAL] = entry
        if getattr(stage, "reuses", None) and not work.replace:
            blobs |= self._earlier(stage, work)
        return blobs

    def _earlier(self, stage, work: Work) -> dict[str, bytes]:
        """Earlier results that save a part of the work; without those that cannot be read it only takes longer."""
        cache, blobs = StageCache(self.store, work.scope), {}
        try:
            for number, manifest in enumerate(cache.manifests(work.call.stage)):
                if stage.may_reuse(manifest.content["preimage"], work.call):
                    with suppress(DamagedInput, KeyError):
                        blobs[f"earlier:{number}"] = cache.read(manifest, stage.reuses)
        except FaceidError as error:
            log.warning("%s: earlier results of stage %s: %s", work.subject, work.call.stage, error)
        return blobs

    def _journal(self, work: Work) -> WorkJournal:
        return WorkJournal(self.store, work.scope, self.run_id)

    def _note(self, work: Work, entry: Entry) -> None:
        """Keep how far a work has come; one that cannot be kept is logged, for the work itself goes on."""
        try:
            self._journal(work).write(work.call, entry.data)
        except FaceidError as error:
            log.warning("%s: no journal entry of stage %s: %s", work.subject, work.call.stage, error)

    def _clear_journal(self, work: Work) -> None:
        if getattr(stage_named(work.call.stage), "keeps_journal", False):
            self._journal(work).clear(work.call)

    def _commit(self, work: Work, outputs, seconds: float, provenance: dict) -> Done:
        provenance = {
            "run_id": self.run_id,
            "seconds": round(seconds, 3),
            "finished_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "host": platform.node(),
            # Only the base model goes to the accelerator; faces and scorers compute on the CPU.
            "device": self.models.device if "base" in work.call.weights else "cpu",
            "slots": self.settings.slots,
            "batch": self.settings.batch,
            "threads": self.settings.threads,
            **provenance,
            **_versions(),
        }
        try:
            manifest = StageCache(self.store, work.scope).commit(
                work.call, outputs, provenance, replace=work.replace
            )
        except IdentityErased as error:
            return Done(work, "refused", reason="erased", message=str(error), seconds=seconds)
        except FaceidError as error:
            return failed(work, error, seconds)
        self._clear_journal(work)
        if REJECTION in manifest.outputs:
            return rejected(work, read_json(outputs[REJECTION].data), seconds)
        return Done(work, "done", seconds=seconds)


def rejected(work: Work, record: dict, seconds: float = 0.0) -> Done:
    """A rejection record as a Done."""
    return Done(
        work,
        "rejected",
        reason=record["reason"],
        message=record["sentence"],
        value=record["value"],
        threshold=record["threshold"],
        seconds=seconds,
    )


def failed(work: Work, error: Exception, seconds: float) -> Done:
    """An exception as a Done that names subject, stage and what to do."""
    reason = type(error).__name__
    message = str(error) or reason
    if not isinstance(error, FaceidError) and error.__traceback__ is not None:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{reason}: {message} (in {Path(frame.filename).name}, line {frame.lineno}, {frame.name})"
    return Done(work, "failed", reason=reason, message=message, seconds=seconds)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "diffusers", "transformers")}
