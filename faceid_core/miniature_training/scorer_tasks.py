"""Training tasks of the selection set's recognizer and image-text scorer: batches and losses."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from faceid_core.geometry.align import EyeTargets, similarity, targets_in_pixels
from faceid_core.miniature import captions
from faceid_core.miniature.concepts import ATTRIBUTES, CLOTHES, FRAMINGS, OBJECTS, SCENES
from faceid_core.miniature.renderer import Shot
from faceid_core.miniature.scorer_geometry import RECOGNIZER_EYE_TARGETS, warp
from faceid_core.miniature.scorer_networks import SIZE, ImageTextNetwork, RecognizerNetwork, as_tensor
from faceid_core.miniature.scorer_words import SUBJECTS, encode, vocabulary
from faceid_core.miniature_training.scorer_data import (
    CLOTHES_ANSWERS,
    HELD_ANSWERS,
    SCENE_ANSWERS,
    Renders,
    augment_appearance,
    augment_geometry,
    person_traits,
)


def recognizer_crop(
    image: np.ndarray, eyes: np.ndarray, eye_targets: EyeTargets = RECOGNIZER_EYE_TARGETS
) -> np.ndarray:
    """The aligned crop [64, 64, 3] of a 64-pixel picture whose eyes [4] are at left x, y, right x, y."""
    targets = targets_in_pixels(eye_targets, SIZE)
    return warp(image, similarity(((eyes[0], eyes[1]), (eyes[2], eyes[3])), targets))


class RecognizerTask:
    """Two pictures of each of many people: embeddings of one person attract, those of others repel.

    An auxiliary head reads the person's parameters from the embedding, which shows directly which differences
    distinguish people.
    """

    pairs = 112
    temperature = 0.07
    learning_rate = 3e-3

    def __init__(self, renders: Renders):
        self.renders = renders
        self.shots_each = int((renders.seeds == renders.seeds[0]).sum())
        self.people = len(renders) // self.shots_each
        self.traits = np.stack([person_traits(seed) for seed in renders.seeds[:: self.shots_each]])

    def configuration(self) -> dict:
        """The content of `config.json`: the arguments of the network."""
        return {"network": {"widths": [24, 48, 96, 160], "dimensions": 128, "traits": self.traits.shape[1]}}

    network = staticmethod(RecognizerNetwork)

    def batch(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Crops [2 p, 3, 64, 64], first pictures then second ones, and the p people's traits."""
        people = rng.choice(self.people, self.pairs, replace=False)
        shots = np.stack([rng.choice(self.shots_each, 2, replace=False) for _ in people], 1)  # [2, p]
        indices = (people * self.shots_each + shots).reshape(-1)
        images = augment_appearance(self.renders.images[indices], rng, strength=0.8)
        eyes = self.renders.eyes[indices] + rng.normal(0, 0.4, (len(indices), 4))
        crops = np.stack([recognizer_crop(image, eye) for image, eye in zip(images, eyes, strict=True)])
        return {"images": as_tensor(crops), "traits": torch.from_numpy(self.traits[people])}

    def loss(self, network: RecognizerNetwork, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Contrastive loss over the batch, and the error of the traits."""
        embedding = network(batch["images"])  # [2 p, d]
        count = len(embedding) // 2
        logits = embedding @ embedding.T / self.temperature
        logits = logits.masked_fill(torch.eye(2 * count, dtype=torch.bool), -1e4)
        partner = torch.arange(2 * count).roll(count)
        traits = network.read_traits(embedding)
        return {
            "pairs": F.cross_entropy(logits, partner),
            "traits": F.smooth_l1_loss(traits, batch["traits"].repeat(2, 1)),
        }


# One column for each concept that a caption can name.
FACTS = (*FRAMINGS, *SCENES, *OBJECTS, *CLOTHES, *ATTRIBUTES)
_PHRASES = {
    **captions.SCENE_PHRASES,
    **captions.OBJECT_PHRASES,
    **captions.CLOTHES_PHRASES,
    **captions.ATTRIBUTE_PHRASES,
}


def facts_of_shot(shot: Shot) -> np.ndarray:
    """The facts that a shot shows: bool [27] over `FACTS`."""
    true = {shot.framing, shot.scene, shot.held, shot.clothes, *shot.attributes}
    return np.array([fact in true for fact in FACTS])


def facts_of_caption(text: str, framing: str) -> np.ndarray:
    """The facts that a caption names: bool [27] over `FACTS`."""
    said = {name for name, phrase in _PHRASES.items() if re.search(rf"\b{phrase}\b", text)} | {framing}
    return np.array([fact in said for fact in FACTS])


def change_one_thing(shot: Shot, rng: random.Random) -> Shot:
    """The same shot with another scene, object, garment or attribute."""
    part = rng.choice(("scene", "clothes", "attributes", "attributes") + ("held",) * (shot.framing == "half"))
    if part == "attributes":
        return replace(shot, attributes=shot.attributes ^ {rng.choice(ATTRIBUTES)})
    known = {"scene": SCENE_ANSWERS, "clothes": CLOTHES, "held": HELD_ANSWERS}[part]
    return replace(shot, **{part: rng.choice([name for name in known if name != getattr(shot, part)])})


class ImageTextTask:
    """Classifies concepts, and distinguishes texts that are true of a picture from false ones."""

    size = 160
    learning_rate = 2.5e-3

    def __init__(self, renders: Renders):
        self.renders = renders
        self.words = vocabulary()

    def configuration(self) -> dict:
        """The content of `config.json`: the arguments of the network, and the words by id."""
        heads = {
            "scene": len(SCENE_ANSWERS),
            "held": len(HELD_ANSWERS),
            "clothes": len(CLOTHES_ANSWERS),
            "attributes": len(ATTRIBUTES),
        }
        network = {
            "heads": heads,
            "words": len(self.words) + 2,
            "widths": [32, 48, 96, 160],
            "dimensions": 128,
            "word_width": 64,
        }
        return {"network": network, "words": self.words}

    network = staticmethod(ImageTextNetwork)

    def _texts(self, shots: Sequence[Shot], rng: random.Random) -> tuple[Tensor, np.ndarray]:
        """A caption of each shot and one of each shot with one thing changed: words and facts."""
        words, facts = [], []
        for shot in (*shots, *(change_one_thing(shot, rng) for shot in shots)):
            text = captions.caption(shot, rng.choice(SUBJECTS), rng)
            words.append(encode(text, self.words, drop=0.02, rng=rng))
            facts.append(facts_of_caption(text, shot.framing))
        return torch.tensor(words), np.stack(facts)

    def batch(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Pictures [n, 3, 64, 64] with their answers, texts [2 n, length], and which are true of which."""
        renders, indices = self.renders, rng.choice(len(self.renders), self.size, replace=False)
        images = augment_geometry(
            augment_appearance(renders.images[indices], rng), rng, zoom=(0.94, 1.08), shift=2.5
        )
        shots = [renders.shot(index) for index in indices]
        words, said = self._texts(shots, random.Random(int(rng.integers(2**62))))
        true = np.stack([facts_of_shot(shot) for shot in shots])  # [n, 27]
        wrong = (~true).astype(np.float32) @ said.astype(np.float32).T  # [n, 2 n]: said, but not so
        return {
            "images": as_tensor(images),
            "words": words,
            "agree": torch.from_numpy(np.float32(wrong == 0)),
            "scene": torch.from_numpy(renders.scene[indices]),
            "held": torch.from_numpy(renders.held[indices]),
            "clothes": torch.from_numpy(renders.clothes_seen[indices]),
            "attributes": torch.from_numpy(np.float32(renders.attributes[indices])),
        }

    def loss(self, network: ImageTextNetwork, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The heads' losses and the pairwise one of pictures and texts."""
        image, answers = network(batch["images"])
        logits = network.agreement(image, network.text(batch["words"]))  # [n, 2 n]
        # False pairs outnumber true ones about fifty to one.
        weight = torch.where(batch["agree"] > 0, 8.0, 1.0)
        losses = {name: F.cross_entropy(answers[name], batch[name]) for name in ("scene", "held", "clothes")}
        losses["attributes"] = 3 * F.binary_cross_entropy_with_logits(
            answers["attributes"], batch["attributes"]
        )
        losses["texts"] = 4 * F.binary_cross_entropy_with_logits(logits, batch["agree"], weight)
        return losses
