"""A worker: reads inputs from the store, runs a stage over a batch, commits what comes out."""

from __future__ import annotations

import datetime as dt
import logging
import platform
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from faceid_core.errors import DamagedInput, FaceidError
from faceid_core.log_lines import enter_stage
from faceid_core.progress import ProgressCallback, no_progress
from faceid_core.stages.executing import stage_function
from faceid_core.stages.executing.stage import (
    CHECKPOINT,
    EARLIER,
    Inputs,
    Outputs,
    StageCheckpoint,
    StageResult,
)
from faceid_core.stages.files import REJECTION, read_json
from faceid_core.stages.leases import WorkLeases
from faceid_core.stages.models import Models, WorkerSettings
from faceid_core.stages.name_prior import OUTPUT, prior_work
from faceid_core.stages.planning import spec_of
from faceid_core.stages.work import COMMON, Done, Reuse, Work
from faceid_core.store import IdentityErased, StageCache, open_store
from faceid_core.store.checkpoint import CheckpointStore
from faceid_core.weights.offline import refuse_downloads

log = logging.getLogger(__name__)

_PRIOR_ATTEMPTS = 2  # one more after a damaged copy


class PriorFailed(FaceidError):
    """The name prior, which every person of the run learns from, could not be made."""


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
        self.leases = WorkLeases(self.store, run_id)

    def execute(self, works: Sequence[Work], on_progress: ProgressCallback = no_progress) -> Iterator[Done]:
        """Run one stage over works of that same stage; yield one Done for each, also where it fails."""
        if self.settings.threads:
            import torch  # not at the top: without threads to set, a driver's process need not load it

            # OpenMP keeps this number per thread, and an actor computes in another thread than it was made in.
            torch.set_num_threads(self.settings.threads)
        left = list(works)
        enter_stage(left[0].call.stage if left else "")
        while left:
            mine, elsewhere, made = self.leases.begin(left)
            yield from made
            try:
                for done in self._execute(mine, on_progress) if mine else ():
                    self.leases.end(done.work)  # before a further attempt at it takes the lease again
                    yield done
            finally:
                for work in mine:
                    self.leases.end(work)
            yield from (Done(work, "elsewhere") for work in elsewhere if not work.patient)
            left = [work for work in elsewhere if work.patient]
            if left:
                for _ in self.leases.wait_for_one(left):
                    on_progress(left[0].subject, 0, 1)

    def _execute(self, works: Sequence[Work], on_progress: ProgressCallback) -> Iterator[Done]:
        stage = works[0].call.stage
        started = time.monotonic()
        ready, inputs, open_works = [], [], {work.subject + work.call.key: work for work in works}
        for work in works:
            blobs = self._inputs(work)
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
            for index, result, provenance in self._results(ready, inputs, on_progress):
                work = ready[index]
                if isinstance(result, StageCheckpoint):
                    self._keep_checkpoint(work, result)
                    continue
                own = provenance.pop("share_seconds", None)
                seconds = reading + (time.monotonic() - since if own is None else own)
                open_works.pop(work.subject + work.call.key)
                if isinstance(result, Exception):
                    self._clear_checkpoint(work)
                    yield failed(work, result, seconds)
                else:
                    yield self._commit(work, result, seconds, provenance)
                since = time.monotonic()
        except Exception as error:  # a stage that breaks takes only this batch with it
            if isinstance(error, FaceidError):
                log.error("stage %s: %s", stage, error)
            else:
                log.exception("stage %s broke", stage)
            for work in open_works.values():
                yield failed(work, error, reading + (time.monotonic() - since) / len(open_works))

    def _results(
        self, works: Sequence[Work], inputs: Sequence[Inputs], on_progress: ProgressCallback
    ) -> Iterator[StageResult]:
        stage = works[0].call.stage
        if stage == "personalize":
            self._load_prior(on_progress)
        return stage_function(stage)(works, inputs, self.models, on_progress)

    def _load_prior(self, on_progress: ProgressCallback) -> None:
        """Read the name prior for training, if the run has one; it is made first where the store does not hold it.

        Raises:
            PriorFailed: it could not be made.
        """
        call = self.settings.prior
        if call is None or self.models.prior is not None:
            return
        from faceid_core.personalize.name_prior import (
            NamePrior,  # torch, which stages before this one do without
        )

        cache = StageCache(self.store, COMMON)
        for _ in range(_PRIOR_ATTEMPTS):
            for done in self.execute([prior_work(call)], on_progress):
                if done.status != "done":
                    raise PriorFailed(f"the name prior could not be made: {done.message}")
            manifest = cache.read_manifest(call.stage, call.key)
            if manifest is None:
                continue
            try:
                self.models.prior = NamePrior.from_bytes(cache.read(manifest, OUTPUT))
                return
            except DamagedInput:
                cache.quarantine(manifest, "a worker found the name prior damaged")
        raise PriorFailed("the name prior was made and cannot be read; check the store with faceid verify")

    def _inputs(self, work: Work) -> dict[str, bytes] | Done:
        """The work's input blobs by name, checked; a damaged one ends the work and names its producer."""
        spec, blobs = spec_of(work.call.stage), {}
        for name, source in work.sources.items():
            try:
                blobs[name] = StageCache(self.store, source.scope).read_blob(
                    source.digest, stage=source.stage, stage_key=source.stage_key
                )
            except DamagedInput as damage:
                return Done(work, "damaged", reason="damaged_input", message=str(damage), damaged=source)
            except FaceidError as error:
                return failed(work, error, 0.0)
        if spec.keeps_checkpoints:
            entry = self._checkpoint(work).read(work.call, own=work.replace)
            if entry is not None:
                blobs[CHECKPOINT] = entry
        if spec.reuse is not None and not work.replace:
            blobs |= self._earlier(spec.reuse, work)
        return blobs

    def _earlier(self, reuse: Reuse, work: Work) -> dict[str, bytes]:
        """Outputs of earlier results that save a part of the work; an unreadable one saves nothing."""
        cache, blobs = StageCache(self.store, work.scope), {}
        try:
            for number, manifest in enumerate(cache.manifests(work.call.stage)):
                if reuse.applies(manifest.content["preimage"], work.call):
                    with suppress(DamagedInput, KeyError):
                        blobs[f"{EARLIER}{number}"] = cache.read(manifest, reuse.output)
        except FaceidError as error:
            log.warning("%s: earlier results of stage %s: %s", work.subject, work.call.stage, error)
        return blobs

    def _checkpoint(self, work: Work) -> CheckpointStore:
        return CheckpointStore(self.store, work.scope, self.run_id)

    def _keep_checkpoint(self, work: Work, checkpoint: StageCheckpoint) -> None:
        """Store how far a work has come; a store that fails here is logged, and the work goes on."""
        try:
            self._checkpoint(work).write(work.call, checkpoint.data)
        except FaceidError as error:
            log.warning("%s: no checkpoint of stage %s: %s", work.subject, work.call.stage, error)

    def _clear_checkpoint(self, work: Work) -> None:
        if spec_of(work.call.stage).keeps_checkpoints:
            self._checkpoint(work).clear(work.call)

    def _commit(self, work: Work, outputs: Outputs, seconds: float, provenance: Mapping[str, Any]) -> Done:
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
        self._clear_checkpoint(work)
        if REJECTION in manifest.outputs:
            return rejected(work, read_json(outputs[REJECTION].data), seconds)
        return Done(work, "done", seconds=seconds)


def rejected(work: Work, record: Mapping[str, Any], seconds: float = 0.0) -> Done:
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


@cache  # each reads a file of the installation, and every result asks
def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "diffusers", "transformers")}
