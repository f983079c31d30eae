"""The reporting set of scorers: the tasks of `scorers` with other networks, trained on other people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from .concepts import ATTRIBUTES, CLOTHES, OBJECTS, SCENES
from .reporting_networks import (
    ConceptNetwork,
    ReportingDetectorNetwork,
    ReportingParserNetwork,
    ReportingRecognizerNetwork,
)
from .scorers import (
    Concepts,
    MiniatureDetector,
    MiniatureParser,
    MiniatureRecognizer,
    decide,
    in_batches,
    load_network,
    named_probabilities,
    squares,
)

# The kind of every concept that a text can name.
_KINDS = {
    **dict.fromkeys(SCENES, "scene"),
    **dict.fromkeys(OBJECTS, "held"),
    **dict.fromkeys(CLOTHES, "clothes"),
    **dict.fromkeys(ATTRIBUTES, "attributes"),
}


class MiniatureConceptScorer:
    """Names what a picture shows, and scores how much of a text's concepts it shows."""

    name = "miniature-reporting"
    version = "1"

    def __init__(self, network: ConceptNetwork):
        self.network = network

    def score(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
        """Mean probability of the concepts that each picture's own text names, 1 if it names none: float32 [n].

        Args:
            images: n pictures, uint8 [h, w, 3].
            texts: n texts; words that are not of `concepts` are ignored.
        """
        if len(images) != len(texts):
            raise ValueError(f"{len(images)} pictures, {len(texts)} texts: score takes one text a picture")
        found = [
            np.mean([shares[_KINDS[name]][name] for name in concepts_in_text(text)] or [1.0])
            for shares, text in zip(self.probabilities(images), texts, strict=True)
        ]
        return np.array(found, np.float32)

    def probabilities(self, images: Sequence[np.ndarray]) -> list[dict[str, dict[str | None, float]]]:
        """The probability of every answer for each picture.

        `scene`, `held` and `clothes` each have one answer, possibly None; `attributes` have any number.
        """
        results = []
        for logits, count in in_batches(self.network, squares(images)):
            yes = torch.cat([logits[name] for name in ATTRIBUTES], 1).sigmoid()  # [n, 6]
            shares = {head: logits[head].softmax(1) for head in ("scene", "held", "clothes")}
            shares["attributes"] = yes
            results += named_probabilities(shares, count)
        return results

    def concepts(self, images: Sequence[np.ndarray]) -> list[Concepts]:
        """The most probable scene, held object and clothes, and every attribute above 50 %."""
        return [decide(shares) for shares in self.probabilities(images)]


def concepts_in_text(text: str) -> list[str]:
    """The concepts that a text names literally, in the order of `concepts`."""
    return [name for name in _KINDS if re.search(rf"\b{name}\b", text.lower())]


def load_detector(folder: Path | str | None = None) -> MiniatureDetector:
    """The reporting detector from a folder, by default the one that ships with the package."""
    network, configuration = load_network(ReportingDetectorNetwork, "reporting_detector", folder)
    return MiniatureDetector(network, threshold=configuration["threshold"], name="miniature-reporting")


def load_parser(folder: Path | str | None = None) -> MiniatureParser:
    """The reporting parser from a folder, by default the one that ships with the package."""
    return MiniatureParser(load_network(ReportingParserNetwork, "reporting_parser", folder)[0])


def load_recognizer(folder: Path | str | None = None) -> MiniatureRecognizer:
    """The reporting recognizer from a folder, by default the one that ships with the package."""
    return MiniatureRecognizer(load_network(ReportingRecognizerNetwork, "reporting_recognizer", folder)[0])


def load_image_text(folder: Path | str | None = None) -> MiniatureConceptScorer:
    """The reporting concept scorer from a folder, by default the one that ships with the package."""
    return MiniatureConceptScorer(load_network(ConceptNetwork, "reporting_concepts", folder)[0])
