"""The scorers' training pictures: rendered once, stored as arrays, augmented in each batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np

from faceid_core.miniature import people
from faceid_core.miniature.concepts import (
    ATTRIBUTES,
    BEARDS,
    CLOTHES,
    FRAMINGS,
    HAIR_STYLES,
    MARKS,
    OBJECTS,
    SCENES,
)
from faceid_core.miniature.renderer import LABELS, Shot, render, sample_shot
from faceid_core.miniature.scorer_geometry import warp
from faceid_core.miniature.scorer_networks import SIZE

# Answers of the heads that name one of several; the last of each is "none".
SCENE_ANSWERS = (*SCENES, None)
HELD_ANSWERS = (*OBJECTS, None)
CLOTHES_ANSWERS = (*CLOTHES, None)

# Clothes are visible from the higher share of the picture's pixels on and invisible below the lower; in between the
# picture does not train the clothes head.
CLOTHES_VISIBLE, CLOTHES_HIDDEN = 0.02, 0.005


@dataclass(frozen=True)
class Training:
    """The training data of a set of scorers; no two sets share any.

    Args:
        people: seeds of the people.
        shots_seed: of what their pictures show.
        batches_seed: of the networks' first weights and of what each batch draws.
    """

    people: range
    shots_seed: int
    batches_seed: int


SELECTION = Training(people.SCORER_TRAINING_SEEDS, shots_seed=1, batches_seed=0)
REPORTING = Training(people.SECOND_SCORER_TRAINING_SEEDS, shots_seed=2, batches_seed=1000)


@dataclass(frozen=True)
class Renders:
    """Rendered pictures of people and their annotations; n pictures, arrays of equal length.

    Args:
        images: uint8 [n, 64, 64, 3].
        labels: uint8 [n, 64, 64], indices of `renderer.LABELS`.
        seeds: int64 [n], whose picture it is.
        framing: int64 [n], index of `concepts.FRAMINGS`.
        scene: int64 [n], index of `SCENE_ANSWERS`; `held` likewise.
        clothes: int64 [n], index of `CLOTHES`: what is worn, seen or not.
        clothes_seen: int64 [n], index of `CLOTHES_ANSWERS`, or -100 where it is unclear.
        attributes: bool [n, 6], in the order of `concepts.ATTRIBUTES`.
        boxes: float32 [n, 4]; eyes: float32 [n, 4] as left x, y, right x, y; pixels.
    """

    images: np.ndarray
    labels: np.ndarray
    seeds: np.ndarray
    framing: np.ndarray
    scene: np.ndarray
    held: np.ndarray
    clothes: np.ndarray
    clothes_seen: np.ndarray
    attributes: np.ndarray
    boxes: np.ndarray
    eyes: np.ndarray

    def __len__(self) -> int:
        return len(self.seeds)

    def shot(self, index: int) -> Shot:
        """The shot of one picture, for its caption, without the figure's position."""
        return Shot(
            framing=FRAMINGS[self.framing[index]],
            scene=SCENE_ANSWERS[self.scene[index]],
            clothes=CLOTHES[self.clothes[index]],
            held=HELD_ANSWERS[self.held[index]],
            attributes=frozenset(
                name for name, on in zip(ATTRIBUTES, self.attributes[index], strict=True) if on
            ),
        )


def _seen_clothes(labels: np.ndarray, clothes: int) -> int:
    share = float((labels == LABELS.index("clothes")).mean())
    if share >= CLOTHES_VISIBLE:
        return clothes
    return len(CLOTHES) if share < CLOTHES_HIDDEN else -100


def render_people(seeds: Sequence[int], shots_each: int, *, seed: int) -> Renders:
    """Render each person in several shots, half of them close-ups, half of them half figures.

    Args:
        seeds: of the people.
        shots_each: pictures of each person, one after the other in the result.
        seed: of the shots.
    """
    rng = np.random.default_rng(seed)
    rows = {field.name: [] for field in fields(Renders)}
    for person_seed in seeds:
        person = people.person_from_seed(person_seed)
        for number in range(shots_each):
            shot = sample_shot(rng, framing=FRAMINGS[number % 2])
            drawn = render(person, shot)
            clothes = CLOTHES.index(shot.clothes)
            row = {
                "images": drawn.image,
                "labels": drawn.labels,
                "seeds": person_seed,
                "framing": number % 2,
                "scene": SCENE_ANSWERS.index(shot.scene),
                "held": HELD_ANSWERS.index(shot.held),
                "clothes": clothes,
                "clothes_seen": _seen_clothes(drawn.labels, clothes),
                "attributes": [name in shot.attributes for name in ATTRIBUTES],
                "boxes": np.array(drawn.boxes[0], np.float32),
                "eyes": np.array(drawn.eyes[0], np.float32).reshape(4),
            }
            for name, value in row.items():
                rows[name].append(value)
    return Renders(**{name: np.asarray(values) for name, values in rows.items()})


def training_renders(
    folder: Path, training: Training = SELECTION, *, persons: int = 16_000, shots_each: int = 4
) -> Renders:
    """The training pictures, rendered at the first call (about 90 s) and read from `folder` afterwards.

    Args:
        folder: where the arrays lie, one .npy file each.
        training: whose people and shots.
        persons: how many of the people, from the first.
    """
    folder = folder / f"renders-{training.people.start}-{training.shots_seed}-{persons}x{shots_each}"
    names = [field.name for field in fields(Renders)]
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        made = render_people(training.people[:persons], shots_each, seed=training.shots_seed)
        for name in names:
            np.save(folder / f"{name}.npy", getattr(made, name))
        (folder / "complete").touch()
    return Renders(**{name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in names})


def person_traits(seed: int) -> np.ndarray:
    """A person's identity parameters, of about unit spread: float32 [39].

    Colors, proportions, and the choices (hair style, beard, marks) as one-hot rows.
    """
    person = people.person_from_seed(int(seed))
    colors = np.array([*person.skin, *person.hair_color, *person.eye_color, *person.lip_color]) / 255
    spans = (
        (person.face_width, 0.66, 0.90), (person.face_height, 0.94, 1.04), (person.jaw, 0.0, 1.0),
        (person.eye_size, 0.85, 1.25), (person.eye_spacing, 0.30, 0.41), (person.brow_thickness, 0.05, 0.14),
        (person.brow_tilt, -1.0, 1.0), (person.nose_width, 0.09, 0.20), (person.nose_length, 0.28, 0.42),
        (person.mouth_width, 0.24, 0.40),
    )  # fmt: skip
    choices = ((person.hair_style, HAIR_STYLES), (person.beard, BEARDS), (person.marks, MARKS))
    return np.concatenate(
        [
            (colors - 0.5) * 4,
            [(value - low) / (high - low) * 3.4 - 1.7 for value, low, high in spans],
            *[2.0 * (np.array(known) == value) - 0.5 for value, known in choices],
        ]
    ).astype(np.float32)


# Drawn once: normal numbers for every channel would cost more than the blur.
_GRAIN = np.random.default_rng(7).standard_normal((512, 512, 3), dtype=np.float32)


def _grain(rng: np.random.Generator, side: int) -> np.ndarray:
    y, x = rng.integers(0, 512 - side, 2)
    return _GRAIN[y : y + side, x : x + side]


def augment_geometry(
    images: np.ndarray, rng: np.random.Generator, *, zoom: tuple[float, float], shift: float
) -> np.ndarray:
    """Mirror half of the pictures; scale and shift two in five.

    Args:
        images: uint8 [n, 64, 64, 3].
        zoom: (lowest, highest) factor.
        shift: largest shift in pixels to each side.

    Returns:
        uint8 [n, 64, 64, 3], a copy.
    """
    images = images.copy()
    for number in range(len(images)):
        if rng.random() < 0.5:
            images[number] = images[number, :, ::-1]
        if rng.random() < 0.4:
            factor, offset = rng.uniform(*zoom), rng.uniform(-shift, shift, 2)
            offset += SIZE / 2 * (1 - factor)
            images[number] = warp(images[number], np.array([[factor, 0, offset[0]], [0, factor, offset[1]]]))
    return images


def augment_appearance(images: np.ndarray, rng: np.random.Generator, *, strength: float = 1.0) -> np.ndarray:
    """Imitate a generator's pictures: softer, noisier, with slightly different colors.

    Args:
        images: uint8 [n, side, side, 3].
        strength: 0 changes nothing; 1 blurs with up to 0.95 pixels.

    Returns:
        uint8 [n, side, side, 3], a copy. A third of the pictures stay sharp.
    """
    out = np.empty_like(images)
    for index, image in enumerate(images):
        if rng.random() > 0.33:
            if rng.random() < 0.5:
                image = cv2.GaussianBlur(image, (5, 5), 0.35 + 0.6 * strength * rng.random())
            else:
                share = strength * rng.uniform(0.2, 1.0)
                height, width = image.shape[:2]
                half = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
                soft = cv2.resize(half, (width, height), interpolation=cv2.INTER_CUBIC)
                image = cv2.addWeighted(image, 1 - share, soft, share, 0)
        gain = 1 + strength * 0.03 * rng.standard_normal(3) * (rng.random() < 0.7)
        shift = strength * 3.0 * rng.standard_normal(3)
        noise = strength * rng.uniform(0, 6) * (rng.random() < 0.6)
        mixed = image * gain.astype(np.float32) + shift.astype(np.float32)
        if noise:
            # Noise of half the resolution, enlarged, looks like a decoder's; pixel noise like a camera's.
            side = image.shape[0]
            fine = rng.random() < 0.5
            grain = _grain(rng, side) if fine else cv2.resize(_grain(rng, side // 2), (side, side))
            mixed = mixed + grain * np.float32(noise)
        out[index] = np.clip(mixed, 0, 255)
    return out
