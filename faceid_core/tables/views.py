"""Views and macros over the tables, for the questions that everyone asks.

`docs/tables.md` has a row for each, `docs/cookbook.md` the questions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from data_contracts import NAMES

# 97.5 % quantiles of Student's t distribution for 1 to 30 degrees of freedom (scipy.special.stdtrit).
_T = (
    12.706204736175, 4.302652729749, 3.182446305284, 2.776445105198, 2.570581835636, 2.446911851145,
    2.364624251593, 2.306004135204, 2.262157162798, 2.228138851986, 2.200985160092, 2.178812829667,
    2.160368656463, 2.144786687918, 2.13144954556, 2.119905299221, 2.109815577833, 2.100922040241,
    2.093024054408, 2.085963447266, 2.079613844728, 2.073873067904, 2.068657610419, 2.063898561628,
    2.059538552753, 2.055529438643, 2.05183051648, 2.048407141795, 2.045229642133, 2.042272456301,
)  # fmt: skip
_Z = 1.959963984540054
FIGURES = (
    "identity_similarity",
    "identity_gain",
    "normalized_identity",
    "concept_accuracy",
    "single_concept_accuracy",
    "image_text",
    "detection",
    "attention_outside",
    "leakage",
    "leakage_excess",
)


@dataclass(frozen=True)
class View:
    """A view, or a macro where it has arguments.

    Attributes:
        sql: its definition, `CREATE VIEW` or `CREATE MACRO`.
        needs: tables and other views that it reads.
    """

    sql: str
    needs: tuple[str, ...]


def _view(name: str, needs: Iterable[str], select: str) -> View:
    return View(f"CREATE VIEW {name} AS {select}", tuple(needs))


_MEANS = ", ".join(f"avg({name}) FILTER (subject_kind = 'person') AS {name}" for name in FIGURES)
_FLOOR_AND_CEILING = ", ".join(
    f"avg({name}) FILTER (subject_kind = '{kind}') AS {title}_{name}"
    for kind, title in (("class_word", "floor"), ("named", "ceiling"))
    for name in ("identity_similarity", "concept_accuracy", "image_text", "leakage")
)

VIEWS: dict[str, View] = {
    # One row per result of a stage that an identity's outcome rests on.
    "stage_results": _view(
        "stage_results",
        ("identity_outcomes",),
        "SELECT run_id, run_date, identity_id, identity_key, unnest(stage_results, max_depth := 2) "
        "FROM identity_outcomes",
    ),
    # One row per run: the means over its people, beside floor and ceiling.
    "by_run": _view(
        "by_run",
        ("runs", "identity_summary"),
        "SELECT r.run_id, r.run_date, r.name, r.started_at, r.base_model, r.method, r.identities, r.done, r.cached, "
        "r.rejected, r.refused, r.failed, r.not_reached, r.exit_status, r.subset, r.seconds, s.* EXCLUDE (run_id) "
        "FROM runs r LEFT JOIN (SELECT run_id, count(*) FILTER (subject_kind = 'person') AS people, "
        "count(*) FILTER (weak) AS weak, "
        f"{_MEANS}, {_FLOOR_AND_CEILING} FROM identity_summary GROUP BY run_id) s ON s.run_id = r.run_id",
    ),
    # One row per run and identity: what became of it, its figures, floor and ceiling.
    "people": _view(
        "people",
        ("runs", "identity_outcomes", "identity_summary", "by_run"),
        "SELECT o.run_id, o.run_date, b.name, b.started_at, o.identity_id, o.identity_key, o.outcome, o.stage, o.reason, "
        "o.message, o.value, o.threshold, o.photo_digest, o.same_photo, o.seconds AS run_seconds, "
        "s.* EXCLUDE (run_id, run_date, subject_kind, subject, identity_id, identity_key), "
        "b.floor_identity_similarity, b.ceiling_identity_similarity, b.floor_concept_accuracy, "
        "b.ceiling_concept_accuracy, b.floor_image_text, b.ceiling_image_text, b.floor_leakage, b.ceiling_leakage "
        "FROM identity_outcomes o JOIN by_run b ON b.run_id = o.run_id LEFT JOIN identity_summary s "
        "ON s.run_id = o.run_id AND s.identity_key = o.identity_key AND s.subject_kind = 'person'",
    ),
    # The latest run, and the last complete one of its name before it.
    "latest_runs": _view(
        "latest_runs",
        ("runs",),
        "SELECT *, row_number() OVER (ORDER BY started_at DESC, run_id DESC) AS place FROM runs "
        "WHERE run_id = (SELECT run_id FROM runs ORDER BY started_at DESC, run_id DESC LIMIT 1) OR "
        "run_id = (SELECT last.run_id FROM runs last, (SELECT * FROM runs ORDER BY started_at DESC, run_id DESC LIMIT 1) "
        "now WHERE last.name = now.name AND last.exit_status = 0 AND last.not_reached = 0 "
        "AND last.subset IS NOT TRUE AND last.started_at < now.started_at ORDER BY last.started_at DESC LIMIT 1)",
    ),
    "latest": _view(
        "latest",
        ("people", "latest_runs"),
        "SELECT * FROM people WHERE run_id = (SELECT run_id FROM latest_runs WHERE place = 1)",
    ),
    "latest_two": _view(
        "latest_two",
        ("people", "latest_runs"),
        "SELECT CASE place WHEN 1 THEN 'latest' ELSE 'previous' END AS which, p.* FROM people p "
        "JOIN (SELECT run_id, place FROM latest_runs) USING (run_id)",
    ),
    # Filled from the store's record (`tables.promoted`) where a query needs it.
    "promoted": View("CREATE TABLE promoted (name VARCHAR, run_id VARCHAR)", ()),
    "current_runs": _view(
        "current_runs", ("runs", "promoted"), "SELECT * FROM runs WHERE run_id IN (SELECT run_id FROM promoted)"
    ),
    "current": _view(
        "current", ("people", "promoted"), "SELECT * FROM people WHERE run_id IN (SELECT run_id FROM promoted)"
    ),
    # One row per run, identity, image and metric: the rows of image_metrics that a run's outcome rests on.
    "scores": _view(
        "scores",
        ("stage_results", "image_metrics"),
        "SELECT s.run_id, s.run_date, s.identity_id, s.identity_key, m.generate_key, m.prompt_id, m.seed, m.metric, "
        "m.value, m.null_reason, m.detail, m.metric_version, m.score_key FROM stage_results s "
        "JOIN image_metrics m ON m.score_key = s.stage_key WHERE starts_with(s.stage, 'score-')",
    ),
    # The same of the class word's images, measured against the identity's photo.
    "floor_scores": _view(
        "floor_scores",
        ("stage_results", "image_metrics"),
        "SELECT s.run_id, s.run_date, s.identity_id, s.identity_key, m.generate_key, m.prompt_id, m.seed, m.metric, "
        "m.value, m.null_reason, m.detail, m.metric_version, m.score_key FROM stage_results s "
        "JOIN image_metrics m ON m.score_key = s.stage_key WHERE starts_with(s.stage, 'floor_score-')",
    ),
    # identity_summary.normalized_identity again from single images, by the product's rule: an image without a face
    # counts as the floor, and there is no figure unless the ceiling lies above the floor.
    "normalized_identities": _view(
        "normalized_identities",
        ("scores", "floor_scores", "identity_summary"),
        "WITH floors AS (SELECT run_id, identity_key, avg(value) AS floor FROM floor_scores WHERE metric = 'identity' "
        "GROUP BY ALL), ceilings AS (SELECT run_id, avg(identity_similarity) AS ceiling FROM identity_summary "
        "WHERE subject_kind = 'named' GROUP BY ALL), own AS (SELECT run_id, identity_id, identity_key, floor, "
        "avg(coalesce(value, floor)) AS similarity FROM scores JOIN floors USING (run_id, identity_key) "
        "WHERE metric = 'identity' AND null_reason IS DISTINCT FROM 'no_face_in_photo' GROUP BY ALL) "
        "SELECT run_id, identity_id, identity_key, similarity, floor, ceiling, CASE WHEN ceiling > floor "
        "THEN (similarity - floor) / (ceiling - floor) END AS normalized_identity "
        "FROM own LEFT JOIN ceilings USING (run_id)",
    ),
    "t_quantile": View(
        f"CREATE MACRO t_quantile(df) AS CASE WHEN df < 1 THEN NULL WHEN df <= {len(_T)} THEN ({list(_T)})[df] "
        # Cornish-Fisher expansion in 1/df (Abramowitz and Stegun 26.7.5), its error is below 2e-6 from 31 on.
        f"ELSE {_Z} + ({_Z}**3 + {_Z}) / (4 * df) + (5 * {_Z}**5 + 16 * {_Z}**3 + 3 * {_Z}) / (96 * df**2) "
        f"+ (3 * {_Z}**7 + 19 * {_Z}**5 + 17 * {_Z}**3 - 15 * {_Z}) / (384 * df**3) END",
        (),
    ),
    # One row per figure: the differences of the people who are in both runs with one photo, with a 95 % interval.
    "paired_differences": View(
        "CREATE MACRO paired_differences(run_a, run_b) AS TABLE WITH figures AS (UNPIVOT (SELECT run_id, identity_key, "
        f"photo_digest, {', '.join(FIGURES)} FROM people WHERE run_id IN (run_a, run_b)) ON {', '.join(FIGURES)} "
        "INTO NAME figure VALUE number) SELECT figure, people, mean_a, mean_b, difference, "
        "difference - t_quantile(people - 1) * deviation / sqrt(people) AS low, "
        "difference + t_quantile(people - 1) * deviation / sqrt(people) AS high FROM (SELECT a.figure, "
        "count(*) AS people, avg(a.number) AS mean_a, avg(b.number) AS mean_b, avg(b.number - a.number) AS difference, "
        "stddev_samp(b.number - a.number) AS deviation FROM figures a JOIN figures b ON a.identity_key = b.identity_key "
        "AND a.figure = b.figure AND coalesce(a.photo_digest = b.photo_digest, true) "
        "WHERE a.run_id = run_a AND b.run_id = run_b GROUP BY a.figure) ORDER BY figure",
        ("people", "t_quantile"),
    ),
}  # in an order in which each finds what it needs


def with_needed(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Tables and views that must be there for some of them to work, each in the order of their making."""
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += VIEWS[name].needs if name in VIEWS else ()
    # What a run's rows are is said by the table of runs.
    found |= {"runs"} if found & set(NAMES) else set()
    return [name for name in NAMES if name in found], [name for name in VIEWS if name in found]
