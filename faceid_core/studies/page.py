"""A study's page in Markdown: figures with intervals, paired differences, published claims, reconstructions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from faceid_core.config import NightlyConfig, changed
from faceid_core.config.method import RECONSTRUCTION, Method
from faceid_core.evaluate.intervals import Interval, mean_of
from faceid_core.evaluate.power import POWER, people_needed
from faceid_core.evaluate.summary import CONCEPT_CATEGORIES

from .compare import PairedDifference, best_variant, differences_from, mean_over_people
from .definitions import PAPER
from .figure import study_figure
from .rows import of_condition
from .study import Condition, Study
from .tuned import ByCondition
from .verdict import judge_claim

MEASURES = {
    "identity_fraction": "identity",
    "concepts_fraction": "concepts",
    "balance": "balance",
    "leakage_excess": "leakage excess",
    "copying": "copying",
    "attention_outside": "attention outside",
    "seconds": "seconds",
}
COMPARED = (
    "identity_fraction",
    "concepts_fraction",
    "balance",
    "leakage_excess",
    "copying",
    "attention_outside",
)
NAMES = {**MEASURES, **{f"{name}_obeyed": f"concept accuracy, {name}" for name in CONCEPT_CATEGORIES}}


def write_page(
    study: Study,
    frame: pd.DataFrame,
    shared: NightlyConfig,
    out: Path,
    tuned: ByCondition = MappingProxyType({}),
) -> tuple[Path, Path]:
    """Write the page and the figure beside the CSV.

    Args:
        frame: the study's rows.
        shared: the configuration that all variants share.
        out: folder.
        tuned: settings that replace the presets' own in a condition.
    """
    measured = [label for label in study.labels if label in set(frame.variant)]
    page, figure = out / f"{study.name}.md", out / f"{study.name}.svg"
    figure.write_text(study_figure(study, frame, measured), encoding="utf-8")
    page.write_text("\n".join(_lines(study, frame, shared, measured, tuned)) + "\n", encoding="utf-8")
    return page, figure


def _lines(
    study: Study, frame: pd.DataFrame, shared: NightlyConfig, measured: Sequence[str], tuned: ByCondition
):
    people = frame[frame.kind == "person"].subject.nunique()
    conditions = [each for each in study.conditions if (frame.condition == each.name).any()]
    yield f"# Study {study.name}"
    yield ""
    yield study.question
    yield ""
    kind = "tuning" if study.selects else "held-out"
    devices = " and ".join(sorted(set(frame.device) - {""}))
    prompts = f" trained with {_both(conditions)}," if any(each.template for each in conditions) else ""
    yield (
        f"{people} {kind} people, one photo each,{prompts} x prompt grid `{Path(shared.generate.grid).name}` x "
        f"{shared.generate.seeds} seeds; scorers `{shared.score.scorers}`. Means with 95 % intervals over people "
        f"(Student's t), computed on {devices or 'nothing yet'}. Rows: [`{study.name}.csv`]({study.name}.csv)."
    )
    yield from _not_measured(study, frame)
    yield f"\n![The same figures]({study.name}.svg)\n"
    if len(conditions) > 1:
        yield from _side_by_side(study, frame, measured, conditions)
    for condition in conditions:
        yield from _condition(study, of_condition(frame, condition.name), condition, tuned)
    if not study.selects:
        yield from _claims(study, frame, conditions)
        yield from _reconstructions(shared)


def _both(conditions: Sequence[Condition]) -> str:
    return " and ".join(f"`{each.template}` ({each.title})" for each in conditions)


def _not_measured(study: Study, frame: pd.DataFrame):
    found = set(zip(frame.condition, frame.variant, strict=True))
    for condition in study.conditions:
        left = [label for label in study.labels if (condition.name, label) not in found]
        where = f", {condition.title}" if condition.title else ""
        if len(left) == len(study.labels) and condition.title:
            yield f"\nNot measured yet{where}: all variants."
        elif left:
            yield f"\nNot measured yet{where}: {', '.join(left)}."


def _side_by_side(
    study: Study, frame: pd.DataFrame, measured: Sequence[str], conditions: Sequence[Condition]
):
    """The measures of every variant, each in all conditions before the next measure."""
    yield "## Side by side\n"
    parts = {each.name: of_condition(frame, each.name) for each in conditions}
    shown = [name for name in COMPARED if frame[frame.kind == "person"][name].notna().any()]
    header = ["variant", *(f"{MEASURES[name]}, {each.name}" for name in shown for each in conditions)]
    rows = [
        [f"**{label}**" if label == study.default else label]
        + [
            interval_text(mean_over_people(parts[each.name], label, name), name)
            for name in shown
            for each in conditions
        ]
        for label in measured
    ]
    yield from markdown(header, rows)
    yield ""


def _condition(study: Study, frame: pd.DataFrame, condition: Condition, tuned: ByCondition):
    """Figures and comparisons of one condition."""
    measured = [label for label in study.labels if label in set(frame.variant)]
    if condition.title:
        yield f"\n## {condition.title.capitalize()}: `{condition.template}`\n"
    yield from _table(study, frame, measured)
    for label in measured:
        if label in study.remarks:
            yield f"\n{label}: {study.remarks[label]}."
    yield from _settings(study, condition, measured, tuned)
    yield from _diverged(frame, measured)
    if study.selects:
        yield from _selection(study, frame, measured)
    else:
        yield from _differences(study, frame, measured)


def _settings(study: Study, condition: Condition, measured: Sequence[str], tuned: ByCondition):
    """Which presets have settings that were chosen in this condition, and which have their own."""
    if study.selects or condition.template is None:
        return
    presets = dict.fromkeys(
        variant.settings["personalize.preset"] for variant in study.variants if variant.label in measured
    )
    chosen = [
        f"`{name}` {tuned[condition.name, name].text}" for name in presets if (condition.name, name) in tuned
    ]
    own = [f"`{name}`" for name in presets if (condition.name, name) not in tuned]
    if chosen:
        yield f"\nTuned in this condition: {'; '.join(chosen)}."
    if own:
        yield f"\nNot tuned in this condition, with the preset's own rate and steps: {', '.join(own)}."


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
    yield from markdown(header, rows)


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
    shown = [name for name in COMPARED if frame[name].notna().any()]
    yield f"\n### Against the default, {study.default}\n"
    found = {measure: differences_from(frame, measure, study.default, measured) for measure in shown}
    yield from paired_table(found, others, MEASURES, over="people")
    yield ""
    best = best_variant(frame, "balance", measured)
    if best is not None:
        yield f"Best mean balance: {best}{_where(study, best, measured)}."
    if "balance" in found:
        yield from _not_distinguished(study, found["balance"])
    axes = ("identity_fraction", "concepts_fraction")
    if not set(axes) <= set(found):  # without a ceiling, for instance
        return
    both = [label for label in others if all((found[name][label].difference.mean or 0) > 0 for name in axes)]
    yield f"Above the default in identity and concepts at once (means): {', '.join(both) or 'none'}."


def paired_table(
    found: Mapping[str, Mapping[str, PairedDifference]], others: Sequence[str], titles: Mapping[str, str], *, over: str
) -> Iterator[str]:
    """What variants differ from the default by, a column for each measure.

    Args:
        found: measure -> variant -> its difference from the default.
        others: the variants.
        titles: of the measures.
        over: what the differences are over, as "people".
    """
    yield (
        f"Paired differences over {over} (variant minus default) with 95 % intervals; in brackets p of the paired "
        f"t-test, corrected by Holm for the {len(others)} compared. Bold: below 0.05.\n"
    )
    yield from markdown(
        ["variant", *(titles[name] for name in found)],
        [[label, *(pair_text(pairs[label]) for pairs in found.values())] for label in others],
    )


def _not_distinguished(study: Study, pairs: Mapping[str, PairedDifference]):
    """Whom the default is not distinguished from in balance, and how many people would do it."""
    unsure = []
    for label, pair in pairs.items():
        if pair.difference.mean is not None and not pair.significant_sign:
            needed = people_needed(pair.difference.mean, pair.spread)
            unsure.append(f"{label} ({f'{needed:,} people' if needed else 'more than 10,000'})")
    if unsure:
        yield (
            f"Balance is not distinguished from that of {study.default}: {', '.join(unsure)}. In brackets the "
            f"people who would, with probability {POWER:g} at the 5 % level of one comparison, if it is the one seen."
        )


def _where(study: Study, best: str, measured: Sequence[str]) -> str:
    if not study.ordered:
        return ""
    # Ends of what was measured: beyond them nothing is known.
    at_end = best in (measured[0], measured[-1])
    return ", an end of the sweep" if at_end else ", inside the sweep"


def _claims(study: Study, frame: pd.DataFrame, conditions: Sequence[Condition]):
    yield "\n## What the paper says\n"
    if not study.claims:
        yield "Nothing that can be compared: no figure of this choice is published."
        return
    header = ["published (arXiv 2402.00631)", "measured here"]
    for condition in conditions:
        after = f", {condition.title}" if condition.title else ""
        header += [f"advantage{after}", f"verdict{after}"]
    rows = []
    for claim in study.claims:
        row = [claim.statement, f"{NAMES[claim.measure]} of {claim.better}"]
        for condition in conditions:
            judged = judge_claim(of_condition(frame, condition.name), claim)
            row.append("; ".join(f"over {label}: {pair_text(pair)}" for label, pair in judged.pairs.items()))
            row.append(judged.text)
        rows.append(row)
    yield from markdown(header, rows)
    yield (
        "\nAn advantage is a paired difference turned so that above 0 speaks for the claim. *Agrees*: every 95 % "
        "interval lies above 0. *Does not agree*: one lies below 0 after Holm's correction. *Not testable here*: an "
        f"advantage that is not sure has less room than these people detect with probability {POWER:g}. Else "
        "*undecided*, with the number of people who would decide if the differences are those seen."
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
    yield "\n### Chosen: the best mean balance of each preset\n"
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
    yield from markdown(
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


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a Markdown table."""
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield f"| {' | '.join(row)} |"
