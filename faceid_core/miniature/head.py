"""Draws a head with its hair, beard, glasses and hat; the unit is the face's half height."""

import math

import numpy as np

from .canvas import Pen
from .people import Color, Person, mix

SKIN, HAIR, EYES, BROWS, MOUTH, NECK, ACCESSORY = 1, 2, 3, 4, 5, 6, 8
WHITE_HAIR: Color = (242, 242, 246)
HATS: tuple[Color, ...] = ((176, 40, 48), (44, 70, 120), (60, 60, 64), (200, 150, 60), (64, 110, 76))
EYE_LEVEL = 0.04
# Above this level a hat covers everything.
_HAT_LEVEL = -0.5
_LOWER = np.linspace(0, math.pi, 15)
_UPPER = np.linspace(math.pi, 2 * math.pi, 15)


def face_outline(person: Person) -> np.ndarray:
    """The outline [30, 2] of the face: lower half first, from right to left, chin at y = face height."""
    power = 2 / (1.75 + 1.35 * person.jaw)
    cosine, sine = np.cos(_LOWER), np.sin(_LOWER)
    lower = np.stack([np.sign(cosine) * np.abs(cosine) ** power, sine**power], axis=1)
    upper = np.stack([np.cos(_UPPER), np.sin(_UPPER)], axis=1)
    return np.concatenate([lower, upper]) * (person.face_width, person.face_height)


def hair_color(person: Person, attributes: frozenset[str]) -> Color:
    """The person's hair color, or white if the attributes say so."""
    return WHITE_HAIR if "white hair" in attributes else person.hair_color


def draw_back_hair(pen: Pen, person: Person, attributes: frozenset[str]) -> None:
    """Draw the hair behind neck and face."""
    color = mix(hair_color(person, attributes), (20, 16, 30), 0.18)
    width, hat = person.face_width, "hat" in attributes
    if person.hair_style == "long":
        outline = [
            (-1.0, -0.9),
            (-0.5, -1.18),
            (0.5, -1.18),
            (1.0, -0.9),
            (1.3, 0),
            (1.42, 1.2),
            (1.25, 1.75),
            (-1.25, 1.75),
            (-1.42, 1.2),
            (-1.3, 0),
        ]
    elif person.hair_style == "bob":
        outline = [
            (-1.0, -0.95),
            (-0.5, -1.2),
            (0.5, -1.2),
            (1.0, -0.95),
            (1.38, -0.1),
            (1.48, 0.72),
            (1.0, 0.88),
            (-1.0, 0.88),
            (-1.48, 0.72),
            (-1.38, -0.1),
        ]
    elif person.hair_style == "afro":
        angles = np.linspace(0, 2 * math.pi, 22, endpoint=False)
        radius = 1.0 + 0.035 * (np.arange(22) % 2)
        outline = np.stack(
            [np.cos(angles) * radius * (0.62 + width) / width, np.sin(angles) * radius * 1.3 - 0.35], 1
        )
    else:
        return
    points = np.asarray(outline, dtype=float) * (width, 1.0)
    if hat:
        points[:, 1] = np.maximum(points[:, 1], _HAT_LEVEL)
    pen.polygon(points, color, HAIR)


def _arc(width: float, level: float, volume: float) -> np.ndarray:
    """The outer edge [15, 2] of the hair's cap, from the left side at `level` over the crown to the right."""
    x, y = np.cos(_UPPER), np.sin(_UPPER)
    return np.stack([x * width * 1.07, np.where(y > -0.2, level * (1 + y * 5), y * volume)], axis=1)


_HAIRLINES = {
    "crop": [
        (0.95, 0.0),
        (0.84, -0.36),
        (0.6, -0.56),
        (0, -0.6),
        (-0.6, -0.56),
        (-0.84, -0.36),
        (-0.95, 0.0),
    ],
    "parted": [
        (0.95, 0.02),
        (0.92, -0.2),
        (0.5, -0.36),
        (-0.1, -0.6),
        (-0.5, -0.82),
        (-0.78, -0.5),
        (-0.95, 0.02),
    ],
    "afro": [
        (0.97, 0.1),
        (0.86, -0.4),
        (0.5, -0.52),
        (0.2, -0.6),
        (-0.2, -0.6),
        (-0.5, -0.52),
        (-0.86, -0.4),
        (-0.97, 0.1),
    ],
    "spiky": [
        (0.95, -0.1),
        (0.8, -0.44),
        (0.5, -0.4),
        (0.3, -0.6),
        (0, -0.44),
        (-0.3, -0.62),
        (-0.55, -0.4),
        (-0.8, -0.5),
        (-0.95, -0.1),
    ],
    "long": [
        (0.98, 0.9),
        (0.86, 0.1),
        (0.62, -0.4),
        (0.05, -0.84),
        (-0.62, -0.4),
        (-0.86, 0.1),
        (-0.98, 0.9),
    ],
    "bob": [(0.98, 0.7), (0.86, 0.1), (0.82, -0.34), (0, -0.3), (-0.82, -0.34), (-0.86, 0.1), (-0.98, 0.7)],
    "bun": [(0.95, 0.1), (0.86, -0.36), (0.5, -0.72), (0, -0.8), (-0.5, -0.72), (-0.86, -0.36), (-0.95, 0.1)],
}


def _draw_front_hair(pen: Pen, person: Person, color: Color, hat: bool) -> None:
    width, style = person.face_width, person.hair_style
    shine = mix(color, (255, 255, 255), 0.22)
    if style == "sides":
        for side in (-1, 1):
            patch = np.array(
                [(0.72, -0.62), (1.12, -0.42), (1.2, 0.0), (1.06, 0.3), (0.9, 0.12), (0.84, -0.25)]
            )
            pen.polygon(patch * (side * width, 1), color, HAIR)
        return
    if style == "bun" and not hat:
        pen.ellipse(0, -1.27, 0.42, 0.38, color, HAIR)
        pen.line([(-0.2, -1.4), (0.12, -1.46)], 0.08, shine, HAIR)
    if style == "spiky":
        angles = np.linspace(math.pi * 1.02, math.pi * 1.98, 15)
        radius = np.where(np.arange(15) % 2, 1.46, 1.1)
        outer = np.stack([np.cos(angles) * radius * width * 1.04, np.sin(angles) * radius], 1)
    else:
        level = {"long": 0.95, "bob": 0.75, "bun": 0.1, "afro": 0.1}.get(style, 0.0)
        outer = _arc(width, level, {"parted": 1.24, "afro": 1.3, "crop": 1.1}.get(style, 1.16))
    points = np.concatenate([outer, np.asarray(_HAIRLINES[style]) * (width, 1)])
    if hat:
        points[:, 1] = np.maximum(points[:, 1], _HAT_LEVEL)
    pen.polygon(points, color, HAIR)
    if not hat and style in ("crop", "parted", "long", "bob", "bun"):
        pen.line(np.array([(-0.55, -0.84), (-0.2, -0.99), (0.15, -1.0)]) * (width, 1), 0.08, shine, HAIR)


def _draw_beard(pen: Pen, person: Person, color: Color, outline: np.ndarray) -> None:
    width, height = person.face_width, person.face_height
    if person.beard in ("full", "stubble"):
        tint = color if person.beard == "full" else mix(person.skin, color, 0.36)
        lower = outline[1:14] * (1.0, 1.04)
        inner = np.array(
            [(-0.9, 0.16), (-0.74, 0.34), (-0.36, 0.36), (0, 0.42), (0.36, 0.36), (0.74, 0.34), (0.9, 0.16)]
        )
        pen.polygon(np.concatenate([lower, inner * (width, 1)]), tint, HAIR)
    elif person.beard == "goatee":
        pen.polygon(
            [(-0.27, 0.66), (0.27, 0.66), (0.24, 0.95 * height), (0, 1.12 * height), (-0.24, 0.95 * height)],
            color,
            HAIR,
        )
    if person.beard in ("moustache", "full", "goatee"):
        share = 1.0 if person.beard == "moustache" else 0.8
        pen.polygon(
            np.array(
                [
                    (0, 0.36),
                    (0.26, 0.38),
                    (0.46, 0.54),
                    (0.2, 0.5),
                    (0, 0.48),
                    (-0.2, 0.5),
                    (-0.46, 0.54),
                    (-0.26, 0.38),
                ]
            )
            * (share, 1),
            color,
            HAIR,
        )


def _draw_mouth(pen: Pen, person: Person, attributes: frozenset[str]) -> None:
    wide, lips, y = person.mouth_width, person.lip_color, 0.6
    dark: Color = (96, 26, 32)
    smiling, is_open = "smiling" in attributes, "mouth open" in attributes
    if is_open:
        rx, ry = (wide * 1.15, 0.2) if smiling else (0.2 + wide * 0.2, 0.23)
        pen.ellipse(0, y + 0.04, rx + 0.06, ry + 0.05, lips, MOUTH)
        pen.ellipse(0, y + 0.04, rx, ry, dark, MOUTH)
        pen.ellipse(0, y + 0.15, rx * 0.6, ry * 0.4, (214, 96, 100), MOUTH)
        if smiling:
            pen.polygon(
                [(-rx * 0.7, y - 0.08), (rx * 0.7, y - 0.08), (rx * 0.5, y), (-rx * 0.5, y)],
                (255, 255, 255),
                MOUTH,
            )
    elif smiling:
        half = wide * 1.3
        curve = np.array([(-1, -0.14), (-0.5, -0.03), (0, 0.0), (0.5, -0.03), (1, -0.14)])
        lower = np.array([(0.72, 0.1), (0.3, 0.2), (-0.3, 0.2), (-0.72, 0.1)])
        grin = np.concatenate([curve, lower]) * (half, 1) + (0, y)
        pen.polygon(grin, (255, 255, 255), MOUTH)
        pen.line(grin, 0.07, lips, MOUTH, closed=True)
    else:
        pen.ellipse(0, y + 0.03, wide, 0.085, lips, MOUTH)
        pen.line([(-wide, y - 0.02), (0, y + 0.035), (wide, y - 0.02)], 0.035, mix(lips, dark, 0.6), MOUTH)


def _draw_eyes(pen: Pen, person: Person, attributes: frozenset[str], brow: Color) -> None:
    rx, ry = 0.2 * person.eye_size, 0.15 * person.eye_size
    lash: Color = (44, 30, 30)
    lash_width = 0.07 if person.presents == "woman" else 0.045
    for side in (-1, 1):
        x = side * person.eye_spacing
        if "eyes closed" in attributes:
            pen.ellipse(x, EYE_LEVEL, rx, ry, mix(person.skin, (110, 60, 60), 0.22), EYES)
            lid = [
                (x - rx, EYE_LEVEL + 0.02),
                (x - rx / 2, EYE_LEVEL + 0.1),
                (x + rx / 2, EYE_LEVEL + 0.1),
                (x + rx, EYE_LEVEL + 0.02),
            ]
            pen.line(lid, 0.06, lash, EYES)
        else:
            pen.ellipse(x, EYE_LEVEL, rx, ry, (252, 252, 252), EYES)
            pen.ellipse(x, EYE_LEVEL + 0.01, ry * 0.86, ry * 0.92, person.eye_color, EYES)
            pen.ellipse(x, EYE_LEVEL + 0.01, ry * 0.42, ry * 0.46, (18, 14, 18), EYES)
            pen.ellipse(x + ry * 0.3, EYE_LEVEL - ry * 0.3, ry * 0.24, ry * 0.24, (255, 255, 255), EYES)
            lid = [
                (x - rx, EYE_LEVEL - 0.02),
                (x - rx / 2, EYE_LEVEL - ry),
                (x + rx / 2, EYE_LEVEL - ry),
                (x + rx, EYE_LEVEL - 0.02),
            ]
            pen.line(lid, lash_width, lash, EYES)
        tilt, y = person.brow_tilt * 0.08, EYE_LEVEL - ry - 0.16
        inner, outer = x - side * 0.2, x + side * 0.24
        pen.line(
            [(inner, y + tilt), (x, y - 0.03), (outer, y + 0.04 - tilt)], person.brow_thickness, brow, BROWS
        )


def _draw_marks(pen: Pen, person: Person) -> None:
    width = person.face_width
    if person.marks == "blush":
        for side in (-1, 1):
            pen.ellipse(side * width * 0.66, 0.38, 0.15, 0.11, mix(person.skin, (236, 90, 90), 0.34), SKIN)
    elif person.marks == "freckles":
        dot = mix(person.skin, (120, 60, 30), 0.45)
        for x, y in ((0.3, 0.3), (0.46, 0.26), (0.4, 0.4), (0.56, 0.36)):
            pen.ellipse(x * width / 0.78, y, 0.035, 0.035, dot, SKIN)
            pen.ellipse(-x * width / 0.78, y, 0.035, 0.035, dot, SKIN)
    elif person.marks == "mole":
        pen.ellipse(0.44, 0.46, 0.06, 0.06, (66, 36, 28), SKIN)


def _draw_hat(pen: Pen, person: Person, color: Color) -> None:
    wide = person.face_width * 1.14
    crown = np.array(
        [(-0.98, -0.5), (-0.9, -1.1), (-0.62, -1.42), (0, -1.5), (0.62, -1.42), (0.9, -1.1), (0.98, -0.5)]
    )
    pen.polygon(crown * (wide, 1), color, ACCESSORY)
    pen.polygon(
        np.array([(-1, -0.52), (-0.97, -0.78), (0.97, -0.78), (1, -0.52)]) * (wide, 1),
        mix(color, (255, 255, 255), 0.6),
        ACCESSORY,
    )
    pen.ellipse(0, -0.5, wide * 1.32, 0.13, mix(color, (0, 0, 0), 0.2), ACCESSORY)


def _draw_glasses(pen: Pen, person: Person) -> None:
    frame: Color = (26, 24, 30)
    radius = 0.25 + 0.03 * person.eye_size
    for side in (-1, 1):
        x = side * max(person.eye_spacing, radius + 0.03)
        pen.ring(x, EYE_LEVEL + 0.02, radius, radius * 0.94, 0.085, frame, ACCESSORY)
        pen.line(
            [(x + side * radius, EYE_LEVEL), (side * person.face_width, EYE_LEVEL - 0.06)],
            0.08,
            frame,
            ACCESSORY,
        )
    pen.line([(-0.08, EYE_LEVEL), (0.08, EYE_LEVEL)], 0.08, frame, ACCESSORY)


def draw_head(pen: Pen, person: Person, attributes: frozenset[str], hat_color: Color) -> None:
    """Draw the head without the hair behind it; the origin is the middle of the face.

    Args:
        pen: its unit is the face's half height.
        attributes: those of `concepts.ATTRIBUTES` that hold in this picture.
        hat_color: used if "hat" is among them.
    """
    skin, width = person.skin, person.face_width
    shade = mix(skin, (110, 50, 40), 0.22)
    hair = hair_color(person, attributes)
    for side in (-1, 1):
        pen.ellipse(side * width, 0.1, 0.13, 0.2, shade, SKIN)
    outline = face_outline(person)
    pen.polygon(outline, skin, SKIN)
    _draw_marks(pen, person)
    _draw_beard(pen, person, hair, outline)
    nose = EYE_LEVEL + person.nose_length
    pen.line([(-0.03, EYE_LEVEL + 0.08), (-0.05, nose - 0.06)], 0.05, mix(skin, shade, 0.5), SKIN)
    pen.ellipse(0, nose, person.nose_width, 0.07, shade, SKIN)
    _draw_mouth(pen, person, attributes)
    brow = mix(hair, (190, 190, 200), 0.3) if "white hair" in attributes else mix(hair, (30, 20, 20), 0.3)
    _draw_eyes(pen, person, attributes, brow)
    _draw_front_hair(pen, person, hair, "hat" in attributes)
    if "glasses" in attributes:
        _draw_glasses(pen, person)
    if "hat" in attributes:
        _draw_hat(pen, person, hat_color)
