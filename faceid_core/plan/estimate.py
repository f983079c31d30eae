"""What a planned run is expected to take: seconds of earlier results, by the size of the work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from threading import Lock
from typing import TYPE_CHECKING, Any

from faceid_core.errors import DamagedRecord, ObjectMissing
from faceid_core.run.runs import read_accounts, run_ids
from faceid_core.stages.planning.generate import SHARD
from faceid_core.store import Manifest, ObjectStore, StageCache
from faceid_core.store.layout import identity_scope

if TYPE_CHECKING:
    from faceid_core.plan.planning import StagePlan
    from faceid_core.stages.plan import Plan
    from faceid_core.stages.work import Subject

_SAMPLED_PEOPLE = 16
_SAMPLES = 200  # of each stage; more would not move the median


@dataclass(frozen=True)
class Estimate:
    """Expected time, at most: pictures that a changed grid can copy, and later results that turn out cached, save some.

    Attributes:
        seconds: stage -> seconds of one worker; a stage that never ran in this store is absent.
        samples: stage -> earlier results behind the figure.
        unknown: stages with work to do and no earlier result to go by.
        workers: how many share the work; 0 where the cluster decides.
    """

    seconds: Mapping[str, float]
    samples: Mapping[str, int]
    unknown: tuple[str, ...]
    workers: int

    @property
    def worker_seconds(self) -> float:
        """Seconds of all workers together."""
        return sum(self.seconds.values())

    @property
    def wall_seconds(self) -> float:
        """Seconds from the first work to the last, if the workers are never idle; of one worker where none are named."""
        return self.worker_seconds / max(1, self.workers)


class Pace:
    """Collects how long earlier results took, as their manifests say."""

    def __init__(self, store: ObjectStore | None):
        self._store, self._lock = store, Lock()
        self._seconds: dict[str, list[float]] = defaultdict(list)
        # Digest of a shard -> its pictures; a score's manifest does not tell them.
        self._pictures: dict[str, int] = {}

    def add(self, manifest: Manifest) -> None:
        """Take an earlier result into account; a score counts if the shard that it is of was added before it."""
        samples, seconds = self._seconds[manifest.stage], manifest.provenance.get("seconds", 0)
        if len(samples) >= _SAMPLES and manifest.stage != "generate":
            return
        try:
            size = self._size_of(manifest)
        except (TypeError, ValueError, AttributeError, ArithmeticError):
            return  # parameters that no stage of ours was called with
        if size and seconds > 0 and len(samples) < _SAMPLES:
            with self._lock:
                samples.append(seconds / size)

    def _size_of(self, manifest: Manifest) -> float | None:
        """How much work a result was; None where it tells nothing of the time that such work takes."""
        preimage = manifest.content["preimage"]
        parameters = preimage["parameters"]
        if manifest.stage == "generate":
            drawn = whole = len(parameters.get("prompts", ())) * parameters.get("seeds", 1)
            drawn = manifest.provenance.get("pictures_drawn", drawn)
            if SHARD in manifest.outputs:
                self._pictures[manifest.outputs[SHARD].digest] = whole
        else:
            drawn = self._pictures.get(preimage["inputs"].get("pictures", ""))
        copied = drawn == 0  # a shard put together from earlier pictures
        unknown = drawn is None and manifest.stage.startswith("score-")
        return None if copied or unknown else _size(manifest.stage, parameters, drawn)

    def estimate(
        self, stages: Sequence[StagePlan], plan: Plan, subjects: Mapping[str, Subject], *, workers: int
    ) -> Estimate:
        """Expected seconds of the misses, and of what waits for them."""
        todo = [(row.stage, name, size) for row in stages for name, size in _works(row, plan, subjects)]
        wanted = {name for _, name, _ in todo}
        if self._store is not None and not self._knows(wanted):
            self._sample_last_runs(self._store, wanted)
        seconds: dict[str, float] = defaultdict(float)
        unknown, samples = set(), {}
        for stage, name, size in todo:
            found = self._seconds.get(name)
            if not found:
                unknown.add(name)
                continue
            samples[name] = len(found)
            seconds[stage] += median(found) * size
        return Estimate(dict(seconds), samples, tuple(sorted(unknown)), workers)

    def _knows(self, wanted: Collection[str]) -> bool:
        return all(self._seconds.get(name) for name in wanted)

    def _sample_last_runs(self, store: ObjectStore, wanted: Collection[str]) -> None:
        """Other people's results, where those who are planned have none yet; a stopped run has not all either."""
        for run_id in reversed(run_ids(store)[-3:]):
            if self._knows(wanted):
                return
            try:
                people = read_accounts(store, run_id)["people"]
            except (ObjectMissing, DamagedRecord):
                continue
            computed = [person for person in people if person.get("stage_keys")]
            for person in computed[:_SAMPLED_PEOPLE]:
                cache = StageCache(store, identity_scope(person["identity_key"]))
                for result, key in person["stage_keys"].items():
                    manifest = cache.peek(result.removeprefix("floor_"), key)
                    if manifest is not None:
                        self.add(manifest)


def _works(row: StagePlan, plan: Plan, subjects: Mapping[str, Subject]):
    """(stage name, size) of everything that a stage has to do, misses first, then what waits."""
    from faceid_core.plan.planning import expected_results

    config = plan.config
    pictures = len(plan.grid.prompts) * config.generate.seeds
    for miss in row.misses:
        yield miss.work.call.stage, _size(miss.work.call.stage, miss.work.call.parameters, pictures)
    parameters: dict[str, Any] = {
        "steps": config.generate.steps,
        "method": plan.method.model_dump(mode="json") if row.stage == "personalize" else {},
    }
    for subject, count in row.waiting.items():
        names = expected_results(plan, subjects[subject], row.stage)
        for name in names[-count:]:
            stage = name.removeprefix("floor_")
            yield stage, _size(stage, parameters, pictures)


def _size(stage: str, parameters: Mapping, pictures: int | None) -> float:
    """How much work a call is, in units that its time grows with: training samples, sampler steps, pictures."""
    if stage == "personalize":
        method = parameters.get("method", {})
        return float(method.get("steps") or 1) * float(method.get("samples_per_step") or 1)
    if stage == "generate":
        return float(max(1, pictures or 1) * (parameters.get("steps") or 1))
    if stage.startswith("score-"):
        return float(max(1, pictures or 1))
    return 1.0
