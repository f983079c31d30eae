"""Digests and parsers of face models by their names."""

from __future__ import annotations

from faceid_core.faces import backends
from faceid_core.weights.place import NOWHERE, WeightsPlace
from faceid_core.weights.required import face_detector, face_parser
from faceid_core.weights.resolve import resolve


def detector_digest(model: str = "opencv", place: WeightsPlace = NOWHERE) -> str:
    return resolve(face_detector(model, place)).digest


def parser_digest(name: str, source: str = "", place: WeightsPlace = NOWHERE) -> str:
    return resolve(face_parser(name, source, place)).digest


def load_parser(name: str, source: str = "", place: WeightsPlace = NOWHERE):
    return backends.load_parser(face_parser(name, source, place))
