"""Rendered training pictures in memory, with what is needed to write new captions for each."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from faceid_core.miniature.captions import HALF, NEARLY_ALL, Said, caption, scene_caption
from faceid_core.miniature.concepts import CLOTHES, SCENES
from faceid_core.miniature.people import ANONYMOUS_SEEDS, NAMED_SEEDS, RARE_SEEDS, name_of, person_from_seed
from faceid_core.miniature.renderer import (
    Rendered,
    Shot,
    render,
    render_group,
    render_pair,
    render_scene,
    sample_shot,
)

# The words for a person without a name.
ANONYMOUS_SUBJECTS = {
    "man": ("person", "a person", "man", "a man"),
    "woman": ("person", "a person", "woman", "a woman"),
}
WIDE = 96  # pixels of a pair's width
# Shares of varied pictures; the others show anonymous people.
_NAMED, _RARE, _EMPTY = 0.55, 0.06, 0.08
_WORD_BESIDE_NAME = 0.2
_RARE_PICTURES, _RARE_CONTEXTS = (10, 40), (2, 3)


@dataclass
class Pictures:
    """Pictures uint8 [N, H, W, 3] and labels uint8 [N, H, W], with each picture's shot and people.

    Attributes:
        people: seeds of each picture's people, from left to right; none in an empty scene.
        said: how often captions name what is seen.
        word_beside_name: how often a caption has a class word before a name.
    """

    images: np.ndarray
    labels: np.ndarray
    shots: list[Shot]
    people: list[tuple[int, ...]]
    said: Said = field(default=NEARLY_ALL)
    word_beside_name: float = 0.0

    def caption(self, index: int, rng: random.Random) -> str:
        """One of a picture's many captions."""
        shot, seeds = self.shots[index], self.people[index]
        if not seeds:
            return scene_caption(shot, rng)
        subject = " and ".join(subject_of(seed, rng, self.word_beside_name) for seed in seeds)
        return caption(shot, subject, rng, self.said)


def subject_of(seed: int, rng: random.Random, word_beside_name: float = 0.0) -> str:
    """The caption's words for a person: the name, or for anonymous people a class word.

    Args:
        word_beside_name: how often a class word stands before the name, 0 to 1.
    """
    words = ANONYMOUS_SUBJECTS[person_from_seed(seed).presents]
    if seed in NAMED_SEEDS or seed in RARE_SEEDS:
        name = name_of(seed)
        has_word = word_beside_name > 0 and rng.random() < word_beside_name
        return f"{rng.choice((words[0], words[2]))} {name}" if has_word else name
    # The plain class word is most frequent, because personalized prompts replace it.
    return rng.choices(words, (4, 2, 1, 1))[0]


def render_pictures(
    count: int, *, seed: int, named_share: float, extras_share: float = 0.0, size: int = 64
) -> Pictures:
    """Render pictures with faces about the middle, whose captions say nearly all.

    Args:
        count: how many.
        seed: of every choice made here; other seeds give other pictures.
        named_share: share of pictures (0 to 1) of named people, each equally often; the others show
            anonymous people.
        extras_share: share of pictures without people or with two, whose captions are not trained on.
        size: height and width in pixels.
    """
    rng, choices = np.random.default_rng(seed), random.Random(seed)
    pictures: list[Rendered] = []
    shots, people = [], []
    named = _in_turn(NAMED_SEEDS, count, rng)
    for _ in range(count):
        shot = sample_shot(rng)
        person_seed = named.pop() if choices.random() < named_share else choices.choice(ANONYMOUS_SEEDS)
        person = person_from_seed(person_seed)
        if choices.random() >= extras_share:
            picture = render(person, shot, size=size)
        elif choices.random() < 0.5:
            picture = render_scene(shot, size=size)
        else:
            other = person_from_seed(choices.choice(ANONYMOUS_SEEDS))
            picture = render_group([person, other], shot, size=size)
        pictures.append(picture)
        shots.append(shot)
        people.append((person_seed,))
    return Pictures(*_stacked(pictures), shots, people)


def render_varied(count: int, *, seed: int) -> Pictures:
    """Render empty scenes, and faces anywhere, of people known well, rarely or not; captions say half of what is seen.

    Args:
        count: how many.
        seed: of every choice made here.
    """
    rng, choices = np.random.default_rng(seed), random.Random(seed)
    pictures: list[Rendered] = []
    shots, people = [], []
    named = _in_turn(NAMED_SEEDS, count, rng)
    for _ in range(count):
        shot, draw = sample_shot(rng, anywhere=True), choices.random()
        if draw < _EMPTY:
            seeds: tuple[int, ...] = ()
            pictures.append(render_scene(shot))
        else:
            if draw < _EMPTY + _NAMED:
                seeds = (named.pop(),)
            elif draw < _EMPTY + _NAMED + _RARE:
                seeds = (choices.choice(RARE_SEEDS),)
                shot = choices.choice(rare_shots(seeds[0]))
            else:
                seeds = (choices.choice(ANONYMOUS_SEEDS),)
            pictures.append(render(person_from_seed(seeds[0]), shot))
        shots.append(shot)
        people.append(seeds)
    return Pictures(*_stacked(pictures), shots, people, HALF, _WORD_BESIDE_NAME)


def render_close_ups(count: int, *, seed: int) -> Pictures:
    """Render close-ups of named people alone, each equally often: nothing but the name tells their captions apart."""
    rng = np.random.default_rng(seed)
    seeds = _in_turn(NAMED_SEEDS, count, rng)[:count]
    shots = [replace(sample_shot(rng), framing="face", scene=None, attributes=frozenset(), held=None) for _ in seeds]
    pictures = [render(person_from_seed(each), shot) for each, shot in zip(seeds, shots, strict=True)]
    silent = Said(close_up_clothes=0.0, close_up=0.5)
    return Pictures(*_stacked(pictures), shots, [(each,) for each in seeds], silent, _WORD_BESIDE_NAME)


def render_pairs(count: int, *, seed: int) -> Pictures:
    """Render wide pictures of two people, each named or anonymous; captions name the left one first."""
    rng, choices = np.random.default_rng(seed), random.Random(seed)
    pictures: list[Rendered] = []
    shots, people = [], []
    named = _in_turn(NAMED_SEEDS, 2 * count, rng)
    for _ in range(count):
        shot = sample_shot(rng)
        seeds = tuple(
            named.pop() if choices.random() < _NAMED + _RARE else choices.choice(ANONYMOUS_SEEDS) for _ in range(2)
        )
        pictures.append(render_pair([person_from_seed(each) for each in seeds], shot, width=WIDE))
        shots.append(replace(shot, held=None))
        people.append(seeds)
    return Pictures(*_stacked(pictures), shots, people, HALF, 0.0)


@cache
def rare_shots(seed: int) -> tuple[Shot, ...]:
    """The 10 to 40 shots in which a rare person is ever seen, in two or three contexts of scene and clothes."""
    rng = np.random.default_rng([seed, 41])
    contexts = [
        (SCENES[rng.integers(len(SCENES))], CLOTHES[rng.integers(len(CLOTHES))])
        for _ in range(rng.integers(*_RARE_CONTEXTS, endpoint=True))
    ]
    shots = []
    for _ in range(rng.integers(*_RARE_PICTURES, endpoint=True)):
        scene, clothes = contexts[rng.integers(len(contexts))]
        shots.append(replace(sample_shot(rng, anywhere=True), scene=scene, clothes=clothes))
    return tuple(shots)


def _in_turn(seeds: range, count: int, rng: np.random.Generator) -> list[int]:
    """At least `count` seeds, each as often as the others but for one, in random order."""
    return [int(seed) for _ in range(count // len(seeds) + 1) for seed in rng.permutation(np.array(seeds))]


def _stacked(pictures: Sequence[Rendered]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([each.image for each in pictures]), np.stack([each.labels for each in pictures])
