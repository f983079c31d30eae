"""A study's page in Markdown: figures with intervals, paired differences, published claims, reconstructions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from faceid_core.config import NightlyConfig, changed
from faceid_core.config.method import RECONSTRUCTION, Method
from faceid_core.evaluate.intervals import Interval, mean_of
from faceid_core.evaluate.summary import CONCEPT_CATEGORIES

from .compare import PairedDifference, best_variant, differences_from, judge_claim, mean_over_people
from .definitions import PAPER
from .figure import study_figure
from .study import Study

MEASURES = {
    "identity_fraction": "identity",
    "concepts_fraction": "concepts",
    "balance": "balance",
    "leakage_excess": "leakage",
    "attention_outside": "attention outside",
    "seconds": "seconds",
}
_COMPARED = ("identity_fraction", "concepts_fraction", "balance", "leakage_excess", "attention_outside")
_NAMES = {**MEASURES, **{f"{name}_obeyed": f"concept accuracy, {name}" for name in CONCEPT_CATEGORIES}}


def write_page(study: Study, frame: pd.DataFrame, shared: NightlyConfig, out: Path) -> tuple[Path, Path]:
    """Write the page and the figure beside the CSV.

    Args:
        frame: the study's rows.
        shared: the configuration that all variants share.
        out: folder.
    """
    measured = [label for label in study.labels if label in set(frame.variant)]
    page, figure = out / f"{study.name}.md", out / f"{study.name}.svg"
    figure.write_text(study_figure(study, frame, measured), encoding="utf-8")
    page.write_text("\n".join(_lines(study, frame, shared, measured)) + "\n", encoding="utf-8")
    return page, figure


def _lines(study: Study, frame: pd.DataFrame, shared: NightlyConfig, measured: Sequence[str]):
    people = frame[frame.kind == "person"].subject.nunique()
    left = [label for label in study.labels if label not in measured]
    yield f"# Study {study.name}"
    yield ""
    yield study.question
    yield ""
    kind = "tuning" if study.selects else "held-out"
    devices = " and ".join(sorted(set(frame.device) - {""}))
    yield (
        f"{people} {kind} people, one photo each, x prompt grid `{Path(shared.generate.grid).name}` x "
        f"{shared.generate.seeds} seeds; scorers `{shared.score.scorers}`. Means with 95 % intervals over people "
        f"(Student's t), computed on {devices or 'nothing yet'}. Rows: [`{study.name}.csv`]({study.name}.csv)."
    )
    if left:
        yield f"\nNot measured yet: {', '.join(left)}."
    yield f"\n![The same figures]({study.name}.svg)\n"
    yield from _table(study, frame, measured)
    yield from _diverged(frame, measured)
    if study.selects:
        yield from _selection(study, frame, measured)
        return
    yield from _differences(study, frame, measured)
    yield from _claims(study, frame)
    yield from _reconstructions(shared)


def _table(study: Study, frame: pd.DataFrame, measured: Sequence[str]):
    shown = [name for name in MEASURES if frame[name].notna().any()]
    header = ["variant", "people", *(MEASURES[name] for name in shown), *CONCEPT_CATEGORIES]
    rows = []
    for label in measured:
        own = frame[(frame.kind == "person") & (frame.variant == label)]
        name = f"**{label}**" if label == study.default else label
        rows.append(
            [name, str(len(own))]
            + [interval_text(mean_over_people(frame, label, measure), measure) for measure in shown]
            + [_mean(own[f"{category}_obeyed"]) for category in CONCEPT_CATEGORIES]
        )
    for kind, title in (("floor", "class word (floor)"), ("ceiling", "named people (ceiling)")):
        own = frame[frame.kind == kind]
        # Identity is a way from floor to ceiling: by definition 0 and 1.
        fixed = {"identity_fraction": "0.000" if kind == "floor" else "1.000"}
        rows.append(
            [title, str(len(own)) if kind == "ceiling" else ""]
            + [fixed.get(measure) or _mean(own[measure]) for measure in shown]
            + [_mean(own[f"{category}_obeyed"]) for category in CONCEPT_CATEGORIES]
        )
    yield from _markdown(header, rows)


def _diverged(frame: pd.DataFrame, measured: Sequence[str]):
    """Variants whose training diverged: for how many people a second attempt at a lower rate succeeded, or failed."""
    diverged = []
    for label in measured:
        own = frame[(frame.kind == "person") & (frame.variant == label)]
        again, never = int(own.restarted.fillna(0).sum()), int((own.samples == 0).sum())
        if again or never:
            diverged.append(
                f"{label} ({again} learned by a second attempt at a lower rate, {never} not, counted as 0)"
            )
    if diverged:
        yield f"\nTraining diverged: {', '.join(diverged)}."
    blank = []
    for label in measured:
        own = frame[(frame.kind == "person") & (frame.variant == label) & (frame.balance == 0)]
        count = int((own.concepts_fraction.isna() & (own.samples > 0)).sum())
        blank += [f"{label} ({count}, counted as 0)"] if count else []
    if blank:
        yield f"\nPeople whose pictures are of one color: {', '.join(blank)}."


def _differences(study: Study, frame: pd.DataFrame, measured: Sequence[str]):
    others = [label for label in measured if label != study.default]
    if study.default not in measured or not others:
        return
    shown = [name for name in _COMPARED if frame[name].notna().any()]
    yield f"\n## Against the default, {study.default}\n"
    yield (
        "Paired differences over people (variant minus default) with 95 % intervals; in brackets p of the paired "
        f"t-test, corrected by Holm for the {len(others)} compared. Bold: below 0.05.\n"
    )
    found = {measure: differences_from(frame, measure, study.default, measured) for measure in shown}
    yield from _markdown(
        ["variant", *(MEASURES[name] for name in shown)],
        [[label, *(pair_text(found[measure][label]) for measure in shown)] for label in others],
    )
    yield ""
    best = best_variant(frame, "balance", measured)
    if best is not None:
        yield f"Best mean balance: {best}{_where(study, best, measured)}."
    axes = ("identity_fraction", "concepts_fraction")
    if not set(axes) <= set(found):  # without a ceiling, for instance
        return
    both = [label for label in others if all((found[name][label].difference.mean or 0) > 0 for name in axes)]
    yield f"Above the default in identity and concepts at once (means): {', '.join(both) or 'none'}."


def _where(study: Study, best: str, measured: Sequence[str]) -> str:
    if not study.ordered:
        return ""
    # Ends of what was measured: beyond them nothing is known.
    at_end = best in (measured[0], measured[-1])
    return ", an end of the sweep" if at_end else ", inside the sweep"


def _claims(study: Study, frame: pd.DataFrame):
    yield "\n## What the paper says\n"
    if not study.claims:
        yield "Nothing that can be compared: no figure of this choice is published."
        return
    rows = []
    for claim in study.claims:
        verdict, pairs = judge_claim(frame, claim)
        advantages = "; ".join(f"over {label}: {pair_text(pair)}" for label, pair in pairs.items())
        rows.append(
            [claim.statement, f"{_NAMES[claim.measure]} of {claim.better}", advantages, f"**{verdict}**"]
        )
    yield from _markdown(["published (arXiv 2402.00631)", "measured here", "advantage", "verdict"], rows)
    yield (
        "\nAn advantage is a paired difference turned so that above 0 speaks for the claim. *Agrees*: every 95 % "
        "interval lies above 0. *Does not agree*: one lies below 0 after Holm's correction. Else *undecided*."
    )


def _reconstructions(shared: NightlyConfig):
    method = changed(shared, {"personalize.preset": PAPER}, source="page").method()
    yield "\n## Settings that are reconstructions\n"
    yield f"The paper's body could not be read; these values of `{PAPER}` are ours:\n"
    named = (
        f"`{name}` = {getattr(method, name)}"
        for name, field in Method.model_fields.items()
        if isinstance(notes := field.json_schema_extra, dict) and notes.get("source") == RECONSTRUCTION
    )
    yield ", ".join(named) + "."


def _selection(study: Study, frame: pd.DataFrame, measured: Sequence[str]):
    yield "\n## Chosen: the best mean balance of each preset\n"
    groups: dict[str, list[str]] = {}
    for variant in study.variants:
        if variant.label in measured:
            groups.setdefault(variant.group, []).append(variant.label)
    settings = {variant.label: variant.settings for variant in study.variants}
    names = ("learning_rate", "steps")
    rows = []
    for group, labels in groups.items():
        best = best_variant(frame, "balance", labels)
        if best is None:
            continue
        asked = sum(variant.group == group for variant in study.variants)
        ends = []
        for name in names:
            values = [
                settings[v.label][f"personalize.method.{name}"] for v in study.variants if v.group == group
            ]
            chosen = settings[best][f"personalize.method.{name}"]
            if len(set(values)) > 1 and chosen in (min(values), max(values)):
                ends.append(name.replace("_", " "))
        rows.append(
            [group, *(f"{settings[best][f'personalize.method.{name}']:g}" for name in names),
             interval_text(mean_over_people(frame, best, "balance"), "balance"),
             f"{len(labels)} of {asked}", ", ".join(ends) or "none"]
        )  # fmt: skip
    yield from _markdown(
        ["preset", "learning rate", "steps", "balance", "trials", "at an end of its range"], rows
    )


def interval_text(found: Interval, measure: str = "") -> str:
    """'0.512 [0.470, 0.554]', or the mean alone, or nothing."""
    if found.mean is None:
        return ""
    places = 1 if measure == "seconds" else 3
    if found.low is None or found.high is None:
        return f"{found.mean:.{places}f}"
    return f"{found.mean:.{places}f} [{found.low:.{places}f}, {found.high:.{places}f}]"


def pair_text(pair: PairedDifference) -> str:
    """A paired difference with its interval and corrected p, bold where it is sure."""
    mean, low, high = pair.difference
    if mean is None:
        return ""
    if low is None or high is None or pair.p_holm is None:
        return f"{mean:+.3f}"
    p = "p < 0.001" if pair.p_holm < 0.001 else f"p = {pair.p_holm:.3f}"
    text = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}] ({p})"
    return f"**{text}**" if pair.significant_sign else text


def _mean(values: pd.Series) -> str:
    mean = mean_of(values.dropna().to_list())
    return "" if mean is None else f"{mean:.3f}"


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]):
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield f"| {' | '.join(row)} |"
