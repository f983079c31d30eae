"""Draws the background: one of eight scenes, or a plain studio wall."""

import colorsys
import random

from .canvas import Canvas, Pen


def draw_backdrop(canvas: Canvas, scene: str | None, seed: int) -> None:
    """Fill the whole canvas with a scene, or with a studio wall of a random color if `scene` is None."""
    rng = random.Random(seed)
    pen = canvas.pen(0.0, 0.0, 1.0)
    _SCENES[scene](canvas, pen, rng)


def _studio(canvas: Canvas, pen: Pen, rng: random.Random) -> None:
    color = [
        255 * c for c in colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.45), rng.uniform(0.55, 0.92))
    ]
    canvas.gradient([min(255, c * 1.06) for c in color], [c * 0.86 for c in color])


def _beach(canvas: Canvas, pen: Pen, rng: random.Random) -> None:
    horizon = rng.uniform(0.40, 0.5)
    canvas.gradient((70, 170, 240), (190, 230, 250), 0, horizon)
    canvas.gradient((20, 120, 170), (60, 190, 200), horizon, horizon + 0.2)
    canvas.gradient((250, 226, 160), (226, 190, 120), horizon + 0.2, 1)
    pen.line(
        [(0, horizon + 0.2), (0.3, horizon + 0.22), (0.6, horizon + 0.2), (1, horizon + 0.22)],
        0.03,
        (245, 252, 255),
        0,
    )
    side = rng.choice((0.12, 0.88))
    pen.ellipse(1 - side, 0.12, 0.075, 0.075, (255, 240, 130), 0)
    pen.line([(side, 0.8), (side + 0.02, 0.5), (side, 0.24)], 0.035, (130, 90, 50), 0)
    for dx, dy in ((-0.16, 0.06), (-0.12, -0.1), (0.02, -0.14), (0.14, -0.06), (0.16, 0.08)):
        pen.polygon(
            [(side, 0.2), (side + dx * 0.6 - 0.02, 0.18 + dy), (side + dx, 0.24 + dy), (side, 0.27)],
            (40, 140, 60),
            0,
        )


def _forest(canvas: Canvas, pen: Pen, rng: random.Random) -> None:
    canvas.gradient((120, 180, 110), (60, 120, 60), 0, 0.75)
    canvas.gradient((56, 96, 40), (40, 70, 30), 0.75, 1)
    for _ in range(7):
        pen.ellipse(rng.random(), rng.uniform(-0.05, 0.25), 0.2, 0.13, (30, rng.randint(90, 130), 44), 0)
    for x in (0.06, 0.24, 0.76, 0.93):
        x += rng.uniform(-0.05, 0.05)
        width = rng.uniform(0.03, 0.05)
        pen.polygon(
            [(x - width, 0.9), (x - width * 0.7, 0), (x + width * 0.7, 0), (x + width, 0.9)], (84, 56, 34), 0
        )
        pen.line([(x - width * 0.4, 0.85), (x - width * 0.3, 0.1)], 0.012, (112, 78, 48), 0)
    for _ in range(6):
        pen.ellipse(rng.random(), rng.uniform(0.86, 1), 0.1, 0.06, (46, rng.randint(120, 150), 50), 0)


def _city(canvas: Canvas, pen: Pen, rng: random.Random) -> None:
    canvas.gradient((150, 176, 200), (214, 222, 228), 0, 0.85)
    canvas.gradient((96, 96, 102), (74, 74, 80), 0.84, 1)
    for index in range(5):
        x = index * 0.2 + rng.uniform(-0.03, 0.03)
        top = rng.uniform(0.06, 0.34)
        wall = rng.choice(((124, 110, 108), (92, 104, 122), (150, 122, 100), (108, 112, 116)))
        pen.polygon([(x, 0.86), (x, top), (x + 0.17, top), (x + 0.17, 0.86)], wall, 0)
        for row in range(6):
            for column in range(3):
                left, upper = x + 0.022 + column * 0.05, top + 0.04 + row * 0.085
                glass = (250, 226, 130) if rng.random() < 0.5 else (60, 70, 86)
                pen.polygon(
                    [
                        (left, upper),
                        (left + 0.03, upper),
                        (left + 0.03, upper + 0.045),
                        (left, upper + 0.045),
                    ],
                    glass,
                    0,
                )
    pen.line([(0, 0.93), (0.2, 0.93)], 0.02, (240, 240, 230), 0)
    pen.line([(0.8, 0.93), (1, 0.93)], 0.02, (240, 240, 230), 0)


def _fir(pen: Pen, x: float, base: float, size: float) -> None:
    for step in range(3):
        y = base - step * size * 0.5
        wide = size * (0.62 - 0.14 * step)
        pen.polygon([(x - wide, y), (x, y - size), (x + wide, y)], (36, 88, 76), 0)
        pen.polygon(
            [(x - wide * 0.45, y - size * 0.5), (x, y - size), (x + wide * 0.45, y - size * 0.5)],
            (240, 246, 252),
            0,
        )


def _snow(canvas: Canvas, pen: Pen, rng: random.Random) -> None:
    canvas.gradient((150, 176, 204), (206, 220, 234), 0, 0.62)
    canvas.gradient((238, 244, 250), (214, 226, 242), 0.6, 1)
    pen.ellipse(rng.uniform(0.1, 0.9), 0.72, 0.7, 0.16, (244, 248, 252), 0)
    for x in (0.1, 0.9, rng.choice((0.27, 0.73))):
        _fir(pen, x + rng.uniform(-0.04, 0.04), rng.uniform(0.62, 0.74), rng.uniform(0.17, 0.22))
    for _ in range(22):
        pen.ellipse(rng.random(), rng.random() * 0.9, 0.013, 0.013, (252, 253, 255), 0)


def _desert(canvas: Canvas, pen: Pen, rng: random.Random) -> None:
    canvas.gradient((240, 150, 80), (255, 214, 140), 0, 0.6)
    pen.ellipse(rng.choice((0.14, 0.86)), 0.16, 0.09, 0.09, (255, 244, 200), 0)
    shift = rng.uniform(-0.15, 0.15)
    pen.polygon(
        [(0, 0.6), (0.2 + shift, 0.46), (0.5, 0.58), (0.8 + shift, 0.44), (1, 0.56), (1, 1), (0, 1)],
        (214, 138, 70),
        0,
    )
    pen.polygon([(0, 0.74), (0.4 + shift, 0.64), (1, 0.78), (1, 1), (0, 1)], (196, 112, 52), 0)
    side = rng.choice((0.1, 0.9))
    green = (64, 128, 70)
    pen.line([(side, 0.86), (side, 0.42)], 0.065, green, 0)
    pen.line([(side - 0.085, 0.5), (side - 0.085, 0.62), (side, 0.64)], 0.045, green, 0)
    pen.line([(side + 0.085, 0.46), (side + 0.085, 0.57), (side, 0.59)], 0.045, green, 0)


def _night(canvas: Canvas, pen: Pen, rng: random.Random) -> None:
    canvas.gradient((12, 16, 50), (44, 50, 100), 0, 0.8)
    for _ in range(26):
        pen.ellipse(rng.random(), rng.random() * 0.65, 0.009, 0.009, (250, 246, 214), 0)
    moon = rng.choice((0.14, 0.86))
    pen.ellipse(moon, 0.16, 0.1, 0.1, (250, 244, 206), 0)
    pen.ellipse(moon + 0.04, 0.13, 0.08, 0.08, (18, 22, 58), 0)
    shift = rng.uniform(-0.1, 0.1)
    pen.polygon(
        [(0, 0.74), (0.25 + shift, 0.62), (0.55, 0.74), (0.85 + shift, 0.6), (1, 0.7), (1, 1), (0, 1)],
        (14, 20, 40),
        0,
    )


def _room(canvas: Canvas, pen: Pen, rng: random.Random) -> None:
    wall = rng.choice(((206, 186, 160), (196, 176, 156), (212, 190, 150)))
    canvas.gradient(wall, [c * 0.92 for c in wall], 0, 0.8)
    canvas.gradient((128, 84, 52), (100, 64, 40), 0.8, 1)
    left = rng.random() < 0.5
    x = 0.04 if left else 0.72
    pen.polygon([(x, 0.1), (x + 0.24, 0.1), (x + 0.24, 0.46), (x, 0.46)], (250, 248, 240), 0)
    pen.polygon(
        [(x + 0.025, 0.125), (x + 0.215, 0.125), (x + 0.215, 0.435), (x + 0.025, 0.435)], (150, 206, 240), 0
    )
    pen.line([(x + 0.12, 0.1), (x + 0.12, 0.46)], 0.02, (250, 248, 240), 0)
    pen.line([(x, 0.28), (x + 0.24, 0.28)], 0.02, (250, 248, 240), 0)
    lamp = 0.87 if left else 0.13
    pen.line([(lamp, 0.4), (lamp, 0.86)], 0.018, (70, 56, 48), 0)
    pen.polygon(
        [(lamp - 0.05, 0.2), (lamp + 0.05, 0.2), (lamp + 0.1, 0.4), (lamp - 0.1, 0.4)], (250, 206, 110), 0
    )
    pen.line([(0, 0.8), (1, 0.8)], 0.025, (240, 232, 216), 0)


def _stage(canvas: Canvas, pen: Pen, rng: random.Random) -> None:
    canvas.gradient((56, 8, 24), (90, 14, 34), 0, 0.86)
    for index in range(10):
        x = index * 0.1 + rng.uniform(-0.01, 0.01)
        pen.polygon([(x, 0), (x + 0.05, 0), (x + 0.04, 0.86), (x + 0.01, 0.86)], (158, 24, 46), 0)
    spot = rng.choice((0.08, 0.92))
    pen.polygon([(spot - 0.05, 0), (spot + 0.05, 0), (0.85, 0.95), (0.15, 0.95)], (206, 120, 96), 0)
    pen.polygon(
        [
            (1 - spot - 0.04, 0),
            (1 - spot + 0.04, 0),
            (0.95 - 0.9 * spot, 0.9),
            (0.55 - 0.9 * spot + 0.5, 0.9),
        ],
        (190, 96, 84),
        0,
    )
    canvas.gradient((176, 122, 70), (140, 92, 50), 0.86, 1)
    for x in (0.04, 0.14, 0.24, 0.76, 0.86, 0.96):
        pen.ellipse(x, 0.9, 0.03, 0.03, (255, 244, 190), 0)


_SCENES = {
    None: _studio,
    "beach": _beach,
    "forest": _forest,
    "city": _city,
    "snow": _snow,
    "desert": _desert,
    "night": _night,
    "room": _room,
    "stage": _stage,
}
