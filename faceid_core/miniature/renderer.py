"""Renders a picture of a person, with each pixel's class, the face boxes and the eyes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from .backdrop import draw_backdrop
from .body import draw_clothes, draw_held, draw_neck
from .canvas import Canvas
from .concepts import ATTRIBUTES, CLOTHES, OBJECTS, SCENES
from .head import EYE_LEVEL, HATS, draw_back_hair, draw_head
from .people import Person

LABELS = (
    "background",
    "skin",
    "hair",
    "eyes",
    "brows",
    "mouth",
    "neck",
    "clothes",
    "accessory",
    "object",
    "arm",
)

# Framing: center height and half height of the face, in picture sides.
_PLACES = {"face": (0.53, 0.32), "half": (0.34, 0.20)}
# Of two people in a wide picture: shoulders of close-ups would hide the neighbor's face.
_PAIR_SCALES = {"face": 0.9, "half": 1.0}


@dataclass(frozen=True)
class Shot:
    """Everything in a picture but the person.

    `scene` None is a plain studio wall; `dx`, `dy` (picture sides) and `scale` move and size the figure;
    `backdrop_seed` decides the details of the scene and the colors of wall and hat.
    Objects are held in half figures only: a close-up leaves no room for them.
    """

    framing: str = "face"
    scene: str | None = None
    clothes: str = CLOTHES[0]
    held: str | None = None
    attributes: frozenset[str] = frozenset()
    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0
    backdrop_seed: int = 0

    def __post_init__(self):
        for name, value, known in (
            ("framing", self.framing, _PLACES),
            ("scene", self.scene, (None, *SCENES)),
            ("clothes", self.clothes, CLOTHES),
            ("held", self.held, (None, *OBJECTS)),
        ):
            if value not in known:
                raise ValueError(f"shot's {name} {value!r} is unknown; use one of {tuple(known)}")
        if not self.attributes <= frozenset(ATTRIBUTES):
            raise ValueError(f"shot's attributes {sorted(self.attributes)} are not all among {ATTRIBUTES}")


@dataclass(frozen=True)
class Rendered:
    """A rendered picture with its labels.

    Args:
        image: uint8 [H, W, 3] RGB.
        labels: uint8 [H, W], indices of `LABELS`.
        boxes: (x0, y0, x1, y1) of each face, in pixels.
        eyes: (x, y) of each face's left and right eye in the picture, in pixels.
    """

    image: np.ndarray
    labels: np.ndarray
    boxes: list[tuple[float, float, float, float]]
    eyes: list[tuple[tuple[float, float], tuple[float, float]]]


def _draw_figure(canvas: Canvas, person: Person, shot: Shot, x: float) -> tuple[tuple, tuple]:
    """Draw one figure whose face is centered at x (picture sides); return its face box and its eyes in pixels."""
    y, half_height = _PLACES[shot.framing]
    pen = canvas.pen(x, y + shot.dy, half_height * shot.scale)
    draw_clothes(pen, person, shot.clothes)
    draw_back_hair(pen, person, shot.attributes)
    draw_neck(pen, person, shot.clothes)
    draw_head(pen, person, shot.attributes, HATS[shot.backdrop_seed % len(HATS)])
    if shot.held and shot.framing == "half":
        draw_held(pen, person, shot.clothes, shot.held)
    width, height = person.face_width, person.face_height
    box = (*pen.in_pixels(-width, -height), *pen.in_pixels(width, height))
    eyes = (pen.in_pixels(-person.eye_spacing, EYE_LEVEL), pen.in_pixels(person.eye_spacing, EYE_LEVEL))
    return box, eyes


def _render(
    people: Sequence[Person], centers: Sequence[float], shot: Shot, size: int, width: int | None = None
) -> Rendered:
    canvas = Canvas(size)
    draw_backdrop(canvas, shot.scene, shot.backdrop_seed)
    if width:  # a scene is a square, which a wide picture stretches
        square, canvas = canvas, Canvas(size, width)
        height, wide = canvas.pixels.shape[:2]
        canvas.pixels[:] = cv2.resize(square.pixels, (wide, height), interpolation=cv2.INTER_NEAREST)
    found = [_draw_figure(canvas, person, shot, x) for person, x in zip(people, centers, strict=True)]
    image, labels = canvas.finish()
    return Rendered(image, labels, [box for box, _ in found], [eyes for _, eyes in found])


def render(person: Person, shot: Shot, *, size: int = 64) -> Rendered:
    """Render one person; the same arguments always give the same picture.

    Args:
        size: height and width in pixels.
    """
    return _render([person], [0.5 + shot.dx], shot, size)


def render_scene(shot: Shot, *, size: int = 64) -> Rendered:
    """Render the scene of a shot without people: all labels 0, no boxes."""
    return _render([], [], shot, size)


def render_group(people: Sequence[Person], shot: Shot, *, size: int = 64) -> Rendered:
    """Render two people side by side, small enough for both faces to fit.

    Raises:
        ValueError: if there are not exactly two.
    """
    if len(people) != 2:
        raise ValueError(f"a group has two people, not {len(people)}")
    framing_scale = 0.56 if shot.framing == "face" else 0.82
    shot = replace(shot, scale=shot.scale * framing_scale, held=None)
    return _render(people, [0.27 + shot.dx / 2, 0.73 + shot.dx / 2], shot, size)


def render_pair(people: Sequence[Person], shot: Shot, *, size: int = 64, width: int = 96) -> Rendered:
    """Render two people side by side in a picture so wide that their faces keep the size that they have alone.

    Args:
        people: the left one and the right one.
        shot: nothing is held in it.
        size: height in pixels; width: half as much again, or more.

    Raises:
        ValueError: there are not exactly two people, or no room for them.
    """
    if len(people) != 2 or width < 1.5 * size:
        raise ValueError(f"a pair is two people, not {len(people)}, in {1.5 * size:g} pixels of width or more")
    sides = width / size
    shot = replace(shot, scale=shot.scale * _PAIR_SCALES[shot.framing], held=None)
    return _render(people, [0.26 * sides + shot.dx / 2, 0.74 * sides + shot.dx / 2], shot, size, width)


def sample_shot(rng: np.random.Generator, *, framing: str | None = None, anywhere: bool = False) -> Shot:
    """A shot from the training distribution.

    Args:
        framing: "face" or "half"; drawn at equal odds if None.
        anywhere: the face may be anywhere in the picture where all of it is seen, not only about the middle.
    """
    draw = rng.random(8)
    if framing is None:
        framing = "face" if draw[0] < 0.5 else "half"
    is_half = framing == "half"
    scene_odds, held_odds = (0.85, 0.5) if is_half else (0.5, 0.0)
    count = 0 if draw[1] < 0.35 else 1 if draw[1] < 0.8 else 2
    chosen = rng.permutation(len(ATTRIBUTES))[:count]
    numbers = rng.integers(0, [len(SCENES), len(CLOTHES), len(OBJECTS), 2**31 - 1])
    across, down = (0.12 if is_half else 0.08), 0.06
    if anywhere:
        across, down = (0.5, 0.24) if is_half else (0.32, 0.2)
    return Shot(
        framing=framing,
        scene=SCENES[numbers[0]] if draw[2] < scene_odds else None,
        clothes=CLOTHES[numbers[1]],
        held=OBJECTS[numbers[2]] if draw[3] < held_odds else None,
        attributes=frozenset(ATTRIBUTES[index] for index in chosen),
        dx=float(draw[4] - 0.5) * across,
        dy=float(draw[5] - 0.5) * down,
        scale=0.8 + 0.3 * float(draw[6]) if anywhere else 0.95 + 0.1 * float(draw[6]),
        backdrop_seed=int(numbers[3]),
    )
