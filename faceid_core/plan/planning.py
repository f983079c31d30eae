"""What a run would do: what is cached, what it would compute and why, and for how long.

A plan is a dry run with an observer. It reads the store and the photos; it writes nothing to the store, loads no model
and makes no secret.
"""

from __future__ import annotations

import gc
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock

from faceid_core.config import NightlyConfig
from faceid_core.config.presets import WITHOUT_NAMES
from faceid_core.plan.cache_miss import FORCED, CacheMiss, earlier_results, explain_cache_miss
from faceid_core.plan.estimate import Estimate, Pace, PendingWork, pending_work
from faceid_core.run.lookup import StageLookup, dry_run
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter, Reporter
from faceid_core.run.state import Run
from faceid_core.stages import STAGES
from faceid_core.stages.plan import Plan
from faceid_core.stages.work import COMMON, FLOOR_PREFIX, Subject, Work, metric_result
from faceid_core.store import Manifest, StageCache
from faceid_core.store.keys import StageCall


@dataclass
class StagePlan:
    """One stage of a planned run.

    Attributes:
        cached: results that are there. misses: what is known to be computed.
        waiting: results, by subject, that wait for an earlier stage; how many of them are cached is not known yet.
    """

    stage: str
    cached: int = 0
    misses: list[CacheMiss] = field(default_factory=list)
    waiting: Counter = field(default_factory=Counter)

    def reasons(self) -> list[tuple[str, int]]:
        """Why the misses are misses, the most frequent first."""
        return Counter(miss.why for miss in self.misses).most_common()


@dataclass
class RunPlan:
    """A planned run: the dry run behind it, the stages in order, and what the work is expected to take.

    Attributes:
        prior: the call that makes the name prior first; None where that is not needed.
    """

    run: Run
    stages: list[StagePlan]
    estimate: Estimate
    prior: StageCall | None = None

    def looked_for(self, subject: str) -> str:
        """The addresses of an identity's photo and mask, for the screen of the machine that has the manifest."""
        person = self.run.identities[subject]
        return " and ".join(address for address in (person.photo, person.subject_mask) if address)

    def about_prior(self) -> str | None:
        """What the run does about the name prior of a preset that has one; None for the others, and where it is made."""
        plan, chosen = self.run.plan, self.run.config.personalize
        if plan.prior is None:
            if chosen.preset not in WITHOUT_NAMES:
                return None
            return (
                f"preset {chosen.preset} learns vectors, without a name prior: personalize.names_file names no file of "
                "names that the base model knows"
            )
        if self.prior is None:
            return None
        names, portraits = len(self.prior.parameters["names"]), self.prior.parameters["portraits"]
        seconds = self.estimate.seconds.get("prior")
        lasts = "" if seconds is None else f", about {seconds:.0f} s of drawing"
        return (
            f"the name prior is made before the first identity is learned: {names} names x {portraits} portraits to "
            f"draw, once for this store{lasts}"
        )

    def why_of(self, subject: str) -> tuple[str, str] | None:
        """The first stage that a subject would compute, and why; None if everything is cached."""
        return self._first_misses.get(subject)

    @cached_property
    def _first_misses(self) -> dict[str, tuple[str, str]]:
        misses = [miss for stage in self.stages for miss in stage.misses]
        return {miss.subject: (miss.work.call.stage, miss.why) for miss in reversed(misses)}


def plan_run(config: NightlyConfig, reporter: Reporter | None = None) -> RunPlan:
    """Plan a run as it would start now.

    Args:
        config: The parsed configuration.
        reporter: Hears of each stage that was looked up; None writes that to the log.

    Raises:
        ConfigurationError: the run could not start.
        SecretMismatch: the store was made with another secret.
        StoreError: the store cannot be read.
    """
    run = open_run(config, reporter or LogReporter(), dry_run=True)
    observer = _PlanObserver(run)
    with _garbage_collector_off():
        stages = [observer.stage_plan(found) for found in dry_run(run, observer)]
    pending = [work for stage in stages for work in _pending(stage, run.plan, run.subjects)]
    prior, side = _prior_to_make(run, stages), run.plan.base.resolution
    if prior is not None:
        asked = prior.parameters
        portraits = len(asked["names"]) * asked["portraits"]
        # Drawn as the pictures of the grid are: the pace of these counts.
        pending.append(pending_work("prior", "generate", {"steps": asked["steps"]}, portraits, side))
    return RunPlan(run, stages, observer.pace.estimate(pending, workers=config.execution.workers), prior)


def _prior_to_make(run: Run, stages: list[StagePlan]) -> StageCall | None:
    """The call that makes the run's name prior; None where the store holds it, or no identity is to be learned."""
    prior = run.plan.prior
    if prior is None or not any(row.misses or row.waiting for row in stages if row.stage == "personalize"):
        return None
    made = StageCache(run.store, COMMON).read_manifest(prior.stage, prior.key, read_only=True)
    return prior if made is None else None


@contextmanager
def _garbage_collector_off() -> Generator[None]:
    """Disable the garbage collector.

    Planning allocates millions of small acyclic objects, and collection would double its time.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class _PlanObserver:
    """Records the hits and misses of a dry run, the reasons of the misses, and how long earlier results took."""

    def __init__(self, run: Run):
        self.pace = Pace(run.store, run.plan.base.resolution)
        self._run, self._lock = run, Lock()
        self._hits = 0
        self._misses: dict[tuple[str, str], CacheMiss] = {}

    def hit(self, subject: Subject, work: Work, manifest: Manifest) -> None:
        """See LookupObserver."""
        with self._lock:
            self._hits += 1
        self.pace.add(manifest)

    def miss(self, subject: Subject, work: Work) -> None:
        """See LookupObserver."""
        if work.replace:
            missed = CacheMiss(subject.name, work, FORCED)
        else:
            cache = StageCache(self._run.store, work.scope)
            earlier = earlier_results(cache, work.call.stage)
            for manifest in earlier:
                self.pace.add(manifest)
            missed = explain_cache_miss(cache, work, earlier)
        self._misses[subject.name, work.result] = missed

    def stage_plan(self, found: StageLookup) -> StagePlan:
        """What was recorded since the stage before, as the plan of this one."""
        misses = [self._misses[work.subject, work.result] for work in found.misses]
        planned = StagePlan(found.stage, self._hits, misses)
        self._hits = 0
        for subject in found.waiting:
            planned.waiting[subject.name] += len(expected_results(self._run.plan, subject, found.stage))
        if found.stage == STAGES[-1]:
            self._add_floors(planned, {subject.name for subject in found.waiting})
        planned.waiting += Counter()  # drops the zeros
        return planned

    def _add_floors(self, planned: StagePlan, waiting: set[str]) -> None:
        """An identity whose own pictures exist waits for its floors where those of its class word do not."""
        missed: dict[str, set[str]] = defaultdict(set)
        for miss in planned.misses:
            missed[miss.subject].add(miss.work.result)
        plan = self._run.plan
        for subject in self._run.active_subjects():
            if subject.kind != "person" or subject.name in waiting or subject.class_word in plan.floors:
                continue
            wanted = set(expected_results(plan, subject, planned.stage)) - set(subject.manifests)
            planned.waiting[subject.name] += len(wanted - missed[subject.name])


def _pending(planned: StagePlan, plan: Plan, subjects: Mapping[str, Subject]) -> Iterator[PendingWork]:
    """Everything that a stage has to do: its misses, and the results that wait for an earlier stage."""
    pictures, side = len(plan.grid.prompts) * plan.config.generate.seeds, plan.base.resolution
    for miss in planned.misses:
        yield pending_work(planned.stage, miss.work.call.stage, miss.work.call.parameters, pictures, side)
    parameters = {
        "steps": plan.config.generate.steps,
        "size": plan.config.generate.size(side),
        "method": plan.method.model_dump(mode="json") if planned.stage == "personalize" else {},
    }
    for name, count in planned.waiting.items():
        for result in expected_results(plan, subjects[name], planned.stage)[-count:]:
            yield pending_work(planned.stage, result.removeprefix(FLOOR_PREFIX), parameters, pictures, side)


def expected_results(plan: Plan, subject: Subject, stage: str) -> list[str]:
    """The names of the results that a stage brings a subject once its inputs are there."""
    if stage == "score":
        from faceid_core.evaluate.metrics import METRICS  # loads OpenCV

        own = [m for m in plan.config.score.metrics if subject.photo_digest or not METRICS[m].needs_reference]
        floors = [m for m in own if subject.kind == "person" and METRICS[m].needs_reference]
        return [metric_result(metric) for metric in own] + [metric_result(metric, floor=True) for metric in floors]
    if stage == "detect":
        return [stage] if subject.photo_digest else []
    return [stage] if stage == "generate" or subject.kind == "person" else []
