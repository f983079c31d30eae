"""Training tasks of the reporting set's recognizer and concept namer, with batches and losses of their own."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from faceid_core.miniature.concepts import ATTRIBUTES
from faceid_core.miniature.reporting_networks import ConceptNetwork, ReportingRecognizerNetwork
from faceid_core.miniature.scorer_networks import as_tensor
from faceid_core.miniature_training.scorer_data import (
    CLOTHES_ANSWERS,
    HELD_ANSWERS,
    SCENE_ANSWERS,
    Renders,
    augment_appearance,
    augment_geometry,
    person_traits,
)
from faceid_core.miniature_training.scorer_tasks import recognizer_crop

CHOICES = {"scene": len(SCENE_ANSWERS), "held": len(HELD_ANSWERS), "clothes": len(CLOTHES_ANSWERS)}


class PrototypeTask:
    """Three pictures of each of many people: each must be nearest to the mean of its person's other two.

    A margin lowers the cosine to the own person, so that being nearest is not enough. An auxiliary head
    reads the person's parameters from the embedding.

    Source: margin of Wang et al., "CosFace", with means of the batch instead of learned class vectors.
    """

    persons = 72
    shots = 3
    margin, scale = 0.15, 14.0
    learning_rate = 2e-3
    network = staticmethod(ReportingRecognizerNetwork)

    def __init__(self, renders: Renders):
        self.renders = renders
        self.shots_each = int((renders.seeds == renders.seeds[0]).sum())
        self.people = len(renders) // self.shots_each
        self.traits = np.stack([person_traits(seed) for seed in renders.seeds[:: self.shots_each]])

    def configuration(self) -> dict:
        """The content of `config.json`: the arguments of the network."""
        trunk = {"fine": 64, "coarse": 128, "local": 1, "blocks": "dada"}
        return {"network": {"trunk": trunk, "dimensions": 128, "traits": self.traits.shape[1]}}

    def batch(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Crops [p s, 3, 64, 64], person after person, and the p people's traits."""
        people = rng.choice(self.people, self.persons, replace=False)
        shots = np.stack([rng.choice(self.shots_each, self.shots, replace=False) for _ in people])  # [p, s]
        indices = (people[:, None] * self.shots_each + shots).reshape(-1)
        images = augment_appearance(self.renders.images[indices], rng, strength=1.2)
        eyes = self.renders.eyes[indices] + rng.normal(0, 0.4, (len(indices), 4))
        crops = np.stack([recognizer_crop(image, eye) for image, eye in zip(images, eyes, strict=True)])
        return {"images": as_tensor(crops), "traits": torch.from_numpy(self.traits[people])}

    def loss(self, network: ReportingRecognizerNetwork, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross-entropy over the people's means, and the error of the traits."""
        vectors = network(batch["images"])  # [p s, d]
        cosines = prototype_cosines(vectors.unflatten(0, (-1, self.shots)))  # [p, s, p]
        count = len(cosines)
        own = torch.eye(count).unsqueeze(1)  # [p, 1, p]
        logits = (self.scale * (cosines - self.margin * own)).flatten(0, 1)
        owners = torch.arange(count).repeat_interleave(self.shots)
        traits = network.read_traits(vectors)
        return {
            "people": F.cross_entropy(logits, owners),
            "traits": F.smooth_l1_loss(traits, batch["traits"].repeat_interleave(self.shots, 0)),
        }


def prototype_cosines(vectors: Tensor) -> Tensor:
    """Cosine of each picture and each person's mean, a picture being left out of its own person's mean.

    Args:
        vectors: unit vectors [p, s, d] of s pictures of each of p people.

    Returns:
        [p, s, p].
    """
    total = vectors.sum(1)  # [p, d]
    cosines = vectors @ F.normalize(total, dim=-1).T  # [p, s, p]
    others = F.normalize(total.unsqueeze(1) - vectors, dim=-1)  # [p, s, d]
    own = torch.eye(len(vectors), dtype=torch.bool).unsqueeze(1)
    return torch.where(own, (vectors * others).sum(-1, keepdim=True), cosines)


class ConceptTask:
    """Classifies scene, held object and clothes, and each attribute, on augmented pictures."""

    size = 160
    half_figures = 0.7  # share of the batch
    learning_rate = 2e-3
    network = staticmethod(ConceptNetwork)

    def __init__(self, renders: Renders):
        self.renders = renders

    def configuration(self) -> dict:
        """The content of `config.json`: the arguments of the network."""
        trunk = {"fine": 64, "coarse": 128, "local": 1, "blocks": "dada"}
        return {"network": {"trunk": trunk, "heads": CHOICES | {name: 1 for name in ATTRIBUTES}}}

    def batch(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Pictures [n, 3, 64, 64] with their answers [n], and the attributes [n, 6]."""
        renders = self.renders
        # Half of the pictures are half figures, whose mouth and eyes have few pixels.
        half = rng.random(self.size) < self.half_figures
        indices = 2 * rng.choice(len(renders) // 2, self.size, replace=False) + half
        images = augment_geometry(
            augment_appearance(renders.images[indices], rng), rng, zoom=(0.92, 1.1), shift=3.0
        )
        return {
            "images": as_tensor(images),
            "scene": torch.from_numpy(renders.scene[indices]),
            "held": torch.from_numpy(renders.held[indices]),
            "clothes": torch.from_numpy(renders.clothes_seen[indices]),
            "attributes": torch.from_numpy(np.float32(renders.attributes[indices])),
        }

    def loss(self, network: ConceptNetwork, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The heads' losses."""
        answers = network(batch["images"])
        losses = {name: F.cross_entropy(answers[name], batch[name]) for name in CHOICES}
        yes = torch.cat([answers[name] for name in ATTRIBUTES], 1)  # [n, 6]
        return losses | {"attributes": 8 * F.binary_cross_entropy_with_logits(yes, batch["attributes"])}
