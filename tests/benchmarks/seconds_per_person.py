"""Seconds to learn one person to the same identity and concepts as diffusers' Textual Inversion script reaches.

Compared: the published script, one person after another, against our preset with the name prior and without, with
several people in one pass, each over a few lengths of training. All people are drawn from the same noise on the same
prompts and scored by the pipeline's own reporting scorers. The script's level is that of the shortest length whose
identity is within the 95 % interval (over people) of its best; ours is the shortest length whose identity and
concepts are not below that level by more than the interval of the paired difference. The figure is the ratio of the
seconds for each person.

Fair: same base model, photo crops, resolution, precision and threads. The script has the batch and learning rate that
the tuning found best for its method in the miniature world (`--script-batch`, `--script-rate`; docs/tuning.md), ours
its preset's with eight slots. The name prior belongs to the base model and is made once for all people of all runs;
its seconds are a row of their own, with the number of people from which on they are regained. The script's seconds
are steps times its measured seconds per step, so that loading the libraries and the model once for each person is not
held against it; ours include the opening and closing of slots.
It learns from our template: its own list ("a rendering of a {}" and such) asks the miniature for half figures, so that
its token has to carry the close-up as well and loses every scene (`--script-template ""` shows it).
The figure is for the miniature only: with random weights nothing is learned that could be scored.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import load_file

from faceid_core.diffusion.base import BaseModel
from faceid_core.evaluate.exported import DrawOptions, measure
from faceid_core.evaluate.grid import PromptGrid, load_grid
from faceid_core.evaluate.intervals import over_people
from faceid_core.evaluate.name_portraits import learn_name_prior
from faceid_core.evaluate.scorers import Scorers, load_scorers
from faceid_core.faces.backends import load_faces
from faceid_core.faces.prepare import prepare_photo
from faceid_core.miniature.samples import PHOTO_PIXELS, portrait
from faceid_core.personalize.known_names import known_names
from faceid_core.personalize.name_prior import NamePrior
from faceid_core.personalize.slots import TrainingPhoto
from faceid_core.personalize.tokens import IdentityTokens
from faceid_core.personalize.trainer import PersonalizeResult, personalize
from faceid_core.photos import encode_png
from faceid_core.stages.name_prior import STEPS
from faceid_core.store.keys import sha256_hex
from faceid_core.weights.describe import MINIATURE

from .measuring import spread
from .models import load, method
from .published_script import MISSING, TOKEN, PublishedScript, folder_with
from .results import Row, absent
from .settings import CPU, FIRST_SEED, Place, Settings

NAME = "seconds-per-person"
SLOTS = 8
# Preset -> its lengths of training, in steps of its own number of samples.
PRIOR, NO_PRIOR = "semantic-fidelity+prior", "semantic-fidelity"
LENGTHS = {PRIOR: (1, 3, 12, 36, 72), NO_PRIOR: (10, 20, 50, 100, 200)}
QUICK_LENGTHS = {PRIOR: (1, 2), NO_PRIOR: (4, 8)}
_CASE = "script's seconds over ours, same identity and concepts"
_BAR = ("at least", 15.0)
_METRICS = ("identity", "concepts", "detection")
_DRAWING = DrawOptions("DPMSolverMultistepScheduler", 12, 4.0, 32)
_SEEDS = (0, 1)


@dataclass(frozen=True)
class Level:
    """What a length of training comes to.

    Attributes:
        samples: of a person's training.
        identity, concepts: one figure for each person, in the same order everywhere.
        seconds: for each person.
    """

    samples: int
    identity: np.ndarray
    concepts: np.ndarray
    seconds: float


def run(settings: Settings) -> list[Row]:
    """The miniature, which is what the scorers know."""
    if not settings.script:
        return [absent(NAME, _CASE, MISSING, bar=_BAR)]
    return _at(CPU, settings)


def _at(place: Place, settings: Settings) -> list[Row]:
    base, scorers = load(place, settings), load_scorers("miniature")
    whole = load_grid("laboratory")
    grid = PromptGrid(whole.name, whole.prompts[:: 10 if settings.quick else 2], whole.digest)
    photos = real_photos(base, settings.people or (2 if settings.quick else SLOTS))
    theirs = script_levels(place, settings, base, scorers, grid, photos)
    aim = reached_first(theirs)
    rows = [_told("script", level, place) for level in theirs]
    for preset, lengths in (QUICK_LENGTHS if settings.quick else LENGTHS).items():
        prior, prior_seconds = _prior(base, settings) if preset == PRIOR else (None, 0.0)
        ours = [our_level(base, scorers, grid, photos, preset, steps, prior) for steps in lengths]
        rows += [_told(preset, level, place) for level in ours]
        rows += _gain(preset, ours, aim, prior_seconds, place)
    return rows


def _prior(base: BaseModel, settings: Settings) -> tuple[NamePrior, float]:
    """The name prior as a run makes it, and its seconds."""
    asked = method(PRIOR)
    names = known_names(MINIATURE, "")
    began = time.perf_counter()
    made = learn_name_prior(
        base, names, template=asked.template, portraits=asked.prior_portraits, components=asked.basis_size,
        steps=2 if settings.quick else STEPS,
    )  # fmt: skip
    return made, time.perf_counter() - began


def _gain(preset: str, ours: list[Level], aim: Level, prior_seconds: float, place: Place) -> list[Row]:
    """How much sooner a preset reaches the script's level, and what its prior costs beside that."""
    case = f"{preset}: {_CASE}"
    enough = next((level for level in ours if not below(level, aim)), None)
    if enough is None:
        why = f"no length up to {ours[-1].samples} samples reached the script's level"
        return [absent(NAME, case, why, device=place.label, bar=_BAR)]
    note = f"samples: script {aim.samples}, ours {enough.samples}"
    rows = [Row(NAME, case, "x", spread([aim.seconds / enough.seconds]), _BAR, place.label, note)]
    if prior_seconds:
        spared = aim.seconds - enough.seconds
        regained = f"regained with {prior_seconds / spared:.0f} people" if spared > 0 else "not regained"
        note = f"once for a base model, {regained}"
        rows.append(
            Row(NAME, f"{preset}: the name prior", "s", spread([prior_seconds]), None, place.label, note)
        )
    return rows


def real_photos(base: BaseModel, count: int) -> list[TrainingPhoto]:
    """Rendered people taken through detection, alignment, parsing and masking, as in a run."""
    detector, parser = load_faces("miniature")
    found = []
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        data = encode_png(portrait(seed, pixels=PHOTO_PIXELS))
        one = prepare_photo(data, detector=detector, parser=parser, size=base.description.resolution)
        crop, valid = one.detection.crop, one.detection.valid
        found.append(TrainingPhoto(f"person-{seed}", sha256_hex(data), crop, one.mask, valid))
    return found


def our_level(
    base: BaseModel,
    scorers: Scorers,
    grid: PromptGrid,
    photos: list[TrainingPhoto],
    preset: str,
    steps: int,
    prior: NamePrior | None,
) -> Level:
    """All people learned together in so many steps, drawn and scored."""
    learned, slots = method(preset, steps=steps), min(SLOTS, len(photos))
    # A run does once for all its people what the first training in a process does: kernels, the names' contexts.
    list(personalize(base, photos, method(preset, steps=1), slots=slots, prior=prior))
    began = time.perf_counter()
    results = list(personalize(base, photos, learned, slots=slots, prior=prior))
    seconds = (time.perf_counter() - began) / len(photos)
    tokens = {each.name: each.tokens for each in results if isinstance(each, PersonalizeResult)}
    return _scored(base, scorers, grid, photos, tokens, steps * learned.samples_per_step, seconds)


def script_levels(
    place: Place, settings: Settings, base: BaseModel, scorers: Scorers, grid: PromptGrid, photos: list
) -> list[Level]:
    """The script's people at a quarter, half and all of its steps: one run saves all three."""
    steps, batch = (8 if settings.quick else settings.script_steps), settings.script_batch
    side, lengths = base.description.resolution, (steps // 4, steps // 2, steps)
    files = {}
    for photo in photos:
        folder = folder_with(settings.scratch / "script-photos" / photo.name, photo.image)
        script = PublishedScript(settings, place, folder, side)
        files[photo.name] = script.run(
            steps=steps, batch=batch, rate=settings.script_rate, save_every=steps // 4
        )
    script = PublishedScript(settings, place, settings.scratch / "script-photos" / photos[0].name, side)
    each = spread(
        [script.seconds_per_step(batch=batch, short=5, long=5 + steps) for _ in range(settings.repeats)]
    ).median
    found = []
    for length in lengths:
        name = f"learned_embeds-steps-{length}.safetensors"
        tokens = {who: as_tokens(base, load_file(out / name)[TOKEN]) for who, out in files.items()}
        found.append(_scored(base, scorers, grid, photos, tokens, length * batch, length * each))
    return found


def as_tokens(base: BaseModel, vectors: torch.Tensor) -> IdentityTokens:
    """The script's vectors, [vectors, width], as tokens with one stage and K = V."""
    about = base.description
    tower = next(iter(base.towers))
    return IdentityTokens(
        tensors={tower: vectors.float().cpu()[None, None].expand(1, 2, -1, -1).contiguous()},
        base_digest=about.digest,
        class_word="person",
        template="a photo of a {}",
        boundaries=(),
        training_timesteps=about.training_timesteps,
        prediction_type=about.prediction_type,
        photo_digest="0" * 64,
    )


def reached_first(levels: list[Level]) -> Level:
    """The shortest training that is, within the interval, no worse than the one with the best identity."""
    best = max(levels, key=lambda level: float(level.identity.mean()))
    return next(level for level in levels if level is best or not below(level, best))


def below(level: Level, aim: Level) -> bool:
    """Whether identity or concepts are below another level's by more than the paired interval of the people."""
    for ours, theirs in ((level.identity, aim.identity), (level.concepts, aim.concepts)):
        difference = over_people((ours - theirs).tolist())
        if (difference.high if difference.high is not None else difference.mean) < 0:
            return True
    return False


def _scored(
    base: BaseModel,
    scorers: Scorers,
    grid: PromptGrid,
    photos: list,
    tokens: dict,
    samples: int,
    seconds: float,
) -> Level:
    if lost := [photo.name for photo in photos if photo.name not in tokens]:
        raise RuntimeError(
            f"the training of {', '.join(lost)} stopped; the same people must stand on both sides"
        )
    found = [
        measure(
            base, {"it": tokens[p.name]}, p.image, p.class_word, grid, _SEEDS, _DRAWING, scorers, _METRICS
        )["it"]
        for p in photos
    ]
    figures = {name: np.nan_to_num([each[name] for each in found]) for name in ("identity", "concepts")}
    return Level(samples, figures["identity"], figures["concepts"], seconds)


def _told(whose: str, level: Level, place: Place) -> Row:
    note = f"identity {level.identity.mean():.3f}, concepts {level.concepts.mean():.3f}"
    case = f"{whose}, {level.samples} samples: each person"
    return Row(NAME, case, "s", spread([level.seconds]), None, place.label, note)
