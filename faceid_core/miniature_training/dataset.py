"""Rendered training pictures in memory, with what is needed to write new captions for each."""

import random
from dataclasses import dataclass

import numpy as np

from faceid_core.miniature.captions import caption
from faceid_core.miniature.people import ANONYMOUS_SEEDS, NAMED_SEEDS, name_of, person_from_seed
from faceid_core.miniature.renderer import Shot, render, render_group, render_scene, sample_shot

# The words for a person without a name.
ANONYMOUS_SUBJECTS = {
    "man": ("person", "a person", "man", "a man"),
    "woman": ("person", "a person", "woman", "a woman"),
}


@dataclass
class Pictures:
    """Pictures uint8 [N, H, W, 3] and labels uint8 [N, H, W], with each picture's shot and person."""

    images: np.ndarray
    labels: np.ndarray
    shots: list[Shot]
    person_seeds: list[int]

    def caption(self, index: int, rng: random.Random) -> str:
        """One of a picture's many captions."""
        return caption(self.shots[index], subject_of(self.person_seeds[index], rng), rng)


def subject_of(seed: int, rng: random.Random) -> str:
    """The caption's words for a person: the name, or for anonymous people a class word."""
    if seed in NAMED_SEEDS:
        return name_of(seed)
    # The plain class word is most frequent, because personalized prompts replace it.
    return rng.choices(ANONYMOUS_SUBJECTS[person_from_seed(seed).presents], (4, 2, 1, 1))[0]


def render_pictures(
    count: int, *, seed: int, named_share: float, extras_share: float = 0.0, size: int = 64
) -> Pictures:
    """Render pictures of the training distribution.

    Args:
        count: how many.
        seed: of every choice made here; other seeds give other pictures.
        named_share: share of pictures (0 to 1) of named people, each equally often; the others show
            anonymous people.
        extras_share: share of pictures without people or with two, whose captions are not trained on.
        size: height and width in pixels.
    """
    rng, choices = np.random.default_rng(seed), random.Random(seed)
    images = np.empty((count, size, size, 3), np.uint8)
    labels = np.empty((count, size, size), np.uint8)
    shots, person_seeds = [], []
    rounds = count // len(NAMED_SEEDS) + 1
    named = [int(s) for _ in range(rounds) for s in rng.permutation(np.array(NAMED_SEEDS))]
    for index in range(count):
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
        images[index], labels[index] = picture.image, picture.labels
        shots.append(shot)
        person_seeds.append(person_seed)
    return Pictures(images, labels, shots, person_seeds)
