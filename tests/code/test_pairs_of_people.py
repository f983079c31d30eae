"""What is said of a picture of two people, and the rows and the page of the study of pairs."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from faceid_core.config import NightlyConfig
from faceid_core.evaluate.pairs import PairFigures, judge_pair
from faceid_core.geometry.protocols import Face
from faceid_core.studies.definitions import studies
from faceid_core.studies.rows import merge_rows, read_rows, write_rows
from faceid_core.studies.several import FIGURES, MEASURES, write_pairs_page

LEFT = Face((4.0, 4.0, 28.0, 28.0), (10.0, 14.0), (22.0, 14.0), 1.0)
RIGHT = Face((36.0, 4.0, 60.0, 28.0), (42.0, 14.0), (54.0, 14.0), 1.0)
RED, BLUE, PURPLE = (255, 0, 0), (0, 0, 255), (255, 0, 255)


class Colors:
    """Recognizes a face by its mean color."""

    def embed(self, crops):
        means = np.stack([crop.reshape(-1, 3).mean(axis=0) for crop in crops])
        return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)


def picture(left, right) -> np.ndarray:
    image = np.empty((32, 64, 3), np.uint8)
    image[:, :32], image[:, 32:] = left, right
    return image


@pytest.fixture
def judge():
    scorers = SimpleNamespace(name="colors", recognizer=Colors(), recognizer_pixels=8, recognizer_eye_targets=None)
    known = np.array([[1, 0, 0], [0, 0, 1]], np.float32)  # the prompt's first person is red
    return lambda image, faces: judge_pair(scorers, image, faces, known)


def test_each_face_is_compared_with_both_people(judge):
    in_order = judge(picture(RED, BLUE), [RIGHT, LEFT])
    assert in_order == PairFigures(True, each_own=True, in_order=True, identity=1.0, mixing=0.0)
    exchanged = judge(picture(BLUE, RED), [LEFT, RIGHT])
    assert exchanged == PairFigures(True, each_own=True, in_order=False, identity=1.0, mixing=0.0)
    twice = judge(picture(RED, RED), [LEFT, RIGHT])
    assert twice.both_found and not twice.each_own and not twice.in_order
    mixed = judge(picture(PURPLE, PURPLE), [LEFT, RIGHT])
    assert not mixed.each_own and mixed.mixing == pytest.approx(2**-0.5) == pytest.approx(mixed.identity)


def test_one_face_three_or_one_without_eyes_are_no_pair(judge):
    image = picture(RED, BLUE)
    blind = Face(RIGHT.box, None, None, 1.0)
    for faces in ([LEFT], [LEFT, RIGHT, RIGHT], [LEFT, blind], []):
        assert judge(image, faces) == PairFigures(both_found=False)


def rows(variant: str, values: list[float], kind: str = "person") -> list[dict]:
    return [
        {"variant": variant, "kind": kind, "subject": f"pair {n}", "device": "cpu", "images": 6}
        | dict.fromkeys(MEASURES, value)
        for n, value in enumerate(values)
    ]


def test_rows_are_replaced_by_variant_and_the_page_compares_over_pairs(tmp_path):
    study = studies()["several"]
    again = read_rows(tmp_path / "no.csv", FIGURES)
    for measured in (
        rows("without", [0.1, 0.3, 0.2]),
        rows("", [0.9], "ceiling") + rows("with", [0.5, 0.9, 0.7]),
        rows("", [0.8], "ceiling") + rows("with", [0.6, 0.85, 0.65]),
    ):
        again = merge_rows(again, measured, study.labels, figures=FIGURES)
    assert again.variant.tolist() == [""] + ["with"] * 3 + ["without"] * 3
    write_rows(tmp_path / "several.csv", again)
    kept = read_rows(tmp_path / "several.csv", FIGURES)
    pd.testing.assert_frame_equal(kept, again)
    text = write_pairs_page(study, kept, NightlyConfig(), tmp_path).read_text()
    assert "3 pairs of held-out people" in text and "| **with** | 3 | 0.700 [" in text
    assert "| named people (ceiling) | 1 | 0.800 |" in text and "Not measured yet: semantic-fidelity+prior." in text
    assert "| without | **-0.500 [" in text
