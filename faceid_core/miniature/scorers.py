"""The selection set of scorers: detector, parser, recognizer, image-text scorer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from faceid_core.geometry.align import align
from faceid_core.geometry.protocols import Face, Point

from ..errors import MissingWeights
from .concepts import ATTRIBUTES, CLOTHES, OBJECTS, SCENES
from .scorer_geometry import RECOGNIZER_EYE_TARGETS, View, close_up, decode, letterbox, match_face
from .scorer_networks import (
    SIZE,
    DetectorNetwork,
    ImageTextNetwork,
    ParserNetwork,
    RecognizerNetwork,
    as_tensor,
)
from .scorer_words import encode

Network = TypeVar("Network", bound=nn.Module)

WEIGHTS = Path(__file__).parent / "weights"
# A fixed batch shape makes a picture's result independent of the others, bit for bit. More at once are no faster on a
# CPU, and a single photo costs the whole batch.
BATCH = 8
# In smaller batches the detector's numbers have other last bits, and a photo's crop must stay what it was.
_DETECTOR_BATCH = 32


@dataclass(frozen=True)
class Concepts:
    """The concepts that a picture shows, in the words of `concepts`; None where none is seen."""

    scene: str | None
    attributes: frozenset[str]
    held: str | None
    clothes: str | None


def load_network(
    network: type[Network], name: str, folder: Path | str | None
) -> tuple[Network, dict[str, Any]]:
    """Load a network in evaluation mode.

    Args:
        network: its class.
        name: of its folder among the shipped `WEIGHTS`.
        folder: None for the shipped one.

    Returns:
        the network with its weights; its configuration.

    Raises:
        MissingWeights: naming the absent file and the command that makes it.
    """
    folder = WEIGHTS / name if folder is None else Path(folder)
    config, weights = folder / "config.json", folder / "model.safetensors"
    for file in (config, weights):
        if not file.is_file():
            raise MissingWeights(
                f"the miniature {name} needs {file.name} in {folder}; bring it with "
                f"`python -m faceid_core.miniature_training.train_scorers {name}`"
            )
    configuration = json.loads(config.read_text())
    model = network(**configuration["network"])
    tensors = load_file(weights)
    model.load_state_dict(
        {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    )
    model.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload] - torch's annotations leave this form out
    return model.eval(), configuration


def squares(images: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures uint8 [h, w, 3] as one array [n, 64, 64, 3]."""
    shrunk = [
        image
        if image.shape[:2] == (SIZE, SIZE)
        else cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        for image in images
    ]
    return np.stack(shrunk) if shrunk else np.empty((0, SIZE, SIZE, 3), np.uint8)


@torch.no_grad()
def in_batches(
    network: Callable[[torch.Tensor], Any], images: np.ndarray, batch: int = BATCH
) -> list[tuple[Any, int]]:
    """Run a network over pictures uint8 [n, 64, 64, 3] in chunks padded to `batch`.

    Returns:
        the network's result for each padded chunk, and how many of its pictures are real.
    """
    results = []
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        padded = np.concatenate([chunk, np.zeros((batch - len(chunk), *chunk.shape[1:]), np.uint8)])
        results.append((network(as_tensor(padded)), len(chunk)))
    return results


class MiniatureDetector:
    """Finds faces in pictures of any size; implements `geometry.protocols.FaceDetector`."""

    version = "1"

    def __init__(self, network: nn.Module, *, threshold: float, name: str = "miniature"):
        self.network, self.threshold, self.name = network, threshold, name

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Face]]:
        """The faces of each picture (uint8 [h, w, 3]), the most confident first, in the picture's pixels.

        Each face is detected a second time in a close-up, where its eyes have more pixels than in the whole picture.
        """
        found = self._detect_views([letterbox(image) for image in images])
        views = [close_up(image, face) for image, faces in zip(images, found, strict=True) for face in faces]
        close_ups = iter(self._detect_views(views))
        return [[_face(match_face(next(close_ups), face)) for face in faces] for faces in found]

    def _detect_views(self, views: Sequence[View]) -> list[np.ndarray]:
        """The faces [k, 9] in each view, in pixels of the picture that it was cut from."""
        boards = np.stack([view.board for view in views]) if views else np.empty((0, SIZE, SIZE, 3), np.uint8)
        found = in_batches(self.network, boards, _DETECTOR_BATCH)
        grids = [grid for out, count in found for grid in out[:count].numpy()]
        return [
            view.in_picture(decode(grid, threshold=self.threshold))
            for grid, view in zip(grids, views, strict=True)
        ]


def _face(row: np.ndarray) -> Face:
    confidence, x0, y0, x1, y1, lx, ly, rx, ry = (float(value) for value in row)
    return Face((x0, y0, x1, y1), (lx, ly), (rx, ry), confidence)


class MiniatureParser:
    """Classifies each pixel of a crop; implements `geometry.protocols.FaceParser`."""

    name = "miniature"
    version = "1"
    approximate = False

    def __init__(self, network: nn.Module):
        self.network = network

    def parse(self, crops: Sequence[np.ndarray], faces: Sequence[Face] | None = None) -> np.ndarray:
        """Labels uint8 [n, h, w] of `geometry.classes.CLASSES` for crops uint8 [h, w, 3] of one size.

        Args:
            crops: RGB, aligned or not; other sizes than 64 are resized, and the labels resized back.
            faces: not needed.
        """
        height, width = crops[0].shape[:2] if len(crops) else (SIZE, SIZE)
        batches = in_batches(self.network, squares(crops))
        labels = [label for logits, count in batches for label in logits[:count].argmax(1).byte().numpy()]
        if (height, width) != (SIZE, SIZE):
            labels = [cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST) for label in labels]
        return np.stack(labels) if labels else np.empty((0, height, width), np.uint8)


class MiniatureRecognizer:
    """Embeds faces as unit vectors whose scalar product is the similarity of two people."""

    name = "miniature"
    version = "1"

    def __init__(self, network: nn.Module):
        self.network = network

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Unit vectors float32 [n, 128] for crops uint8 [64, 64, 3], eyes at `RECOGNIZER_EYE_TARGETS`."""
        vectors = [out[:count].numpy() for out, count in in_batches(self.network, squares(crops))]
        return np.concatenate(vectors) if vectors else np.empty((0, 128), np.float32)

    def embed_faces(self, images: Sequence[np.ndarray], faces: Sequence[Face]) -> np.ndarray:
        """Unit vectors float32 [n, 128] of one detected face in each picture.

        Raises:
            ValueError: if a face has no eyes.
        """
        return self.embed(
            [recognizer_crop(image, *face.eyes) for image, face in zip(images, faces, strict=True)]
        )


def recognizer_crop(image: np.ndarray, left_eye: Point, right_eye: Point) -> np.ndarray:
    """The recognizer's aligned crop [64, 64, 3] of a face, from the eye centers in the picture's pixels."""
    return align(image, left_eye, right_eye, size=SIZE, eye_targets=RECOGNIZER_EYE_TARGETS)[0]


# The answers of each head, in the order of its outputs.
ANSWERS = {
    "scene": (*SCENES, None),
    "held": (*OBJECTS, None),
    "clothes": (*CLOTHES, None),
    "attributes": ATTRIBUTES,
}


class MiniatureImageText:
    """Scores texts against pictures, and names the concepts that pictures show."""

    name = "miniature"
    version = "1"

    def __init__(self, network: ImageTextNetwork, words: list[str]):
        self.network, self.words = network, words

    def score(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
        """Cosine of each picture's and its own text's directions: float32 [n].

        Args:
            images: n pictures, uint8 [h, w, 3].
            texts: n texts; the person is a class word or a name; unknown words are ignored.
        """
        if len(images) != len(texts):
            raise ValueError(f"{len(images)} pictures, {len(texts)} texts: score takes one text a picture")
        if not len(images):
            return np.empty(0, np.float32)
        return (self.embed_images(images) * self.embed_texts(texts)).sum(1)

    def embed_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Unit vectors float32 [n, 128] of pictures."""
        vectors = [out[0][:count].numpy() for out, count in in_batches(self.network, squares(images))]
        return np.concatenate(vectors) if vectors else np.empty((0, 128), np.float32)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [n, 128] of texts."""
        return self.network.text(torch.tensor([encode(text, self.words) for text in texts])).numpy()

    def probabilities(self, images: Sequence[np.ndarray]) -> list[dict[str, dict[str | None, float]]]:
        """The probability of every answer for each picture.

        `scene`, `held` and `clothes` each have one answer, possibly None; `attributes` have any number.
        """
        results = []
        for (_, logits), count in in_batches(self.network, squares(images)):
            shares = {
                head: (values.sigmoid() if head == "attributes" else values.softmax(1)).numpy()
                for head, values in logits.items()
            }
            results += named_probabilities(shares, count)
        return results

    def concepts(self, images: Sequence[np.ndarray]) -> list[Concepts]:
        """The most probable scene, held object and clothes, and every attribute above 50 %."""
        return [decide(shares) for shares in self.probabilities(images)]


def named_probabilities(
    shares: Mapping[str, np.ndarray | torch.Tensor], count: int
) -> list[dict[str, dict[str | None, float]]]:
    """The first `count` rows of each head's probabilities [n, answers], by the answers' names."""
    return [
        {head: dict(zip(known, shares[head][row].tolist(), strict=True)) for head, known in ANSWERS.items()}
        for row in range(count)
    ]


def decide(shares: dict[str, dict[str | None, float]]) -> Concepts:
    """The concepts of one picture from its `probabilities`."""
    return Concepts(
        scene=_argmax(shares["scene"]),
        attributes=frozenset(name for name, share in shares["attributes"].items() if name and share > 0.5),
        held=_argmax(shares["held"]),
        clothes=_argmax(shares["clothes"]),
    )


def _argmax(shares: dict[str | None, float]) -> str | None:
    return max(shares, key=lambda name: shares[name])


def load_detector(folder: Path | str | None = None) -> MiniatureDetector:
    """The face detector from a folder, by default the one that ships with the package."""
    network, configuration = load_network(DetectorNetwork, "detector", folder)
    return MiniatureDetector(network, threshold=configuration["threshold"])


def load_parser(folder: Path | str | None = None) -> MiniatureParser:
    """The face parser from a folder, by default the one that ships with the package."""
    return MiniatureParser(load_network(ParserNetwork, "parser", folder)[0])


def load_recognizer(folder: Path | str | None = None) -> MiniatureRecognizer:
    """The recognizer from a folder, by default the one that ships with the package."""
    return MiniatureRecognizer(load_network(RecognizerNetwork, "recognizer", folder)[0])


def load_image_text(folder: Path | str | None = None) -> MiniatureImageText:
    """The image-text scorer from a folder, by default the one that ships with the package."""
    network, configuration = load_network(ImageTextNetwork, "image_text", folder)
    return MiniatureImageText(network, configuration["words"])
