"""The index of a run: what changed, who needs attention, every outcome, and the figures over people; it shows no face."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files

from markupsafe import Markup

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
_COLUMNS = (
    ("identity_similarity", "identity"),
    ("identity_gain", "gain"),
    ("identity_fraction", "normalized identity"),
    ("concepts_obeyed", "concept accuracy"),
    ("detection", "face found"),
    ("attention_outside", "attention outside"),
    ("leakage", "leakage"),
)
_MOST_CHANGES, _MOST_LISTED = 25, 25  # of a list that the page opens with
MOST_PEOPLE = 5_000  # of a list: 9 MB, and more than a person reads


def index_page(
    *,
    run: Mapping,
    outcome_reports: Sequence[Mapping],
    summary: Sequence[Mapping] = (),
    person_urls: Mapping[str, str] | None = None,
    changes: Sequence[Mapping] = (),
    compared_with: str = "",
    comparison_url: str = "",
    gallery_url: str = "",
    sentence: str = "",
    notes: Sequence[str] = (),
    likeness: Mapping[str, Likeness] | None = None,
    calibration: Calibration | None = None,
) -> bytes:
    """One HTML file without pictures; people appear by their opaque keys only.

    Its script is the vendored table library and a few lines for the table of people; a policy lets no other run and
    nothing be fetched.

    Args:
        run: `run_id`, `run_date`, and `about`: more about the run by name (base model, preset).
        outcome_reports: One for each identity of the run: `identity_key`, `outcome`, `stage`, `reason`, `message`,
            `value`, `threshold`, `attempts`, `seconds`, `weak`, `same_photo`.
        summary: Rows of `evaluate.summary.summarize`.
        person_urls: Identity key -> address of the person's page, relative to this one.
        changes: Since an earlier run, what matters most first: `identity_key`, `kind`, `text`.
        compared_with: That run.
        comparison_url: Address of the comparison's page; empty if there is none.
        gallery_url: Address of the gallery; empty if there is none.
        sentence: Which run is current; may be empty.
        likeness: By identity key, what the identity scores come to.
        calibration: Of the recognizer, or None.
        notes: Sentences for the foot of the page, such as failures of floor and ceiling.
    """
    urls = person_urls or {}
    shown = [{name: outcome_report.get(name) for name in _SHOWN} for outcome_report in outcome_reports]
    for outcome_report in shown:
        outcome_report["outcome"] = (
            None if outcome_report["outcome"] is None else str(outcome_report["outcome"])
        )
        outcome_report["url"] = urls.get(outcome_report["identity_key"])
    by_key = {row["identity_key"]: row for row in summary if row["subject_kind"] == "person"}
    changed: dict[str, list[str]] = {}
    for change in changes:
        changed.setdefault(change["identity_key"], []).append(change["kind"])
    total = aggregate(summary)
    over = total["over_people"]
    similarity = over["identity_similarity"]
    library, script = _scripts()
    alike = likeness or {}
    listed = sorted(shown, key=lambda each: _urgency(each, changed))[:MOST_PEOPLE]
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
        is_density=plots.is_density(summary),
        people=[_person(outcome_report, by_key, changed, alike) for outcome_report in listed],
        left_out=len(shown) - len(listed),
        set_aside=[
            {"title": title, "outcome_reports": found[:MOST_PEOPLE], "count": len(found)}
            for title, belongs in _groups()
            if (found := [outcome_report for outcome_report in shown if belongs(outcome_report)])
        ],
        changes=[dict(change) | {"url": urls.get(change["identity_key"])} for change in changes],
        kinds=sorted({change["kind"] for change in changes}),
        most_changes=_MOST_CHANGES,
        most_listed=_MOST_LISTED,
        compared_with=compared_with,
        comparison_url=comparison_url,
        gallery_url=gallery_url,
        sentence=sentence,
        notes=notes,
        library=library,
        script=script,
        script_hashes=" ".join(f"'sha256-{_sha256(text)}'" for text in (library, script)),
    )


@cache
def _scripts() -> tuple[Markup, Markup]:
    """The table library (DataTables, MIT license) and the lines that use it, as they stand in the page."""

    def read(*path: str) -> Markup:
        text = files("faceid_core.report").joinpath(*path).read_text(encoding="utf-8")
        return Markup(text.replace("</script", "<\\/script"))

    return read("vendor", "datatables.min.js"), read("templates", "people.js")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _urgency(outcome_report: Mapping, changed: Mapping[str, Sequence[str]]) -> int:
    """Place of a person's row: 0 worse or with another outcome than before, 1 unfinished, 2 weak, 3 changed, 4 others."""
    kinds = changed.get(outcome_report["identity_key"], ())
    places = (
        "worse" in kinds or "outcome" in kinds,
        outcome_report["outcome"] not in ("done", "cached"),
        bool(outcome_report["weak"]),
        bool(kinds),
    )
    return places.index(True) if True in places else len(places)


def _groups() -> Iterator[tuple[str, Callable[[Mapping], bool]]]:
    """Titles of the lists of identities that ended early or need attention, and which outcome reports each list holds."""

    def ended(outcome: str) -> Callable[[Mapping], bool]:
        return lambda outcome_report: outcome_report["outcome"] == outcome

    yield "Rejected photos", ended("rejected")
    yield "Weak: not surely above the class word", lambda outcome_report: bool(outcome_report["weak"])
    yield "Failed", ended("failed")
    yield "Refused", ended("refused")
    yield "Not reached", ended("not_reached")
    yield "One photo under several ids", lambda outcome_report: bool(outcome_report["same_photo"])


def _person(
    outcome_report: Mapping,
    by_key: Mapping[str, Mapping],
    changed: Mapping[str, Sequence[str]],
    likeness: Mapping[str, Likeness],
) -> dict:
    key, cells = outcome_report["identity_key"], []
    row = by_key.get(key)
    for column, name in _COLUMNS:
        value = (row or {}).get(column)
        text = number(value, percent=BY_COLUMN[column].percent)
        whole = BY_COLUMN[column].text(row)
        interval = whole[len(text) :].strip() if column == "identity_similarity" else ""
        order = "" if value is None else f"{value:.6f}"
        cells.append({"name": name, "text": text, "interval": interval, "order": order})
    words = [
        (outcome_report["outcome"] or "unknown").replace("_", " "),
        "weak" if outcome_report["weak"] else "",
    ]
    words += [outcome_report["stage"] or "", outcome_report["reason"] or ""]
    return {
        "outcome_report": outcome_report,
        "identity_key": key,
        "likeness": likeness.get(key, Likeness()),
        "url": outcome_report["url"],
        "changed": ", ".join(changed.get(outcome_report["identity_key"], ())),
        "search": " ".join(filter(None, words)),
        "cells": cells,
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
