"""Draws neck, clothes, and the arm with the held object; the unit is the face's half height."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .canvas import Pen, Points
from .people import Color, Person, mix

NECK, CLOTHES_LABEL, OBJECT, ARM = 6, 7, 9, 10
_BASE: dict[str, Color] = {
    "red sweater": (204, 38, 44),
    "yellow jacket": (246, 200, 40),
    "blue shirt": (60, 120, 216),
    "green hoodie": (48, 140, 76),
    "black suit": (36, 36, 44),
    "striped shirt": (246, 246, 246),
    "white coat": (244, 244, 248),
    "purple dress": (134, 58, 166),
}


def _torso(shoulder: float) -> np.ndarray:
    return np.array(
        [
            (-0.4, 1.14),
            (-shoulder * 0.8, 1.34),
            (-shoulder, 1.72),
            (-shoulder * 1.06, 6),
            (shoulder * 1.06, 6),
            (shoulder, 1.72),
            (shoulder * 0.8, 1.34),
            (0.4, 1.14),
        ]
    )


@dataclass(frozen=True)
class Torso:
    """The torso that clothes are drawn on, with half the shoulders' width and the clothes' two colors."""

    pen: Pen
    person: Person
    shoulder: float
    base: Color
    dark: Color

    def line(self, points: Points, width: float, color: Color) -> None:
        """Draw a line of clothes."""
        self.pen.line(points, width, color, CLOTHES_LABEL)

    def polygon(self, points: Points, color: Color) -> None:
        """Fill a polygon of clothes."""
        self.pen.polygon(points, color, CLOTHES_LABEL)


def draw_clothes(pen: Pen, person: Person, clothes: str) -> None:
    """Draw the shoulders and the torso down to the picture's edge."""
    base = _BASE[clothes]
    torso = Torso(pen, person, 1.62 if person.presents == "man" else 1.42, base, mix(base, (0, 0, 0), 0.25))
    if clothes == "green hoodie":
        pen.ellipse(0, 1.12, 0.95, 0.42, torso.dark, CLOTHES_LABEL)
    torso.polygon(_torso(torso.shoulder), base)
    _DETAILS[clothes](torso)
    # A line separates each arm from the trunk; without it a wide torso looks like a wall.
    if clothes != "purple dress":
        seam = mix(base, (120, 120, 130), 0.35) if sum(base) > 600 else torso.dark
        for side in (-1, 1):
            x = side * torso.shoulder
            torso.line([(x * 0.72, 2.2), (x * 0.76, 5)], 0.08, seam)


def _dress(torso: Torso) -> None:
    shoulder = torso.shoulder
    torso.pen.polygon(_torso(shoulder), torso.person.skin, NECK)
    neckline = [(-shoulder * 1.01, 1.85), (-0.8, 1.62), (0, 1.9), (0.8, 1.62), (shoulder * 1.01, 1.85)]
    torso.polygon([*neckline, (shoulder * 1.06, 6), (-shoulder * 1.06, 6)], torso.base)
    for side in (-1, 1):
        torso.line([(side * 0.78, 1.36), (side * 0.8, 1.75)], 0.2, torso.base)
    torso.line([(-shoulder, 3.3), (shoulder, 3.3)], 0.22, (250, 210, 90))


def _sweater(torso: Torso) -> None:
    for y in (2.3, 2.9, 3.5):
        torso.line([(-torso.shoulder, y), (torso.shoulder, y)], 0.12, torso.dark)


def _jacket(torso: Torso) -> None:
    torso.polygon([(-0.34, 1.2), (0.34, 1.2), (0.26, 6), (-0.26, 6)], (84, 92, 110))
    torso.line([(-0.34, 1.2), (-0.26, 6)], 0.1, torso.dark)
    torso.line([(0.34, 1.2), (0.26, 6)], 0.1, torso.dark)


def _shirt(torso: Torso) -> None:
    torso.line([(0, 1.4), (0, 6)], 0.07, torso.dark)
    for y in (1.9, 2.4, 2.9, 3.4):
        torso.pen.ellipse(0, y, 0.08, 0.08, (250, 250, 250), CLOTHES_LABEL)


def _hoodie(torso: Torso) -> None:
    torso.polygon([(-0.8, 2.75), (0.8, 2.75), (1.1, 3.6), (-1.1, 3.6)], torso.dark)


def _suit(torso: Torso) -> None:
    torso.polygon([(-0.46, 1.15), (0.46, 1.15), (0, 2.75)], (250, 250, 250))
    torso.polygon([(-0.1, 1.4), (0.1, 1.4), (0.15, 2.3), (0, 2.6), (-0.15, 2.3)], (186, 36, 44))


def _stripes(torso: Torso) -> None:
    for y in np.arange(1.5, 4.0, 0.5):
        torso.line([(-torso.shoulder * 1.03, y), (torso.shoulder * 1.03, y)], 0.24, (34, 54, 110))


def _coat(torso: Torso) -> None:
    gray = (176, 180, 192)
    torso.polygon([(-0.42, 1.15), (0.42, 1.15), (0, 2.5)], (120, 190, 196))
    torso.line([(-0.45, 1.15), (0, 2.5), (0.45, 1.15)], 0.1, gray)
    torso.line([(0, 2.5), (0, 6)], 0.07, gray)
    torso.line([(-0.95, 2.7), (-0.5, 2.7)], 0.08, gray)


_DETAILS: dict[str, Callable[[Torso], None]] = {
    "purple dress": _dress,
    "red sweater": _sweater,
    "yellow jacket": _jacket,
    "blue shirt": _shirt,
    "green hoodie": _hoodie,
    "black suit": _suit,
    "striped shirt": _stripes,
    "white coat": _coat,
}


def draw_neck(pen: Pen, person: Person, clothes: str) -> None:
    """Draw the neck and the collar around it."""
    shade = mix(person.skin, (110, 50, 40), 0.16)
    half = 0.34 if person.presents == "man" else 0.28
    pen.polygon(
        [(-half, 0.6), (half, 0.6), (half, 1.2), (0.24, 1.42), (-0.24, 1.42), (-half, 1.2)], shade, NECK
    )
    base = _BASE[clothes]
    if clothes == "red sweater":
        pen.line(
            [(-0.42, 1.16), (-0.22, 1.38), (0.22, 1.38), (0.42, 1.16)],
            0.2,
            mix(base, (0, 0, 0), 0.2),
            CLOTHES_LABEL,
        )
    elif clothes in ("blue shirt", "black suit"):
        collar = (250, 250, 250) if clothes == "black suit" else mix(base, (255, 255, 255), 0.7)
        for side in (-1, 1):
            pen.polygon(
                [(side * 0.4, 1.05), (side * 0.04, 1.42), (side * 0.36, 1.66), (side * 0.52, 1.2)],
                collar,
                CLOTHES_LABEL,
            )
    elif clothes == "yellow jacket":
        for side in (-1, 1):
            pen.polygon(
                [(side * 0.36, 1.0), (side * 0.3, 1.7), (side * 0.62, 1.5), (side * 0.56, 1.1)],
                mix(base, (0, 0, 0), 0.12),
                CLOTHES_LABEL,
            )
    elif clothes == "green hoodie":
        for side in (-1, 1):
            pen.line([(side * 0.24, 1.4), (side * 0.26, 2.1)], 0.09, (240, 240, 230), CLOTHES_LABEL)


def _basketball(pen: Pen, x: float, y: float) -> None:
    pen.ellipse(x, y, 0.78, 0.78, (236, 122, 40), OBJECT)
    black = (60, 30, 16)
    pen.line([(x - 0.78, y), (x + 0.78, y)], 0.08, black, OBJECT)
    pen.line([(x, y - 0.78), (x, y + 0.78)], 0.08, black, OBJECT)
    pen.line([(x - 0.5, y - 0.56), (x - 0.26, y), (x - 0.5, y + 0.56)], 0.08, black, OBJECT)
    pen.line([(x + 0.5, y - 0.56), (x + 0.26, y), (x + 0.5, y + 0.56)], 0.08, black, OBJECT)


def _umbrella(pen: Pen, x: float, y: float) -> None:
    pen.line([(x, y + 0.3), (x, y - 2.0)], 0.1, (70, 60, 60), OBJECT)
    angles = np.linspace(np.pi, 2 * np.pi, 13)
    dome = np.stack([x + np.cos(angles) * 1.05, y - 1.6 + np.sin(angles) * 0.95], 1)
    pen.polygon(dome, (232, 52, 96), OBJECT)
    for first in (2, 8):
        pen.polygon(np.concatenate([dome[first : first + 3], [(x, y - 2.5)]]), (255, 236, 240), OBJECT)


def _guitar(pen: Pen, x: float, y: float) -> None:
    pen.line([(x + 0.1, y), (x + 1.35, y - 1.3)], 0.2, (96, 58, 34), OBJECT)
    pen.line([(x + 1.25, y - 1.2), (x + 1.5, y - 1.46)], 0.32, (60, 36, 24), OBJECT)
    pen.ellipse(x - 0.42, y + 0.42, 0.68, 0.6, (200, 120, 50), OBJECT)
    pen.ellipse(x + 0.12, y - 0.12, 0.5, 0.46, (200, 120, 50), OBJECT)
    pen.ellipse(x - 0.06, y + 0.08, 0.2, 0.2, (40, 26, 20), OBJECT)
    pen.line([(x - 0.62, y + 0.66), (x + 1.3, y - 1.26)], 0.05, (250, 236, 200), OBJECT)


def _book(pen: Pen, x: float, y: float) -> None:
    pen.polygon(
        [
            (x - 0.86, y - 0.62),
            (x, y - 0.42),
            (x + 0.86, y - 0.62),
            (x + 0.86, y + 0.46),
            (x, y + 0.66),
            (x - 0.86, y + 0.46),
        ],
        (36, 96, 160),
        OBJECT,
    )
    for side in (-1, 1):
        pen.polygon(
            [
                (x + side * 0.76, y - 0.5),
                (x + side * 0.05, y - 0.32),
                (x + side * 0.05, y + 0.5),
                (x + side * 0.76, y + 0.32),
            ],
            (252, 248, 232),
            OBJECT,
        )
        for dy in (-0.2, 0.04, 0.28):
            pen.line(
                [(x + side * 0.62, y + dy - 0.12), (x + side * 0.2, y + dy - 0.02)],
                0.05,
                (140, 130, 130),
                OBJECT,
            )


def _wine(pen: Pen, x: float, y: float) -> None:
    glass = (226, 240, 248)
    pen.line([(x, y - 0.4), (x, y + 0.42)], 0.12, glass, OBJECT)
    pen.line([(x - 0.3, y + 0.42), (x + 0.3, y + 0.42)], 0.12, glass, OBJECT)
    pen.polygon(
        [
            (x - 0.4, y - 1.3),
            (x + 0.4, y - 1.3),
            (x + 0.44, y - 0.8),
            (x + 0.2, y - 0.4),
            (x - 0.2, y - 0.4),
            (x - 0.44, y - 0.8),
        ],
        glass,
        OBJECT,
    )
    pen.polygon(
        [
            (x - 0.36, y - 0.98),
            (x + 0.36, y - 0.98),
            (x + 0.34, y - 0.76),
            (x + 0.16, y - 0.46),
            (x - 0.16, y - 0.46),
            (x - 0.34, y - 0.76),
        ],
        (150, 16, 50),
        OBJECT,
    )


# Each object with its position, the hand's position on it, and whether the hand is in front.
_HELD = {
    "basketball": (_basketball, (0.82, 2.4), (0.95, 3.0)),
    "umbrella": (_umbrella, (1.78, 2.5), (1.78, 2.5)),
    "guitar": (_guitar, (0.2, 2.5), (0.75, 1.95)),
    "book": (_book, (0.2, 2.5), (0.95, 2.75)),
    "glass of wine": (_wine, (1.28, 2.3), (1.28, 2.35)),
}


def draw_held(pen: Pen, person: Person, clothes: str, held: str) -> None:
    """Draw an object, the forearm from the torso's right edge to it, and the hand."""
    draw, (x, y), (hand_x, hand_y) = _HELD[held]
    shoulder = 1.62 if person.presents == "man" else 1.42
    sleeve = person.skin if clothes == "purple dress" else mix(_BASE[clothes], (90, 90, 100), 0.22)
    draw(pen, x, y)
    pen.line([(shoulder * 0.92, 3.5), (hand_x + 0.06, hand_y + 0.12)], 0.42, sleeve, ARM)
    pen.ellipse(hand_x, hand_y, 0.24, 0.22, person.skin, ARM)
