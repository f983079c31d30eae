"""What a run would do, before anything runs: what is cached, what is to be computed and why, for how long.

Reads the store and the photos; writes nothing, loads no model, and makes no secret.
"""

from __future__ import annotations

import datetime as dt
import gc
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from faceid_core.config import NightlyConfig
from faceid_core.errors import DamagedInput
from faceid_core.identity import Identity
from faceid_core.outcomes import Account
from faceid_core.plan.estimate import Estimate, Pace
from faceid_core.run.opening import look_at_people
from faceid_core.run.people import reject
from faceid_core.stages import STAGES
from faceid_core.stages.files import REJECTION, read_rejection
from faceid_core.stages.plan import Plan
from faceid_core.stages.planning import plan_works
from faceid_core.stages.planning.score import FLOOR
from faceid_core.stages.work import InputMissing, Subject, Work
from faceid_core.store import Manifest, ObjectStore, StageCache
from faceid_core.store.differences import Leaf, differences, shown

LOOKUP_THREADS = 8
FIRST, DAMAGED, FORCED = "first time", "its record in the store is damaged", "forced"
_LEAVES_TOLD = 3


@dataclass(frozen=True)
class Miss:
    """A piece of work that would be computed, why, and the earlier result that comes nearest to it, if any."""

    subject: str
    work: Work
    why: str
    nearest: Manifest | None = None


@dataclass
class StagePlan:
    """One stage of a planned run.

    Attributes:
        cached: results that are there. misses: what is known to be computed.
        waiting: results, by subject, that wait for an earlier stage; how many of them are cached is not known yet.
    """

    stage: str
    cached: int = 0
    misses: list[Miss] = field(default_factory=list)
    waiting: Counter = field(default_factory=Counter)

    def reasons(self) -> list[tuple[str, int]]:
        """Why the misses are misses, the most frequent first."""
        return Counter(miss.why for miss in self.misses).most_common()


@dataclass
class RunPlan:
    """A planned run: the stages in order, everybody's account, and what the work is expected to take."""

    stages: list[StagePlan]
    accounts: dict[str, Account]
    subjects: dict[str, Subject]
    plan: Plan
    store: ObjectStore | None
    estimate: Estimate
    identities: dict[str, Identity]

    def looked_for(self, subject: str) -> str:
        """The addresses of a person's pictures, for the screen of the machine that has the manifest."""
        person = self.identities[subject]
        return " and ".join(address for address in (person.photo, person.subject_mask) if address)

    def why_of(self, subject: str) -> tuple[str, str] | None:
        """The first stage that a subject would compute, and why; None if everything is cached."""
        for stage in self.stages:
            for miss in stage.misses:
                if miss.subject == subject:
                    return miss.work.call.stage, miss.why
        return None


def plan_run(config: NightlyConfig) -> RunPlan:
    """Plan a run as `open_run` and its stages would find it now.

    Raises:
        ConfigurationError: the run could not start.
        SecretMismatch: the store was made with another secret.
        StoreError: the store cannot be read.
    """
    plan = Plan.from_config(config)
    today = dt.datetime.now(dt.UTC).astimezone(config.run.zone).date()
    store, subjects, accounts, identities = look_at_people(config, plan, today)
    walk = _Walk(config, plan, store, subjects, accounts)
    with _no_cycles():
        stages = [walk.stage(name) for name in STAGES]
    estimate = walk.pace.estimate(stages, plan, subjects, workers=config.execution.workers)
    return RunPlan(stages, accounts, subjects, plan, store, estimate, identities)


@contextmanager
def _no_cycles():
    """Let nobody look for cycles: a walk makes millions of small values and none, and looking takes as long as it."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class _Walk:
    """The stages of one night in order, each looked up as far as the results of the earlier ones reach."""

    def __init__(self, config, plan, store, subjects, accounts):
        self.config, self.plan, self.store = config, plan, store
        self.subjects, self.accounts = subjects, accounts
        self.pace = Pace(store)
        self._waiting: set[str] = set()
        self._closed_common: set[str] = set()

    def stage(self, name: str) -> StagePlan:
        found = StagePlan(name)
        going = []
        for subject in self._alive():
            if subject.name in self._waiting:
                found.waiting[subject.name] += len(expected_results(self.plan, subject, name))
            else:
                going.append(subject)
        with ThreadPoolExecutor(LOOKUP_THREADS) as threads:
            for subject, cached, misses in threads.map(lambda each: self._look(name, each), going):
                found.cached += cached
                found.misses += misses
                if misses and name != STAGES[-1]:
                    self._waiting.add(subject.name)
        found.waiting += Counter()  # drops the zeros
        if name == STAGES[-1]:
            self._floors_to_come(found)
        return found

    def _alive(self) -> Iterable[Subject]:
        for subject in self.subjects.values():
            if subject.kind == "person":
                if self.accounts[subject.name].alive:
                    yield subject
            elif subject.name not in self._closed_common:
                yield subject

    def _look(self, stage: str, subject: Subject) -> tuple[Subject, int, list[Miss]]:
        cached, misses = 0, []
        try:
            works = plan_works(self.plan, stage, subject)
        except InputMissing:
            return subject, 0, []
        for work in works:
            if self.plan.forces(stage, subject):
                misses.append(Miss(subject.name, work, FORCED))
                continue
            manifest = self._cache(work).look(work.call) if self.store else None
            if manifest is not None and self._adopt(subject, work, manifest):
                cached += 1
            else:
                misses.append(self._miss(subject, work))
        return subject, cached, misses

    def _adopt(self, subject: Subject, work: Work, manifest: Manifest) -> bool:
        """Keep a hit; False if it is a rejection that cannot be read, which a run would look at again."""
        if REJECTION in manifest.outputs:
            try:
                record = read_rejection(manifest, self._cache(work).read(manifest, REJECTION))
            except DamagedInput:
                return False
            if subject.kind == "person":
                figures = record["value"], record["threshold"]
                reject(
                    self.accounts[subject.name],
                    work.call.stage,
                    record["reason"],
                    record["sentence"],
                    *figures,
                )
            else:
                self._closed_common.add(subject.name)
        subject.manifests[work.result] = manifest
        self.pace.add(manifest)
        if subject.kind == "class_word" and work.result == "generate":
            self.plan.floors[subject.class_word] = manifest
        return True

    def _miss(self, subject: Subject, work: Work) -> Miss:
        earlier = earlier_results(self._cache(work), work.call.stage) if self.store else []
        for manifest in earlier:
            self.pace.add(manifest)
        nearest, leaves = nearest_result(earlier, work)
        if nearest is None:
            there = self.store is not None and self._is_there(work)
            return Miss(subject.name, work, DAMAGED if there else FIRST)
        return Miss(subject.name, work, told(leaves) if leaves else DAMAGED, nearest)

    def _is_there(self, work: Work) -> bool:
        from faceid_core.store.layout import stage_manifest

        return self.store.head(stage_manifest(work.scope, work.call.stage, work.call.key)) is not None

    def _cache(self, work: Work) -> StageCache:
        return StageCache(self.store, work.scope)

    def _floors_to_come(self, found: StagePlan) -> None:
        """People whose pictures are there, but not those of their class word, have their floors still to be scored."""
        for subject in self._alive():
            if subject.kind == "person" and subject.name not in self._waiting:
                wanted = set(expected_results(self.plan, subject, STAGES[-1]))
                known = set(subject.manifests) | {
                    m.work.result for m in found.misses if m.subject == subject.name
                }
                if self.plan.floors.get(subject.class_word) is None and wanted - known:
                    found.waiting[subject.name] += len(wanted - known)


def expected_results(plan: Plan, subject: Subject, stage: str) -> list[str]:
    """The names of the results that a stage brings a subject once its inputs are there."""
    from faceid_core.evaluate.metrics import METRICS

    if stage == "score":
        own = [m for m in plan.config.score.metrics if subject.photo_digest or not METRICS[m].needs_reference]
        floors = [m for m in own if subject.kind == "person" and METRICS[m].needs_reference]
        return [f"score-{metric}" for metric in own] + [FLOOR + metric for metric in floors]
    if stage == "detect":
        return [stage] if subject.photo_digest else []
    return [stage] if stage == "generate" or subject.kind == "person" else []


def earlier_results(cache: StageCache, stage: str) -> list[Manifest]:
    """Every result of a stage in a scope that can be read, newest first."""
    from faceid_core.store.layout import stage_prefix

    found = []
    for info in cache.store.list(stage_prefix(cache.scope, stage)):
        manifest = cache.peek(stage, info.name.rsplit("/", 1)[1].removesuffix(".json"))
        if manifest is not None:
            found.append(manifest)
    return sorted(found, key=finished_at, reverse=True)


def finished_at(manifest: Manifest) -> str:
    """When a result was computed, ISO 8601; empty where that is not known."""
    return str(manifest.provenance.get("finished_at", ""))


def nearest_result(earlier: Sequence[Manifest], work: Work) -> tuple[Manifest | None, list[Leaf]]:
    """The earlier result whose preimage differs least from a work's, the newest of equals, and where it differs."""
    wanted, best, fewest = work.call.preimage(), None, []
    for manifest in earlier:
        leaves = differences(manifest.content["preimage"], wanted)
        if best is None or len(leaves) < len(fewest):
            best, fewest = manifest, leaves
    return best, fewest


def told(leaves: Sequence[Leaf]) -> str:
    """Changed leaves as one reason that reads the same for everybody whom it concerns: no digest of a person's own."""
    parts, follow = [], []
    for leaf in leaves:
        section, _, name = leaf.path.partition(".")
        if leaf.path == "inputs.photo":
            parts.insert(0, "photo changed")
        elif section == "inputs":
            follow.append(f"{name} changed")
        elif section == "weights":
            parts.append(f"weights of {name} changed ({shown(leaf.before)} -> {shown(leaf.after)})")
        elif section == "version":
            parts.append(f"stage version {leaf.before} -> {leaf.after}")
        else:
            parts.append(str(leaf))
    parts = parts or follow  # an input that follows from a changed photo or parameter is no reason of its own
    more = f", and {len(parts) - _LEAVES_TOLD} more" if len(parts) > _LEAVES_TOLD else ""
    return ", ".join(parts[:_LEAVES_TOLD]) + more
