"""Measures the generator against fixed thresholds: `python -m faceid_core.miniature_training.measure WHAT`."""

import argparse
import json
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from faceid_core.config.presets import PRESETS
from faceid_core.miniature.captions import SCENE_PHRASES
from faceid_core.miniature.concepts import SCENES
from faceid_core.miniature.people import HELD_OUT_SEEDS, NAMED_SEEDS, name_of, person_from_seed
from faceid_core.miniature.renderer import Shot, render
from faceid_core.miniature_training.autoencoder import to_images, to_tensor
from faceid_core.miniature_training.measure_scorers import SETS, measure_image_text, measure_recognizer
from faceid_core.miniature_training.pipeline_folder import PIPELINE, load_pipeline
from faceid_core.miniature_training.scorer_data import render_people

_SEED = 77
_GUIDANCE = 3.0
_STEPS = 25


@torch.no_grad()
def round_trip(vae: AutoencoderKL, images: np.ndarray, batch: int = 50) -> np.ndarray:
    """Pictures uint8 [N, H, W, 3] encoded to the mean of their posterior and decoded."""
    parts = []
    for start in range(0, len(images), batch):
        latents = vae.encode(to_tensor(images[start : start + batch])).latent_dist.mean
        parts.append(to_images(vae.decode(latents).sample))
    return np.concatenate(parts)


def measure_gate(folder: Path, chosen: ModuleType, *, people: int = 200, shots: int = 6) -> dict:
    """What the autoencoder preserves: rank-1 recognition among 100 held-out people, and every concept.

    Args:
        folder: a pipeline's.
        chosen: the set of scorers, of `SETS`.
        people: held-out ones.
        shots: pictures of each.
    """
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    renders = render_people(HELD_OUT_SEEDS[:people], shots, seed=_SEED)
    report = {}
    for name, images in (
        ("raw", renders.images),
        ("through the autoencoder", round_trip(vae, renders.images)),
    ):
        error = np.abs(images.astype(np.float32) - renders.images).mean() / 127.5
        report[name] = {
            "L1 of a range of 2": round(float(error), 4),
            "recognizer": measure_recognizer(renders, images, chosen, gallery=100),
            "concepts": measure_image_text(renders, images, chosen),
        }
    return report


def _draw(
    pipeline: StableDiffusionPipeline, prompts: list[str], seed: int, batch: int = 16
) -> list[np.ndarray]:
    images = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        generators = [torch.Generator().manual_seed(seed + start + index) for index in range(len(part))]
        drawn = pipeline(
            part, num_inference_steps=_STEPS, guidance_scale=_GUIDANCE, generator=generators, output_type="np"
        )
        images += list((drawn.images * 255).round().astype(np.uint8))
    return images


def _faces(images: list[np.ndarray], chosen: ModuleType) -> tuple[np.ndarray, list[int]]:
    """The recognizer's vectors of the pictures with a face, and these pictures' indices."""
    found = chosen.load_detector().detect(images)
    seen = [index for index, faces in enumerate(found) if faces]
    vectors = chosen.load_recognizer().embed_faces([images[i] for i in seen], [found[i][0] for i in seen])
    return vectors, seen


def measure_pipeline(folder: Path, chosen: ModuleType, *, people: int = 64) -> dict:
    """Whether a name draws its person, and whether the namer sees the requested scene.

    Each of `people` named people is drawn twice: as a close-up, and as a half figure in a scene. A picture
    is recognized if it is more similar to that person's reference close-up than to those of 20 others, drawn at
    random; a picture without a face is not.
    """
    began = time.monotonic()
    pipeline = load_pipeline(folder)
    rng = np.random.default_rng(_SEED)
    seeds = rng.permutation(np.array(NAMED_SEEDS))[:people].tolist()
    references = [
        render(person_from_seed(seed), Shot(framing="face", clothes="blue shirt", backdrop_seed=seed)).image
        for seed in NAMED_SEEDS
    ]
    known, seen = _faces(references, chosen)
    row_of = {NAMED_SEEDS[index]: row for row, index in enumerate(seen)}
    scenes = [SCENES[index % len(SCENES)] for index in range(people)]
    close_ups = _draw(pipeline, [f"a photo of the face of {name_of(seed)}" for seed in seeds], _SEED)
    halves = _draw(
        pipeline,
        [f"a photo of {name_of(s)} {SCENE_PHRASES[scene]}" for s, scene in zip(seeds, scenes, strict=True)],
        _SEED + 1000,
    )
    crowd = _draw(
        pipeline,
        [f"a photo of person {SCENE_PHRASES[scene]}" for scene in SCENES for _ in range(4)],
        _SEED + 2000,
    )
    report: dict = {"people": people, "steps": _STEPS, "guidance": _GUIDANCE}
    for title, images in (("close-ups", close_ups), ("half figures", halves)):
        vectors, seen = _faces(images, chosen)
        hits = 0
        for vector, index in zip(vectors, seen, strict=True):
            others = rng.choice([s for s in row_of if s != seeds[index]], 20, replace=False)
            alike = known[[row_of[seeds[index]], *(row_of[int(s)] for s in others)]] @ vector
            hits += int(alike.argmax() == 0)
        report[f"{title}: nearest to the person named, of 21"] = round(hits / people, 3)
        report[f"{title}: face found"] = round(len(seen) / people, 3)
    named = [concepts.scene for concepts in chosen.load_image_text().concepts(halves)]
    report["scene named is the scene asked, named people"] = float(
        np.mean([a == b for a, b in zip(named, scenes, strict=True)])
    )
    named = [concepts.scene for concepts in chosen.load_image_text().concepts(crowd)]
    report["scene named is the scene asked, person"] = float(
        np.mean([name == SCENES[index // 4] for index, name in enumerate(named)])
    )
    report["seconds"] = round(time.monotonic() - began)
    return report


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, measure, print JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m faceid_core.miniature_training.measure", description=__doc__
    )
    parser.add_argument("what", choices=("gate", "pipeline", "words", "pairs"))
    parser.add_argument("--folder", type=Path, default=PIPELINE, help="a pipeline folder")
    parser.add_argument("--people", type=int, help="how many held-out (gate) or named (pipeline) people, or pairs")
    parser.add_argument(
        "--set", choices=sorted(SETS), default="reporting", help="of scorers (default reporting)"
    )
    parser.add_argument("--learned", choices=sorted(PRESETS), help="of pairs: people whom this preset learned, too")
    options = parser.parse_args(arguments)
    if options.learned and options.what != "pairs":
        parser.error("--learned is of pairs")
    given = {"people": options.people} if options.people else {}
    if options.what in ("words", "pairs"):
        from faceid_core.miniature_training.measure_pairs import measure_learned_pairs, measure_pairs
        from faceid_core.miniature_training.measure_words import measure_words

        scorers = {"reporting": "miniature", "selection": "miniature-selection"}[options.set]
        if options.what == "words":
            found = measure_words(options.folder, scorers)
        elif options.learned:
            found = measure_learned_pairs(options.folder, scorers, options.learned, **given)
        else:
            found = measure_pairs(options.folder, scorers, **given)
        print(json.dumps(found, indent=2))
        return
    measured = {"gate": measure_gate, "pipeline": measure_pipeline}[options.what](
        options.folder, SETS[options.set], **given
    )
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
