"""The private page of one person: photo, mask, attention, training, figures and every picture of the grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from faceid_core.evaluate.calibration import Calibration
from faceid_core.evaluate.grid import Prompt
from faceid_core.evaluate.metric_rows import MetricRow, MetricRows
from faceid_core.evaluate.shards import ShardRow
from faceid_core.evaluate.summary import identity_counting_faceless, leakage_by_part
from faceid_core.report import plots
from faceid_core.report.figures import DASH, number
from faceid_core.report.likeness import likeness_of
from faceid_core.report.overlays import Embedded, attention_overlay, embedded, mask_overlay, with_box
from faceid_core.report.rendering import mean_row, render, score_table
from faceid_core.report.synthetic_mark import SyntheticMark


def person_page(
    *,
    run: Mapping,
    person: Mapping,
    photo: np.ndarray,
    crop: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    face_box: tuple[float, float, float, float] | None = None,
    quality: Mapping[str, float] | None = None,
    verdict: Mapping | None = None,
    approximate: bool = False,
    attention_before: np.ndarray | None = None,
    attention_after: np.ndarray | None = None,
    outside_before: float | None = None,
    outside_after: float | None = None,
    curve: Sequence[Mapping[str, float]] = (),
    prompts: Sequence[Prompt] = (),
    pictures: Sequence[ShardRow] = (),
    scores: MetricRows | None = None,
    floor_scores: MetricRows | None = None,
    summary: Sequence[Mapping] = (),
    index_url: str = "",
    beside: Sequence[tuple[str, Mapping[tuple[str, int], Embedded]]] = (),
    reproduction: Mapping | None = None,
    calibration: Calibration | None = None,
) -> bytes:
    """One self-contained HTML file with its pictures and without script.

    Args:
        run: `run_id`, `run_date`, `base_digest` (of the base model), and `about`: more about the run by name
        person: `identity_key`, `class_word`, `outcome`, `weak` (not surely above the class word), and `message`, empty if
            there is nothing to say.
        photo: uint8 [h, w, 3], as it was supplied.
        crop: uint8 [s, s, 3], aligned; mask and attention maps cover this crop.
        mask: float [s, s] in 0..1.
        face_box: (x0, y0, x1, y1) in pixels of the photo.
        quality: The photo's figures from `faces.quality.measure`.
        verdict: The verdict of `faces.mask.make_mask` on the mask.
        approximate: Whether the mask comes from landmarks rather than from the pixels.
        attention_before, attention_after: float [a, b], attention on the person's tokens over the crop.
        outside_before, outside_after: The share of that attention outside the mask.
        curve: Training losses by step.
        prompts: The grid's prompts, in the order of the page.
        pictures: The grid's pictures.
        scores: Rows of all metrics over the pictures.
        floor_scores: Identity and leakage rows of the class word's pictures against this person.
        summary: Rows of `evaluate.summary.summarize`; the person, its class word and the named people are looked up in
            it. With the rows of all people of a run, the pages of a run take time that grows with their square.
        calibration: Of the recognizer, or None.
        index_url: Address of the run index, relative to this page; no link if empty.
        beside: Pictures of other subjects at the same prompts and seeds, such as the class word's: name, and text of
            the prompt and seed -> picture.
        reproduction: How to compute this again: `commands`, `facts` by name, and `results` with `stage`, `version`,
            `key` and `finished_at`; None leaves it out.
    """
    scores, floor_scores = scores or MetricRows(), floor_scores or MetricRows()
    own, floor, ceiling = _rows_of(person, summary, floor_scores)
    return render(
        "person.html",
        run={"about": {}} | dict(run),
        person={"message": "", "weak": False} | dict(person),
        summary=own,
        floor=floor,
        likeness=likeness_of(scores, floor_scores, calibration),
        calibration=calibration,
        scale=own and _scale(own, floor, ceiling),
        table=score_table((own, floor, ceiling)),
        stills=_photo_stills(photo, face_box, quality, crop, mask, verdict, approximate)
        + _attention_stills(crop, attention_before, attention_after, outside_before, outside_after),
        curve=plots.curve_plot(curve),
        groups=_groups(prompts, pictures, scores, beside, SyntheticMark(run["base_digest"], run["run_id"])),
        beside=[name for name, _ in beside],
        index_url=index_url,
        reproduction=reproduction,
    )


def _rows_of(
    person: Mapping, summary: Sequence[Mapping], floor_scores: MetricRows
) -> tuple[Mapping | None, dict | None, dict | None]:
    """The person's row, its class word's compared with this person, and the named people's mean."""
    own = next((row for row in summary if row.get("identity_key") == person["identity_key"]), None)
    of_word = [
        row
        for row in summary
        if row["subject_kind"] == "class_word" and row["subject"] == person["class_word"]
    ]
    floor = dict(of_word[0]) if of_word else None
    similarity, leakage = (_mean_of(floor_scores, metric) for metric in ("identity", "leakage"))
    if similarity is not None:
        floor = (floor or {}) | {
            "identity_similarity": similarity,
            "identity_similarity_counting_faceless": identity_counting_faceless(floor_scores),
        }
    if leakage is not None:
        floor = (floor or {}) | {"leakage": leakage} | leakage_by_part(floor_scores)
    return own, floor, mean_row([row for row in summary if row["subject_kind"] == "named"])


def _mean_of(scores: MetricRows, metric: str) -> float | None:
    values = list(scores.values(metric).values())
    return float(np.mean(values)) if values else None


def _scale(own: Mapping, floor: Mapping | None, ceiling: Mapping | None):
    name = "identity_similarity"
    return plots.scale_bar(
        own[name],
        own[f"{name}_low"],
        own[f"{name}_high"],
        (floor or {}).get(name),
        (ceiling or {}).get(name),
    )


def _photo_stills(photo, face_box, quality, crop, mask, verdict, approximate) -> list[dict]:
    """The photo, its crop and mask, with their figures in the captions."""
    caption = "the photo"
    if quality:
        caption += f"; face {quality['face_pixels']:.0f} pixels, sharpness {number(quality['sharpness'])}"
    stills = [_still(with_box(photo, face_box) if face_box else photo, caption)]
    if crop is not None:
        stills.append(_still(crop, "aligned crop"))
        if mask is not None:
            stills.append(_still(mask_overlay(crop, mask), _mask_words(mask, verdict or {}, approximate)))
    return stills


def _mask_words(mask: np.ndarray, verdict: Mapping, approximate: bool) -> str:
    """The mask's caption: its region, its share of the crop, and what is unusual about it."""
    region = f" of {verdict['region'].replace('_', ' and ')}" if verdict else ""
    share = verdict.get("area_share", float(np.mean(mask)))
    words = [f"mask{region}, {100 * share:.0f} % of the crop"]
    if approximate:
        words.append("approximate")
    if verdict.get("touches_border"):
        words.append("touches the border")
    elif not verdict.get("ok", True):
        words.append("an unusual area")
    return "; ".join(words)


def _attention_stills(crop, before, after, outside_before, outside_after) -> list[dict]:
    """The attention on the person's tokens before and after training, over the crop, on one scale."""
    if crop is None:
        return []
    maps = [
        (
            found,
            f"attention {when}" + ("" if outside is None else f", {100 * outside:.0f} % outside the mask"),
        )
        for found, when, outside in (
            (before, "before training", outside_before),
            (after, "after training", outside_after),
        )
        if found is not None
    ]
    strongest = max((float(np.nanmax(found)) for found, _ in maps), default=0.0)
    return [_still(attention_overlay(crop, found, strongest=strongest), words) for found, words in maps]


def _still(image: np.ndarray, caption: str) -> dict:
    return {"image": embedded(image), "caption": caption}


def _groups(
    prompts: Sequence[Prompt],
    pictures: Sequence[ShardRow],
    scores: MetricRows,
    beside: Sequence[tuple[str, Mapping[tuple[str, int], Embedded]]],
    mark: SyntheticMark,
) -> list[dict]:
    """The grid: prompts that fail first, those with the most misses foremost, then the others by category."""
    values: dict[tuple[str, int], dict[str, MetricRow]] = {}  # of each picture, by metric
    for row in scores:
        values.setdefault((row.prompt_id, row.seed), {})[row.metric] = row
    by_prompt: dict[str, list[ShardRow]] = {}
    for picture in pictures:
        by_prompt.setdefault(picture.prompt_id, []).append(picture)
    failing: list[dict] = []
    groups: dict[str, list[dict]] = {}
    for prompt in prompts:
        if prompt.id in by_prompt:
            shown = [
                _picture(row, values.get((row.prompt_id, row.seed), {}), mark) for row in by_prompt[prompt.id]
            ]
            for picture in shown:
                picture["beside"] = [
                    {"name": name, "image": found[prompt.text, picture["seed"]]}
                    for name, found in beside
                    if (prompt.text, picture["seed"]) in found
                ]
            entry = {
                "id": prompt.id,
                "text": prompt.text,
                "expected": [name for names in prompt.expected.values() for name in names],
                "pictures": shown,
                "misses": sum(picture["fails"] for picture in shown),
            }
            (failing if entry["misses"] else groups.setdefault(prompt.category, [])).append(entry)
    failing.sort(key=lambda entry: -entry["misses"])
    found = [{"title": "Prompts that fail", "prompts": failing}] if failing else []
    return found + [{"title": category, "prompts": entries} for category, entries in groups.items() if entries]


def _picture(row: ShardRow, values: Mapping[str, MetricRow], mark: SyntheticMark) -> dict:
    """A picture with what was measured of it, by metric."""
    identity, concepts, leakage = (values.get(metric) for metric in ("identity", "concepts", "leakage"))
    if identity is None:
        words = ""
    else:
        words = identity.detail or DASH if identity.value is None else number(identity.value)
    asked = None if concepts is None or concepts.value is None else concepts
    parts = {
        metric.removeprefix("concepts:"): found
        for metric, found in values.items()
        if metric.startswith("concepts:")
    }
    return {
        "image": embedded(row.image, most_pixels=224, mark=mark),
        "seed": row.seed,
        "identity": words,
        "fails": (asked is not None and not asked.value) or (identity is not None and identity.value is None),
        "correct": None if asked is None else bool(asked.value),
        "missed": "" if asked is None else asked.detail.removeprefix("missed "),
        "seen": ", ".join(f"{part}: {found.detail or 'none'}" for part, found in parts.items() if found.value == 0),
        "copied": leakage.detail if leakage is not None and leakage.value else "",
    }
