"""Choose settings of the method on tuning people.

`python -m faceid_core.miniature_training.tune --set learning_rate=0.01,0.02`

Tries every combination of the given values on the same people, photos and noise. The measure is how well the tokens
explain other pictures of the person (`other_pictures.py`), without a scorer. `--score` also draws pictures and measures
identity, concept accuracy and leaked clothes with the selection set (`tune_scores.py`). `--named` uses people whom the
base model knows, one photo each; the row of their names is the ceiling. Presets that start at names or learn along their
components have these people's own names among them.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from faceid_core.config.method import Method
from faceid_core.config.presets import PRESETS
from faceid_core.diffusion.base import BaseModel, load_base_model
from faceid_core.evaluate.name_portraits import learn_name_prior
from faceid_core.faces.backends import load_faces
from faceid_core.faces.prepare import prepare_photo
from faceid_core.miniature.people import NAMED_SEEDS, TUNING_SEEDS, name_of
from faceid_core.miniature.samples import clothes_of, portrait
from faceid_core.miniature_training.other_pictures import (
    Explained,
    OtherPictures,
    explain,
    mean_explained,
    other_pictures,
)
from faceid_core.miniature_training.tune_scores import mean_scores, person_evaluator
from faceid_core.personalize.known_names import known_names
from faceid_core.personalize.name_prior import NamePrior
from faceid_core.personalize.slots import TrainingPhoto
from faceid_core.personalize.tokens import IdentityTokens
from faceid_core.personalize.trainer import PersonalizeResult, personalize
from faceid_core.photos import encode_png
from faceid_core.stages.name_prior import STEPS
from faceid_core.store.keys import sha256_hex

CLASS_WORD = "person"
_COLUMNS = ("whole", "face", "rest", "identity", "concepts", "clothes")


def training_photos(seeds: Sequence[int], region: str = "face") -> list[TrainingPhoto]:
    """The tuning people's photos, prepared as in a run."""
    detector, parser = load_faces("miniature")
    photos = []
    for seed in seeds:
        data = encode_png(portrait(seed))
        made = prepare_photo(data, detector=detector, parser=parser, size=64, region=region)
        photos.append(
            TrainingPhoto(
                name=str(seed),
                photo_digest=sha256_hex(data),
                image=made.detection.crop,
                mask=made.mask,
                valid=made.detection.valid,
                class_word=CLASS_WORD,
            )
        )
    return photos


def try_method(
    base: BaseModel, method: Method, photos: Sequence[TrainingPhoto], pictures: Mapping[str, OtherPictures]
) -> tuple[Explained, float, dict[str, IdentityTokens]]:
    """Personalize all photos with `method`.

    Returns:
        mean errors on the people's other pictures, not a number if one person's training failed; seconds per person;
        tokens by person.
    """
    began = time.monotonic()
    prior = miniature_prior(base, method) if method.needs_prior else None
    results = list(personalize(base, photos, method, slots=len(photos), prior=prior))
    seconds = (time.monotonic() - began) / len(photos)
    tokens = {result.name: result.tokens for result in results if isinstance(result, PersonalizeResult)}
    if len(tokens) < len(photos):
        return Explained(float("nan"), float("nan"), float("nan")), seconds, {}
    explained = [explain(base, learned, pictures[name]) for name, learned in tokens.items()]
    return mean_explained(explained), seconds, tokens


_PRIORS: dict[tuple[str, int, int], NamePrior] = {}


def miniature_prior(base: BaseModel, method: Method) -> NamePrior:
    """The name prior of the miniature for a method, made once for its template, portraits and components."""
    choice = (method.template, method.prior_portraits, method.basis_size)
    if choice not in _PRIORS:
        template, portraits, components = choice
        names = known_names("miniature", "")
        _PRIORS[choice] = learn_name_prior(
            base, names, template=template, portraits=portraits, components=components, steps=STEPS
        )
    return _PRIORS[choice]


def _parse_choice(text: str) -> tuple[str, list[Any]]:
    name, _, values = text.partition("=")
    return name, [yaml.safe_load(value) for value in values.split(",")]


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, try every combination, append a row for each to a CSV file."""
    parser = argparse.ArgumentParser(
        prog="python -m faceid_core.miniature_training.tune", description=__doc__
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="semantic-fidelity")
    parser.add_argument("--set", action="append", default=[], type=_parse_choice, metavar="NAME=VALUE,VALUE")
    parser.add_argument("--people", type=int, default=8, help="how many tuning people")
    parser.add_argument(
        "--precision", choices=["float32", "bfloat16"], default="float32", help="of the network"
    )
    parser.add_argument("--score", action="store_true", help="also draw pictures and score them")
    parser.add_argument(
        "--named", action="store_true", help="named people instead, with the row of their names"
    )
    parser.add_argument("--out", type=Path, default=Path("work/tuning.csv"), help="rows are appended")
    options = parser.parse_args(arguments)
    base = load_base_model(precision=options.precision)
    seeds = (NAMED_SEEDS if options.named else TUNING_SEEDS)[: options.people]
    photos = training_photos(seeds)
    pictures = {str(seed): other_pictures(base, seed, clothes=clothes_of(seed)) for seed in seeds}
    floor = mean_explained([explain(base, CLASS_WORD, pictures[str(seed)]) for seed in seeds])
    print(f"class word: error {floor.whole:.4f}, face {floor.face:.4f}, rest {floor.rest:.4f}", flush=True)
    evaluate_person = person_evaluator(base) if options.score else None

    def row(
        what: str, found: Explained, subjects: Mapping[str, IdentityTokens | str], seconds: float
    ) -> None:
        # Share of the class word's error that the subjects remove.
        shown = [f"{1 - a / b:.4f}" for a, b in zip(_three(found), _three(floor), strict=True)]
        if evaluate_person and subjects:
            scores = mean_scores([evaluate_person(int(name), subject) for name, subject in subjects.items()])
            shown += [f"{value:.3f}" for value in (scores.identity, scores.concepts, scores.clothes)]
        else:
            shown += [""] * 3
        rows.writerow((options.preset, what, len(seeds), *shown, f"{seconds:.1f}"))
        stream.flush()
        summary = ", ".join(f"{name} {value}" for name, value in zip(_COLUMNS, shown, strict=True) if value)
        print(f"{what or options.preset}: {summary}; {seconds:.1f} s a person", flush=True)

    names = [name for name, _ in options.set]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    is_new = not options.out.exists()
    with options.out.open("a", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        if is_new:
            rows.writerow(("preset", "settings", "people", *_COLUMNS, "seconds_per_person"))
        if options.score:
            row("class word", floor, {str(seed): CLASS_WORD for seed in seeds}, 0.0)
        if options.named:
            known = {str(seed): name_of(seed) for seed in seeds}
            found = mean_explained([explain(base, name, pictures[seed]) for seed, name in known.items()])
            row("their names", found, known, 0.0)
        for values in itertools.product(*(choices for _, choices in options.set)):
            chosen = dict(zip(names, values, strict=True))
            method = Method.model_validate({**PRESETS[options.preset].model_dump(), **chosen})
            found, seconds, tokens = try_method(base, method, photos, pictures)
            row(" ".join(f"{name}={value}" for name, value in chosen.items()), found, tokens, seconds)


def _three(found: Explained) -> tuple[float, float, float]:
    return found.whole, found.face, found.rest


if __name__ == "__main__":
    main(sys.argv[1:])
