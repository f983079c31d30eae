"""The scorers that report, ready to use: the same tasks as `scorers`, other networks, other people."""

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
    in_batches,
    load_network,
    most_probable,
    named_shares,
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
    """Names what a picture shows, and says how much of what a text names is in it."""

    name = "miniature-reporting"
    version = "1"

    def __init__(self, network: ConceptNetwork):
        self.network = network

    def score(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
        """Mean probability of the concepts that each picture's own text names, 1 if it names none: float32 [n].

        Args:
            images: n pictures, uint8 [h, w, 3].
            texts: n texts; words that are not of `concepts` are let pass.
        """
        if len(images) != len(texts):
            raise ValueError(f"{len(images)} pictures, {len(texts)} texts: score takes one text a picture")
        found = [
            np.mean([shares[_KINDS[name]][name] for name in named_in(text)] or [1.0])
            for shares, text in zip(self.probabilities(images), texts, strict=True)
        ]
        return np.array(found, np.float32)

    def probabilities(self, images: Sequence[np.ndarray]) -> list[dict[str, dict[str | None, float]]]:
        """For each picture the probability of every answer.

        Of `scene`, `held` and `clothes` one is true, None among them; of `attributes` any number.
        """
        results = []
        for logits, count in in_batches(self.network, squares(images)):
            yes = torch.cat([logits[name] for name in ATTRIBUTES], 1).sigmoid()  # [n, 6]
            shares = {head: logits[head].softmax(1) for head in ("scene", "held", "clothes")}
            shares["attributes"] = yes
            results += named_shares(shares, count)
        return results

    def concepts(self, images: Sequence[np.ndarray]) -> list[Concepts]:
        """The most probable scene, held object and clothes, and every attribute likelier than not."""
        return [most_probable(shares) for shares in self.probabilities(images)]


def named_in(text: str) -> list[str]:
    """The concepts that a text names by their own words, in the order of `concepts`."""
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
