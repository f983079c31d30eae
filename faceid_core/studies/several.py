"""Study of two people in one picture: draws pairs of a run's people, and of people whom the model knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError
from faceid_core.evaluate.intervals import mean_of
from faceid_core.run.state import Run
from faceid_core.stages.work import Subject
from faceid_core.store import StageCache

from .compare import differences_from, mean_over_people
from .page import interval_text, markdown, paired_table
from .rows import CEILING, PERSON
from .study import Study

if TYPE_CHECKING:
    from faceid_core.diffusion.base import BaseModel
    from faceid_core.evaluate.scorers import Scorers
    from faceid_core.personalize.tokens import IdentityTokens

PROMPTS = (
    ("a photo of V1* and V2*", None),
    ("a photo of the face of V1* and V2*", None),
    ("a photo of V1* and V2* on the beach", "beach"),
    ("a photo of V1* and V2* in the forest", "forest"),
    ("a photo of V1* and V2* in the snow", "snow"),
    ("a photo of V1* and V2* in the city", "city"),
)
# Height and width in pixels: of twice the places for a face, each as large as alone.
SIZE = (64, 96)
MEASURES = {
    "both_found": "both found",
    "each_own": "each nearer to its own",
    "in_order": "in the prompt's order",
    "identity": "similarity",
    "mixing": "mixing",
    "scene_obeyed": "scene",
}
FIGURES = ("images", *MEASURES)


def pair_rows(
    variant: str, run: Run, print_line: Callable[[str], None], *, with_ceiling: bool
) -> list[dict]:
    """Draw the run's people in pairs, in the order of their ids; a row for each pair.

    Args:
        variant: label.
        run: with its people learned; who has no tokens leaves out the pair.
        print_line: told of pairs that are left out.
        with_ceiling: also draw pairs of named people, which are the same for every variant.

    Raises:
        ConfigurationError: fewer than two people were learned.
    """
    from faceid_core.stages.models import Models, WorkerSettings

    config = run.config
    models = Models(WorkerSettings.from_config(config, run.plan.weights, threads=0))
    people = sorted((s for s in run.subjects.values() if s.kind == PERSON), key=lambda s: str(s.identity_id))
    pairs, left_out = [], []
    for first, second in zip(people[::2], people[1::2], strict=False):
        whole = all("personalize" in each.manifests for each in (first, second))
        (pairs if whole else left_out).append((first, second))
    if left_out:
        print_line(f"  {len(left_out)} pairs are left out: one of the two has no tokens")
    if not pairs:
        raise ConfigurationError("no two people were learned, so there is no pair to draw")
    named = [subject for subject in run.subjects.values() if subject.kind == "named"]
    origin = {"device": models.device, "run_id": run.run_id}
    learned = [(f"{a.identity_id} and {b.identity_id}", (a, b)) for a, b in pairs]
    known = [(f"{a.text} and {b.text}", (a, b)) for a, b in zip(named[::2], named[1::2], strict=False)]
    known = known if with_ceiling else []
    base, scorers = models.base, models.scorers
    return [
        {**row, "condition": "", "variant": variant if kind == PERSON else "", "kind": kind, **origin}
        for kind, chosen in ((PERSON, learned), (CEILING, known))
        for row in _drawn_rows(run, base, scorers, chosen)
    ]


def _drawn_rows(
    run: Run, base: BaseModel, scorers: Scorers, pairs: Sequence[tuple[str, tuple[Subject, Subject]]]
) -> Iterator[dict]:
    from faceid_core.evaluate.generation import DrawRequest, draw
    from faceid_core.evaluate.pairs import judge_pair

    chosen = run.config.generate
    requests = [
        DrawRequest(subjects, prompt, seed)
        for _, two in pairs
        for subjects in [(_subject(run, two[0]), _subject(run, two[1]))]
        for seed in range(chosen.seeds)
        for prompt, _ in PROMPTS
    ]
    drawn = draw(
        base,
        requests,
        sampler=chosen.sampler,
        steps=chosen.steps,
        guidance_scale=chosen.guidance_scale,
        batch=chosen.batch,
        size=SIZE,
        record_attention=False,
    )
    images = [picture.image for picture in drawn]
    faces = scorers.detector.detect(images)
    named = [each.scene for each in scorers.namer.concepts(images)] if scorers.namer else [None] * len(images)
    for number, (title, two) in enumerate(pairs):
        known = np.stack([_known(run, scorers, each) for each in two])
        count = len(PROMPTS) * chosen.seeds
        own = range(number * count, (number + 1) * count)
        figures = [asdict(judge_pair(scorers, images[i], faces[i], known)) for i in own]
        row = {name: mean_of([float(f[name]) for f in figures if f[name] is not None]) for name in figures[0]}
        scenes = [named[i] == scene for i, (_, scene) in zip(own, PROMPTS * chosen.seeds, strict=True) if scene]
        yield {"subject": title, "images": len(own), **row, "scene_obeyed": float(np.mean(scenes))}


def _subject(run: Run, subject: Subject) -> IdentityTokens | str:
    from faceid_core.personalize.tokens import IdentityTokens

    if subject.kind != PERSON:
        return str(subject.text)
    cache = StageCache(run.store, subject.scope)
    return IdentityTokens.from_bytes(cache.read(subject.manifests["personalize"], "tokens.safetensors"))


def _known(run: Run, scorers: Scorers, subject: Subject) -> np.ndarray:
    """The recognizer's unit vector of a person's photo, or of the portrait that the renderer draws of a named one."""
    from faceid_core.evaluate.pictures import embed_reference
    from faceid_core.stages.files import read_png

    if subject.kind == PERSON:
        photo = read_png(StageCache(run.store, subject.scope).read(subject.manifests["detect"], "crop.png"))
    else:
        from faceid_core.miniature.samples import portrait, seed_of_name

        seed = seed_of_name(str(subject.text))
        assert seed is not None, "the ceiling's people are the miniature's"
        photo = portrait(seed)
    vector = embed_reference(scorers, photo)
    if vector is None:
        raise ConfigurationError(f"{scorers.name} find no face in the photo of {subject.identity_id or subject.text}")
    return vector


def write_pairs_page(study: Study, frame: pd.DataFrame, shared: NightlyConfig, out: Path) -> Path:
    """Write the page beside the CSV."""
    page = out / f"{study.name}.md"
    page.write_text("\n".join(_lines(study, frame, shared)) + "\n", encoding="utf-8")
    return page


def _lines(study: Study, frame: pd.DataFrame, shared: NightlyConfig) -> Iterator[str]:
    measured = [label for label in study.labels if label in set(frame.variant)]
    pairs = frame[frame.kind == PERSON].subject.nunique()
    yield f"# Study {study.name}\n"
    yield f"{study.question}\n"
    prompts = ", ".join(f"`{text}`" for text, _ in PROMPTS)
    yield (
        f"{pairs} pairs of held-out people, one photo each, drawn together in pictures of {SIZE[1]} x {SIZE[0]} pixels, "
        f"{len(PROMPTS)} prompts x {shared.generate.seeds} seeds: {prompts}; scorers "
        f"`{shared.score.scorers}`. Means with 95 % intervals over pairs (Student's t), computed on "
        f"{' and '.join(sorted(set(frame.device) - {''})) or 'nothing yet'}. Rows: "
        f"[`{study.name}.csv`]({study.name}.csv).\n"
    )
    yield (
        "*Both found*: pictures with two faces. *Each nearer to its own*: and each face is nearer to another of the two "
        "people than to the other one. *Mixing*: likeness to the other person above that of the two photos to each "
        "other. *Scene*: the scene asked for is the one seen.\n"
    )
    left = [label for label in study.labels if label not in measured]
    if left:
        yield f"Not measured yet: {', '.join(left)}.\n"
    rows = [
        [f"**{label}**" if label == study.default else label, str((frame.variant == label).sum())]
        + [interval_text(mean_over_people(frame, label, name)) for name in MEASURES]
        for label in measured
    ]
    ceiling = frame[frame.kind == CEILING]
    means = [mean_of(ceiling[name].dropna().to_list()) for name in MEASURES]
    rows.append(["named people (ceiling)", str(len(ceiling)), *("" if m is None else f"{m:.3f}" for m in means)])
    yield from markdown(["variant", "pairs", *MEASURES.values()], rows)
    others = [label for label in measured if label != study.default]
    if study.default in measured and others:
        yield f"\n## Against the default, {study.default}\n"
        found = {name: differences_from(frame, name, study.default, measured) for name in MEASURES}
        yield from paired_table(found, others, MEASURES, over="pairs")
