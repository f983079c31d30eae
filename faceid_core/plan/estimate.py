"""The time that a planned run is expected to take: seconds of earlier results, by the size of the work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from threading import Lock
from typing import NamedTuple

from faceid_core.errors import DamagedRecord, ObjectMissing
from faceid_core.run.records import read_status, run_ids
from faceid_core.stages.planning.generate import SHARD
from faceid_core.stages.work import FLOOR_PREFIX, is_score
from faceid_core.store import Manifest, ObjectStore, StageCache
from faceid_core.store.layout import identity_scope

_SAMPLED_PEOPLE = 16
_ENOUGH, _FEW_RUNS = 5, 3  # results of each stage that so many runs are looked through for
_MOST_RUNS = 100  # looked through for stages whose results are not among this run's own
_SAMPLES = 200  # of each stage; more would not move the median


@dataclass(frozen=True)
class Estimate:
    """Expected time. Pictures that a changed grid can copy, and later results that turn out cached, save some of it.

    Attributes:
        seconds: stage -> seconds of one worker by the median of earlier results; a stage without any is absent.
        samples: stage -> earlier results behind the figure.
        unknown: stages with work to do and no earlier result to go by. While there are some, every sum is a lower bound.
        workers: how many share the work; 0 where the cluster decides.
        quick, slow: seconds of one worker by the lower and the upper quartile of each stage's earlier results.
        runs: the runs that computed these results, newest first.
    """

    seconds: Mapping[str, float]
    samples: Mapping[str, int]
    unknown: tuple[str, ...]
    workers: int
    quick: float = 0.0
    slow: float = 0.0
    runs: tuple[str, ...] = ()

    @property
    def worker_seconds(self) -> float:
        """Seconds of all workers together."""
        return sum(self.seconds.values())

    @property
    def wall_seconds(self) -> float:
        """Seconds from the first work to the last, if the workers are never idle; of one worker where none are named."""
        return self.worker_seconds / max(1, self.workers)


class PendingWork(NamedTuple):
    """Work to be estimated: its stage of STAGES, the stage's own name (score-METRIC), its size in `_size`'s units."""

    stage: str
    name: str
    size: float


class Pace:
    """Collects how long earlier results took, as their manifests say."""

    def __init__(self, store: ObjectStore, own_side: int):
        """`own_side` is the side in pixels of the base model's own pictures."""
        self._store, self._own_side, self._lock = store, own_side, Lock()
        self._seconds: dict[str, list[float]] = defaultdict(list)
        # Digest of a shard -> its number of pictures, which a score's manifest lacks.
        self._pictures: dict[str, int] = {}
        self._counted: set[tuple[str, str]] = set()  # stage key and time of the results
        self._runs: dict[str, dict[str, str]] = defaultdict(dict)  # stage -> run -> when it finished such a result

    def add(self, manifest: Manifest) -> None:
        """Take an earlier result into account; a score counts if the shard that it is of was added before it."""
        samples, seconds = self._seconds[manifest.stage], manifest.provenance.get("seconds", 0)
        if len(samples) >= _SAMPLES and manifest.stage != "generate":
            return
        try:
            size = self._size_of(manifest)
        except (TypeError, ValueError, AttributeError, ArithmeticError):
            return  # parameters that no stage of ours was called with
        finished = manifest.provenance.get("finished_at", "")
        result = (manifest.stage_key, finished)
        with self._lock:
            if size and seconds > 0 and len(samples) < _SAMPLES and result not in self._counted:
                self._counted.add(result)
                samples.append(seconds / size)
                self._runs[manifest.stage][manifest.provenance.get("run_id", "")] = finished

    def _size_of(self, manifest: Manifest) -> float | None:
        """The size of the work behind a result; None where its time says nothing about such work."""
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
        unknown = drawn is None and is_score(manifest.stage)
        return None if copied or unknown else _size(manifest.stage, parameters, drawn, self._own_side)

    def estimate(self, pending: Sequence[PendingWork], *, workers: int) -> Estimate:
        """Expected seconds of pending work.

        Args:
            pending: Misses, and what waits for them.
            workers: How many share it; 0 where the cluster decides.
        """
        wanted = {work.name for work in pending}
        self._sample_earlier_runs(wanted)
        seconds: dict[str, float] = defaultdict(float)
        quick = slow = 0.0
        samples = {name: len(self._seconds[name]) for name in sorted(wanted) if self._seconds.get(name)}
        unknown, quartiles = wanted - samples.keys(), {name: _quartiles(self._seconds[name]) for name in samples}
        for work in pending:
            if work.name in unknown:
                continue
            low, middle, high = quartiles[work.name]
            seconds[work.stage] += middle * work.size
            quick, slow = quick + low * work.size, slow + high * work.size
        runs = {run: day for name in samples for run, day in self._runs[name].items() if run}
        newest_first = tuple(sorted(runs, key=runs.__getitem__, reverse=True))
        return Estimate(dict(seconds), samples, tuple(sorted(unknown)), workers, quick, slow, newest_first)

    def _knows(self, wanted: Collection[str], results: int) -> bool:
        return all(len(self._seconds.get(name, ())) >= results for name in wanted)

    def _sample_earlier_runs(self, wanted: Collection[str]) -> None:
        """Add results of other identities, from the newest run back: several of each stage, or one from far back."""
        if self._knows(wanted, _ENOUGH):
            return
        for number, run_id in enumerate(reversed(run_ids(self._store)[-_MOST_RUNS:])):
            if self._knows(wanted, _ENOUGH if number < _FEW_RUNS else 1):
                return
            try:
                people = read_status(self._store, run_id)["people"]
            except (ObjectMissing, DamagedRecord):
                continue
            computed = [person for person in people if person.get("stage_keys")]
            lacking = {name for name in wanted if len(self._seconds.get(name, ())) < _ENOUGH}
            if any(is_score(name) for name in lacking):
                lacking.add("generate")  # a score's manifest does not say of how many pictures it is
            for person in computed[:_SAMPLED_PEOPLE]:
                cache = StageCache(self._store, identity_scope(person["identity_key"]))
                for result, key in person["stage_keys"].items():
                    if result.removeprefix(FLOOR_PREFIX) not in lacking:
                        continue
                    manifest = cache.read_manifest(result.removeprefix(FLOOR_PREFIX), key, read_only=True)
                    if manifest is not None:
                        self.add(manifest)


def _quartiles(found: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    low, _, high = quantiles(found, n=4, method="inclusive") if len(found) > 1 else (found[0],) * 3
    return low, median(found), high


def pending_work(stage: str, name: str, parameters: Mapping, pictures: int, own_side: int) -> PendingWork:
    """A piece of work with its size.

    Args:
        stage: The stage of STAGES that it belongs to.
        name: The stage's own name, score-METRIC for scores.
        parameters: Of its call.
        pictures: In a shard.
        own_side: Side in pixels of the base model's own pictures.
    """
    return PendingWork(stage, name, _size(name, parameters, pictures, own_side))


def _size(stage: str, parameters: Mapping, pictures: int | None, own_side: int) -> float:
    """How much work a call is, in units that its time grows with: training samples, sampler steps, pictures.

    A step of a picture of another size counts by its pixels, as a share of those of the base model's own.
    """
    if stage == "personalize":
        method = parameters.get("method", {})
        return float(method.get("steps") or 1) * float(method.get("samples_per_step") or 1)
    if stage == "generate":
        height, width = parameters.get("size") or (own_side, own_side)
        share = height * width / own_side**2
        return float(max(1, pictures or 1) * (parameters.get("steps") or 1)) * share
    if is_score(stage):
        return float(max(1, pictures or 1))
    return 1.0
