"""Why a stage of an identity ran again, or would: the leaves in which two key preimages differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from faceid_core.config import NightlyConfig
from faceid_core.config.parse import changed
from faceid_core.errors import ConfigurationError
from faceid_core.identity import validate_identity_id
from faceid_core.plan.cache_miss import earlier_results, finished_at
from faceid_core.plan.planning import plan_run
from faceid_core.run.store_access import open_with_secret
from faceid_core.stages import STAGES
from faceid_core.stages.work import FLOOR_PREFIX, is_score, metric_result
from faceid_core.store import Manifest, StageCache
from faceid_core.store.differences import Leaf, differences
from faceid_core.store.layout import identity_scope


@dataclass(frozen=True)
class Explanation:
    """Two preimages compared: what each is, in words, and where they differ."""

    before: str
    after: str
    leaves: Sequence[Leaf]

    def lines(self) -> list[str]:
        """For a terminal."""
        if not self.leaves:
            return [
                self.before,
                self.after,
                "nothing differs: the result is the same, and is not computed again",
            ]
        return [self.before, self.after, *(f"  {leaf}" for leaf in self.leaves)]


def explain(config: NightlyConfig, identity_id: str, stage: str, *, planned: bool = False) -> Explanation:
    """Compare a person's two newest results of a stage, or the newest with what would be computed now.

    Args:
        config: the run's; its store is read, and with `planned` its manifest, photos and parameters.
        identity_id: as in the manifest.
        stage: of STAGES, with score-METRIC or floor_score-METRIC for scores.
        planned: compare with the present configuration even where there are two results.

    Raises:
        ConfigurationError: no such stage or person, or no result to compare with.
        SecretMismatch: the secret is another than the store's.
    """
    _require_stage(stage)
    store, secret = open_with_secret(config)
    cache = StageCache(store, identity_scope(secret.identity_key(validate_identity_id(identity_id))))
    results = _results(cache, stage)
    if not results:
        raise ConfigurationError(
            f"{config.store} holds no result of stage {stage} of {identity_id!r}; check the id and the stage, or "
            f"see what a run would compute with: faceid plan --only {identity_id}"
        )
    if planned or len(results) == 1:
        return _against_plan(config, identity_id, stage, results[0])
    newest, before = results[0], results[1]
    leaves = differences(before.content["preimage"], newest.content["preimage"])
    return Explanation(_words("before", before), _words("newest", newest), leaves)


def _require_stage(stage: str) -> None:
    from faceid_core.evaluate.metrics import METRICS  # loads OpenCV

    scores = [metric_result(metric) for metric in METRICS]
    floors = [metric_result(metric, floor=True) for metric, about in METRICS.items() if about.needs_reference]
    known = [*(name for name in STAGES if name != "score"), *scores, *floors]
    if stage not in known:
        raise ConfigurationError(f"there is no stage {stage!r}; name one of {', '.join(known)}")


def _results(cache: StageCache, stage: str) -> list[Manifest]:
    """A person's results, newest first; scores of own pictures and of the class word's are separate."""
    found = earlier_results(cache, stage.removeprefix(FLOOR_PREFIX))
    if not is_score(stage):
        return found
    own = {output.digest for each in earlier_results(cache, "generate") for output in each.outputs.values()}
    floor = stage.startswith(FLOOR_PREFIX)
    return [each for each in found if (each.content["preimage"]["inputs"].get("pictures") in own) != floor]


def _against_plan(config: NightlyConfig, identity_id: str, stage: str, newest: Manifest) -> Explanation:
    only = changed(config, {"run.only": (identity_id,)}, source="command line")
    found = plan_run(only)
    (person,) = (subject for subject in found.run.subjects.values() if subject.identity_id == identity_id)
    cached = person.manifests.get(stage)
    if cached is not None:
        leaves = differences(newest.content["preimage"], cached.content["preimage"])
        return Explanation(_words("newest", newest), _words("cached, would be used now", cached), leaves)
    misses = [miss for row in found.stages for miss in row.misses if miss.subject == person.name]
    for miss in misses:
        if miss.work.result == stage:
            leaves = differences(newest.content["preimage"], miss.work.call.preimage())
            return Explanation(
                _words("newest", newest), f"would compute: key {miss.work.call.key[:12]}", leaves
            )
    outcome_report = found.run.outcome_reports[person.name]
    if not outcome_report.alive:
        raise ConfigurationError(f"{identity_id!r} would be {outcome_report.outcome} now: {outcome_report.message}")
    if not misses:
        raise ConfigurationError(
            f"this configuration asks for no {stage}; the newest result is {newest.stage_key[:12]}"
        )
    first = misses[0]
    before = f"{stage} waits for {first.work.call.stage}, which would be computed first because: {first.why}"
    return Explanation(before, f"would compute: key {first.work.call.key[:12]}", list(first.leaves))


def _words(what: str, manifest: Manifest) -> str:
    run = manifest.provenance.get("run_id", "an unknown run")
    when = finished_at(manifest) or "an unknown time"
    return f"{what}: key {manifest.stage_key[:12]}, computed at {when} by run {run}"
