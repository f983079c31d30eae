"""Collects the measured figures of all subjects from the results of the score stages."""

from __future__ import annotations

from contextlib import suppress

from faceid_core.errors import DamagedInput, StoreError
from faceid_core.evaluate.metric_rows import MetricRows, read_scores
from faceid_core.evaluate.metrics import METRICS
from faceid_core.evaluate.summary import SubjectScores, summarize
from faceid_core.outcomes import Outcome
from faceid_core.run.state import Run
from faceid_core.stages.planning.score import SCORES
from faceid_core.stages.work import METRIC_PREFIX, Subject, is_score, metric_result
from faceid_core.store import StageCache

FINISHED = (Outcome.DONE, Outcome.CACHED)


def finished_subjects(run: Run) -> list[Subject]:
    """All subjects with a complete set of results: finished people, and floor and ceiling without a failure."""
    wanted = {f"score-{metric}" for metric in run.config.score.metrics}
    found = []
    for subject in run.subjects.values():
        if subject.kind == "person":
            if run.outcome_reports[subject.name].outcome in FINISHED:
                found.append(subject)
        elif subject.name not in run.failures_common and "generate" in subject.manifests:
            missing = wanted - set(subject.manifests)
            if all(METRICS[name.removeprefix(METRIC_PREFIX)].needs_reference for name in missing):
                found.append(subject)
    return found


def scores_of(run: Run, subject: Subject) -> SubjectScores:
    """All metric rows of one subject.

    Raises:
        DamagedInput: a blob with scores is damaged; the caller closes the person's outcome report as failed.
    """
    cache = StageCache(run.store, subject.scope)
    own: list[MetricRows] = []
    floor: list[MetricRows] = []
    seconds = 0.0
    for result, manifest in subject.manifests.items():
        seconds += float(manifest.provenance.get("seconds", 0.0))
        if result.startswith(metric_result('', floor=True)):
            floor.append(read_scores(cache.read(manifest, SCORES)))
        elif is_score(result):
            own.append(read_scores(cache.read(manifest, SCORES)))
    person = subject.kind == "person"
    generate = subject.manifests["generate"]
    personalize = subject.manifests.get("personalize")
    scores = MetricRows.joined(own)
    return SubjectScores(
        kind=subject.kind,
        subject=subject.name if person else str(subject.text),
        class_word=subject.class_word,
        scores=scores,
        floor=MetricRows.joined(floor),
        identity_id=subject.identity_id,
        identity_key=subject.name if person else None,
        images=len(scores.pictures),
        seconds=seconds if person else None,
        personalize_key=personalize.stage_key if personalize else None,
        generate_key=generate.stage_key,
    )


def collect_scores(run: Run) -> tuple[list[tuple[Subject, SubjectScores]], list[dict]]:
    """Scores of all finished subjects, and the rows of `identity_summary` made from them.

    A person whose scores cannot be read is closed as failed; the outcome reports of the others say whether they are weak.

    Raises:
        StoreError: no subject's scores can be read, so it is the store that fails.
    """
    found = []
    unread: list[tuple[Subject, StoreError]] = []
    for subject in finished_subjects(run):
        try:
            found.append((subject, scores_of(run, subject)))
        except DamagedInput as damage:
            quarantine_damaged(StageCache(run.store, subject.scope), damage)
            message = f"{damage}; run again to compute it again"
            _close(run, subject, damage.stage, "damaged_input", message)
        except StoreError as error:
            unread.append((subject, error))
    if unread and not found:
        raise unread[0][1]
    for subject, error in unread:
        _close(run, subject, "score", type(error).__name__, f"{error}; run again")
    categories = {prompt.id: prompt.category for prompt in run.plan.grid.prompts}
    summary = summarize(
        [scores for _, scores in found], run_id=run.run_id, run_date=run.run_date, categories=categories
    )
    for row in summary:
        if row["subject_kind"] == "person":
            run.outcome_reports[row["identity_key"]].weak = row["weak"]
    return found, summary


def quarantine_damaged(cache: StageCache, damage: DamagedInput) -> None:
    """Quarantine a damaged result, so that its stage runs again; where that fails, the next read does it."""
    with suppress(StoreError):
        manifest = cache.read_manifest(damage.stage, damage.stage_key)
        if manifest is not None:
            cache.quarantine(manifest, str(damage))


def _close(run: Run, subject: Subject, stage: str, reason: str, message: str) -> None:
    """Close a subject as failed although it had finished."""
    if subject.kind != "person":
        run.failures_common[subject.name] = message
        return
    outcome_report = run.outcome_reports[subject.name]
    outcome_report.outcome = None
    outcome_report.close(Outcome.FAILED, stage=stage, reason=reason, message=message)
