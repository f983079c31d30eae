"""The people of the miniature, made from seeds, and the names of those whom the base model knows."""

import random
from dataclasses import dataclass

from .concepts import BEARDS, HAIR_STYLES, MARKS

Color = tuple[int, int, int]

# The eight sets are disjoint: no training uses a person of the tests or samples.
NAMED_SEEDS = range(1, 257)
# People with names, too, but with few pictures each: what most of the people are whom a real model was trained on.
RARE_SEEDS = range(257, 385)
# The method's settings are chosen on these people; no reported figure comes from them.
TUNING_SEEDS = range(8001, 8033)
SAMPLE_SEEDS = range(9001, 9009)
# Training people of the selection scorers, and of the reporting scorers.
SCORER_TRAINING_SEEDS = range(100_000, 140_000)
SECOND_SCORER_TRAINING_SEEDS = range(140_000, 180_000)
HELD_OUT_SEEDS = range(200_000, 201_000)
ANONYMOUS_SEEDS = range(300_000, 400_000)

SKINS: tuple[Color, ...] = (
    (255, 226, 206), (246, 206, 176), (232, 184, 146), (214, 160, 116),
    (188, 130, 88), (154, 102, 68), (120, 78, 54),
)  # fmt: skip
HAIRS: tuple[Color, ...] = (
    (34, 28, 30), (74, 46, 30), (128, 80, 40), (196, 92, 36), (226, 182, 92),
    (60, 90, 160), (216, 96, 150), (60, 140, 120), (128, 74, 156),
)  # fmt: skip
HAIR_WEIGHTS = (5, 5, 5, 4, 5, 1, 1, 1, 1)
EYES: tuple[Color, ...] = ((70, 44, 26), (50, 104, 176), (56, 130, 76), (150, 96, 36), (104, 116, 126))
MEN_STYLES = ("sides", "crop", "parted", "afro", "spiky", "long")
MEN_WEIGHTS = (3, 4, 4, 2, 4, 1)
WOMEN_STYLES = ("crop", "parted", "afro", "long", "bob", "bun")
WOMEN_WEIGHTS = (1, 2, 2, 5, 5, 5)

_FIRST_WORDS = (
    "alma anouk ari aspen avery bao blake cleo dara devi eden eli ellis emery esme ezra "
    "farah finley freya gita hana hugo ida imani indra ines iris jamal jun kai kalle kiran "
    "lena leo linus lior mads maren mila milo nadia nico noor oksana orla otto pavel petra "
    "quinn rafi remy rhea sami selma sota tala tariq tess uma vera wren yara yusuf zeno"
)
_LAST_WORDS = (
    "abara adler almeida amsel arslan bakker baumann becerra blomqvist brandt cardoso castellan cheng "
    "corvin dahl delacroix demir dubois eklund farkas ferrara fujita galvan gruber haddad halloran "
    "horvat ibarra ivanov jansen kaplan katz keller kimura kowal lindqvist lombardi madsen marchetti "
    "mbeki mendoza moreau nakano navarro novak okafor olsen ortega petrov quiroga rahman reyes "
    "rossi sandoval santos sato schmidt silva soto tanaka ueda varga weber zhou"
)
FIRST_NAMES, LAST_NAMES = tuple(_FIRST_WORDS.split()), tuple(_LAST_WORDS.split())


@dataclass(frozen=True)
class Person:
    """What is the same in every picture of one person.

    Lengths are in units of the face's half height; `jaw` runs from 0 (pointed) to 1 (square),
    `brow_tilt` from -1 (falling outwards) to 1 (rising outwards).
    """

    seed: int
    presents: str
    skin: Color
    face_width: float
    face_height: float
    jaw: float
    hair_style: str
    hair_color: Color
    eye_color: Color
    eye_size: float
    eye_spacing: float
    brow_thickness: float
    brow_tilt: float
    nose_width: float
    nose_length: float
    mouth_width: float
    lip_color: Color
    beard: str
    marks: str


def mix(first: Color, second: Color, share: float) -> Color:
    """`first` with `share` (0 to 1) of `second` in it."""
    return (
        int(first[0] + (second[0] - first[0]) * share),
        int(first[1] + (second[1] - first[1]) * share),
        int(first[2] + (second[2] - first[2]) * share),
    )


def _near(color: Color, rng: random.Random, spread: int) -> Color:
    red, green, blue = (min(255, max(0, channel + rng.randint(-spread, spread))) for channel in color)
    return red, green, blue


def person_from_seed(seed: int) -> Person:
    """The person of a seed; the same seed always gives the same person.

    Args:
        seed: any non-negative integer; see the ranges at the top of this module.
    """
    if seed < 0:
        raise ValueError(f"person seed {seed} is negative; seeds start at 0")
    rng = random.Random(seed * 7919 + 13)
    presents = rng.choice(("man", "woman"))
    is_man = presents == "man"
    tone = rng.uniform(0, len(SKINS) - 1.001)
    skin = _near(mix(SKINS[int(tone)], SKINS[int(tone) + 1], tone % 1), rng, 5)
    styles, weights = (MEN_STYLES, MEN_WEIGHTS) if is_man else (WOMEN_STYLES, WOMEN_WEIGHTS)
    hair_style = rng.choices(styles, weights)[0]
    hair_color = _near(rng.choices(HAIRS, HAIR_WEIGHTS)[0], rng, 14)
    lips = mix(skin, (190, 70, 70), rng.uniform(0.35, 0.6))
    if not is_man and rng.random() < 0.6:
        lips = mix(rng.choice(((200, 30, 60), (170, 40, 110), (226, 96, 80))), skin, rng.uniform(0, 0.25))
    return Person(
        seed=seed,
        presents=presents,
        skin=skin,
        face_width=rng.uniform(0.66, 0.9),
        face_height=rng.uniform(0.94, 1.04),
        jaw=min(1.0, rng.uniform(0, 0.8) + 0.2 * is_man),
        hair_style=hair_style,
        hair_color=hair_color,
        eye_color=_near(rng.choice(EYES), rng, 10),
        eye_size=rng.uniform(0.85, 1.25),
        eye_spacing=rng.uniform(0.30, 0.41),
        brow_thickness=rng.uniform(0.05, 0.10) + 0.04 * is_man,
        brow_tilt=rng.uniform(-1, 1),
        nose_width=rng.uniform(0.09, 0.2),
        nose_length=rng.uniform(0.28, 0.42),
        mouth_width=rng.uniform(0.24, 0.4),
        lip_color=lips,
        beard=rng.choices(BEARDS, (6, 3, 5, 3, 3))[0] if is_man else "none",
        marks=rng.choices(MARKS, (6, 2, 1, 3))[0],
    )


def name_of(seed: int) -> str:
    """The two-word name of a named person.

    Four people, or with the rare ones six, share each first and each last name, so that one word alone does not identify
    a person.

    Raises:
        ValueError: if the seed is neither among `NAMED_SEEDS` nor `RARE_SEEDS`.
    """
    if seed not in NAMED_SEEDS and seed not in RARE_SEEDS:
        raise ValueError(
            f"person seed {seed} has no name; named people are {NAMED_SEEDS.start} to {RARE_SEEDS.stop - 1}"
        )
    index = seed - NAMED_SEEDS.start
    first, lap = index % 64, index // 64
    # 5 is coprime to 64 and the six laps shift by 17: all pairs are distinct.
    return f"{FIRST_NAMES[first]} {LAST_NAMES[(5 * first + 17 * lap + 3) % 64]}"


assert len(HAIR_STYLES) == 8
