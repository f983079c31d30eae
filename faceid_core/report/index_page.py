"""The index of a run: the outcome of each identity and the figures over people; it shows no face."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from faceid_core.evaluate.calibration import Calibration
from faceid_core.evaluate.summary import aggregate
from faceid_core.report import plots
from faceid_core.report.figures import BY_COLUMN, FIGURES, number
from faceid_core.report.likeness import Likeness, mean_likeness
from faceid_core.report.rendering import render, score_table

# Other fields of an outcome report (its id, paths) stay out of the page.
_SHOWN = (
    "identity_key",
    "outcome",
    "stage",
    "reason",
    "message",
    "value",
    "threshold",
    "attempts",
    "seconds",
    "weak",
    "same_photo",
)
_SET_ASIDE = {
    "rejected": "Rejected photos",
    "refused": "Refused",
    "failed": "Failed",
    "not_reached": "Not reached",
}


def index_page(
    *,
    run: Mapping,
    outcome_reports: Sequence[Mapping],
    summary: Sequence[Mapping] = (),
    person_urls: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    likeness: Mapping[str, Likeness] | None = None,
    calibration: Calibration | None = None,
) -> bytes:
    """One HTML file without pictures and without script; people appear by their opaque keys only.

    Args:
        run: `run_id`, `run_date`, and `about`: more about the run by name (base model, preset).
        outcome reports: One for each identity of the run: `identity_key`, `outcome`, `stage`, `reason`, `message`,
            `value`, `threshold`, `attempts`, `seconds`, `weak`, `same_photo`.
        summary: Rows of `evaluate.summary.summarize`.
        person_urls: Identity key -> address of the person's page, relative to this one.
        likeness: By identity key, what the identity scores come to.
        calibration: Of the recognizer, or None.
        notes: Sentences for the foot of the page, such as failures of floor and ceiling.
    """
    urls = person_urls or {}
    shown = [{name: outcome_report.get(name) for name in _SHOWN} for outcome_report in outcome_reports]
    for outcome_report in shown:
        outcome_report["outcome"] = None if outcome_report["outcome"] is None else str(outcome_report["outcome"])
    by_key = {row["identity_key"]: row for row in summary if row["subject_kind"] == "person"}
    total = aggregate(summary)
    over = total["over_people"]
    similarity = over["identity_similarity"]
    alike = likeness or {}
    return render(
        "index.html",
        run={"about": {}} | dict(run),
        counts=Counter(outcome_report["outcome"] or "unknown" for outcome_report in shown),
        total=total,
        likeness=mean_likeness(list(alike.values())),
        calibration=calibration,
        over=over,
        scale=plots.scale_bar(
            *(similarity[name] for name in ("mean", "low", "high", "floor", "ceiling")),
        ),
        table=_table(over),
        plot=plots.identity_concepts_plot(summary, urls),
        people=[
            _person(outcome_report, by_key, urls, alike)
            for outcome_report in shown
        ],
        set_aside=[
            {"title": title, "outcome_reports": found}
            for title, belongs in _groups()
            if (found := [outcome_report for outcome_report in shown if belongs(outcome_report)])
        ],
        notes=notes,
    )


def _groups() -> Iterator[tuple[str, Callable[[Mapping], bool]]]:
    """Titles of the lists of identities that ended early or need attention, and which outcome reports each list holds."""
    for outcome, title in _SET_ASIDE.items():
        yield title, lambda outcome_report, outcome=outcome: outcome_report["outcome"] == outcome
    yield "Weak: not surely above the class word", lambda outcome_report: bool(outcome_report["weak"])
    yield "One photo under several ids", lambda outcome_report: bool(outcome_report["same_photo"])


def _person(
    outcome_report: Mapping,
    by_key: Mapping[str, Mapping],
    urls: Mapping[str, str],
    likeness: Mapping[str, Likeness],
) -> dict:
    key = outcome_report["identity_key"]
    row, url = by_key.get(key), urls.get(key)

    def of(column: str) -> str:
        return number((row or {}).get(column), percent=BY_COLUMN[column].percent)

    identity = of("identity_similarity")
    whole = BY_COLUMN["identity_similarity"].text(row)
    return {
        "outcome_report": outcome_report,
        "url": url,
        "likeness": likeness.get(key, Likeness()),
        "identity": identity,
        "interval": whole[len(identity) :].strip(),
        "gain": of("identity_gain"),
        "normalized": of("identity_fraction"),
        "concepts": of("concepts_obeyed"),
        "detection": of("detection"),
        "attention": of("attention_outside"),
        "leakage": of("leakage"),
    }


def _table(over: Mapping[str, Mapping]) -> list[dict]:
    """The run's score table: means over people with intervals over people."""
    people: dict = {}
    for name, found in over.items():
        people |= {name: found["mean"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
    floor = {name: found["floor"] for name, found in over.items()}
    ceiling = {name: found["ceiling"] for name, found in over.items()}
    lines = score_table((people, floor, ceiling))
    by_name = {figure.name: figure for figure in FIGURES}
    for line in lines:
        # Over people every figure has an interval, even those without one for a single person.
        column, percent = by_name[line["name"]].column, by_name[line["name"]].percent
        low, high = people[f"{column}_low"], people[f"{column}_high"]
        if low is not None and high is not None:
            line["interval"] = f"[{number(low, percent=percent)}, {number(high, percent=percent)}]"
    return lines
