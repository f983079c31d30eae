"""The metrics on pictures whose truth is known: the renderer says where the face is and what is shown."""

import math
import tracemalloc
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest

from data_contracts import contract
from faceid_core.errors import ConfigurationError
from faceid_core.evaluate import null_reasons
from faceid_core.evaluate.cells import DrawSettings, grid_cells
from faceid_core.evaluate.face_masks import face_mask, outside_share
from faceid_core.evaluate.grid import parse_grid
from faceid_core.evaluate.metric_rows import MetricRow, MetricRows, row_of
from faceid_core.evaluate.metrics import (
    METRICS,
    read_scores,
    score,
    write_scores,
)
from faceid_core.evaluate.pictures import Pictures, crop_faces, largest_face
from faceid_core.evaluate.scorers import Scorers, load_scorers
from faceid_core.evaluate.shards import ShardRow
from faceid_core.geometry.classes import INDEX, REGIONS
from faceid_core.geometry.protocols import Face
from faceid_core.miniature.people import person_from_seed
from faceid_core.miniature.renderer import Shot, render, render_scene

GRID = parse_grid(
    """
name: test
prompts:
  - {id: beach, text: a photo of V* on the beach, category: scene, expected: {scene: beach}}
  - id: hat-book
    text: a photo of V* wearing a hat, holding a book
    category: mixed
    expected: {attribute: hat, action: book}
  - {id: free, text: a photo of V*, category: scene}
""",
    source="test",
)
SETTINGS = DrawSettings(base="b", sampler="x", steps=1, guidance_scale=1.0, precision="float32", version=1)
ANN, BEN = person_from_seed(200_001), person_from_seed(200_002)
BEACH = Shot(framing="half", scene="beach")
HAT = Shot(framing="half", attributes=frozenset({"hat"}), held="umbrella", dx=0.08)
REFERENCE = render(ANN, Shot()).image


class Oracle:
    """Stands for every scorer: it knows the truth of each picture that it has been shown before."""

    name, version, approximate = "oracle", "1", False

    def __init__(self):
        self.faces: dict[bytes, list[Face]] = {}
        self.shown: dict[bytes, SimpleNamespace] = {}
        self.detections = 0
        self.texts: list[str] = []

    def know(self, rendered, shot=None):
        faces = [
            Face(box, left, right, 1.0)
            for box, (left, right) in zip(rendered.boxes, rendered.eyes, strict=True)
        ]
        self.faces[rendered.image.tobytes()] = faces
        if shot is not None:
            self.shown[rendered.image.tobytes()] = SimpleNamespace(
                scene=shot.scene, attributes=shot.attributes, held=shot.held, clothes=shot.clothes
            )
        return rendered.image

    def detect(self, images):
        self.detections += len(images)
        return [self.faces[image.tobytes()] for image in images]

    def parse(self, crops, faces):
        """Skin inside the ellipse of the face's box: it must be in the crop's own coordinates."""
        y, x = np.mgrid[: crops[0].shape[0], : crops[0].shape[1]] + 0.5
        labels = np.zeros((len(crops), *crops[0].shape[:2]), np.uint8)
        for label, face in zip(labels, faces, strict=True):
            x0, y0, x1, y1 = face.box
            radius = ((x - (x0 + x1) / 2) / (x1 - x0) * 2) ** 2 + ((y - (y0 + y1) / 2) / (y1 - y0) * 2) ** 2
            label[radius <= 1] = INDEX["skin"]
        return labels

    def embed(self, crops):
        """Direction of the skin's color around the nose."""
        colors = np.stack([crop[28:44, 26:38].reshape(-1, 3).mean(0) - 128 for crop in crops])
        return (colors / np.linalg.norm(colors, axis=1, keepdims=True)).astype(np.float32)

    def score(self, images, texts):
        self.texts += texts
        return np.linspace(0.1, 0.3, len(texts), dtype=np.float32)

    def concepts(self, images):
        return [self.shown[image.tobytes()] for image in images]


@pytest.fixture
def oracle():
    oracle = Oracle()
    oracle.know(render(ANN, Shot()), Shot())
    return oracle


def _oracle_scorers(oracle):
    return Scorers(
        name="oracle",
        detector=oracle,
        parser=oracle,
        recognizer=oracle,
        image_text=oracle,
        namer=oracle,
        parser_pixels=64,
        recognizer_pixels=64,
        recognizer_eye_targets=((22 / 64, 30 / 64), (42 / 64, 30 / 64)),
    )


@pytest.fixture
def scorers(oracle):
    return _oracle_scorers(oracle)


@pytest.fixture
def rows(oracle):
    """Beach: Ann, Ben; hat and book: Ann with hat and umbrella, no person; free: Ann twice."""
    cells = grid_cells(GRID, (0, 1), SETTINGS, subject="tokens")
    drawn = [
        (render(ANN, BEACH), BEACH),
        (render(BEN, BEACH), BEACH),
        (render(ANN, HAT), HAT),
        (render_scene(BEACH), Shot(scene="beach", attributes=frozenset({"hat"}), held="book")),
        (render(ANN, BEACH), BEACH),
        (render(ANN, HAT), HAT),
    ]
    attention = np.ones((8, 8), np.float16)
    return [
        ShardRow.of(cell, oracle.know(rendered, shot), attention if index else None)
        for index, (cell, (rendered, shot)) in enumerate(zip(cells, drawn, strict=True))
    ]


def _score(metric, rows, scorers, **options):
    options = {"reference": REFERENCE, "class_word": "woman"} | options
    return score(metric, rows, prompts=GRID.prompts, scorers=scorers, **options)


def test_identity_is_nearest_for_the_same_person_and_none_without_a_face(rows, scorers):
    found = _score("identity", rows, scorers)
    values = [row.value for row in found]
    assert values[0] > 0.99 and values[0] > values[1] + 0.01
    assert values[3] is None and found[3].detail == "no face"
    assert [(row.prompt_id, row.seed) for row in found[:3]] == [("beach", 0), ("beach", 1), ("hat-book", 0)]


def test_identity_without_a_face_in_the_photo_is_none_everywhere(rows, scorers, oracle):
    empty = oracle.know(render_scene(Shot(scene="snow")))
    found = _score("identity", rows, scorers, reference=empty)
    assert {row.value for row in found} == {None} and found[0].detail == "no face in the reference photo"
    with pytest.raises(ValueError, match="pass `reference`"):
        _score("identity", rows, scorers, reference=None)


def test_pictures_are_looked_at_once_for_many_references(rows, scorers, oracle):
    oracle.know(render(BEN, Shot()))
    pictures = Pictures(rows, scorers)
    ann = _score("identity", pictures, scorers)
    ben = _score("identity", pictures, scorers, reference=render(BEN, Shot()).image)
    assert ann[0].value > ben[0].value and ben[1].value > ann[1].value
    _score("detection", pictures, scorers)
    assert oracle.detections == len(rows) + 2
    assert ann == _score("identity", rows, scorers)


def test_detection(rows, scorers):
    assert [row.value for row in _score("detection", rows, scorers)] == [1, 1, 1, 0, 1, 1]


def test_concepts_need_all_that_was_asked(rows, scorers):
    found = _score("concepts", rows, scorers)
    overall = {(r.prompt_id, r.seed): (r.value, r.detail) for r in found if r.metric == "concepts"}
    assert overall == {
        ("beach", 0): (1.0, ""),
        ("beach", 1): (1.0, ""),
        ("hat-book", 0): (0.0, "missed action"),
        ("hat-book", 1): (1.0, ""),
        ("free", 0): (None, "the prompt expects nothing"),
        ("free", 1): (None, "the prompt expects nothing"),
    }
    single = {(r.seed, r.metric): (r.value, r.detail) for r in found if r.prompt_id == "hat-book"}
    assert single[0, "concepts:attribute"] == (1.0, "hat")
    assert single[0, "concepts:action"] == (0.0, "umbrella")


def test_image_text_is_asked_with_the_class_word(rows, scorers, oracle):
    found = _score("image_text", rows, scorers)
    assert oracle.texts[0] == "a photo of woman on the beach" and len(found) == 6
    assert found[0].value == pytest.approx(0.1)


def mask_of(image, face, scorers):
    """Where the face and its hair are, float32 [h, w]."""
    (close,) = crop_faces([image], [face], scorers)
    return face_mask(close.labels, close.transform, image.shape[:2])


def test_face_mask_lies_where_the_face_is(scorers):
    """Half figure, turned by the alignment and back: the mask must come home to within a pixel."""
    for shot in (BEACH, HAT):
        truth = render(ANN, shot)
        mask = mask_of(truth.image, Face(truth.boxes[0], *truth.eyes[0], 1.0), scorers) > 0.5
        x0, y0, x1, y1 = truth.boxes[0]
        y, x = np.nonzero(mask)
        assert np.abs(np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) - [x0, y0, x1, y1]).max() < 1.6
        real = np.isin(truth.labels, [INDEX[name] for name in REGIONS["face"]])
        assert (mask & real).sum() / real.sum() > 0.8


def test_attention_outside_the_face(rows, scorers):
    found = _score("attention", rows, scorers)
    assert found[0].value is None and found[0].detail == "no attention was recorded"
    assert found[3].value is None and found[3].detail == "no face"
    image = rows[1].image
    face = mask_of(image, scorers.detector.detect([image])[0][0], scorers)
    # Even attention: the share outside is the area outside.
    assert found[1].value == pytest.approx(1 - face.mean(), abs=0.01)


def test_outside_share_knows_where_attention_is():
    mask = np.zeros((64, 64), np.float32)
    mask[:32, :32] = 1
    corner = np.zeros((8, 8), np.float16)
    corner[0, 0] = 1
    assert outside_share(corner, mask) == pytest.approx(0)
    assert outside_share(corner[::-1], mask) == pytest.approx(1)
    assert outside_share(np.zeros((8, 8)), mask) is None
    assert outside_share(np.full((8, 8), np.nan), mask) is None


def test_the_largest_face_counts():
    small, large = Face((0, 0, 9, 9), None, None, 0.9), Face((10, 0, 30, 20), None, None, 0.5)
    assert largest_face([small, large]) is large and largest_face([]) is None


def test_an_empty_shard_and_a_grid_that_does_not_fit(rows, scorers):
    for metric in METRICS:
        assert _score(metric, [], scorers) == []
    with pytest.raises(ValueError, match="not given: beach, hat-book"):
        score("detection", rows, prompts=GRID.prompts[2:], class_word="person", scorers=scorers)
    with pytest.raises(ValueError, match="'age' is unknown; use one of: identity"):
        _score("age", rows, scorers)


def test_without_a_namer_concepts_have_no_values(rows, scorers):
    mute = Scorers(**{**scorers.__dict__, "namer": None})
    assert {row.value for row in _score("concepts", rows, mute)} == {None}


def test_scores_come_back_and_bytes_are_the_same_each_time(rows, scorers):
    found = _score("concepts", rows, scorers) + _score("identity", rows, scorers)
    data = write_scores(found)
    assert read_scores(data) == found and write_scores(found) == data
    assert read_scores(write_scores([])) == []


def test_rows_in_columns_are_the_rows(rows, scorers):
    found = [
        *_score("identity", rows, scorers),
        *_score("leakage", rows, scorers),
        MetricRow("beach", 0, "copying", math.nan),
        MetricRow("beach", 1, "copying", None, "no face"),
    ]
    parts = [MetricRows.of(found[:2]), MetricRows.of(found[2:-1]), MetricRows(), MetricRows.of(found[-1:])]
    joined = MetricRows.joined(parts)
    assert len(joined) == len(found) and joined[:-2] == found[:-2] and joined[-1] == found[-1]
    assert math.isnan(joined[-2].value), "a figure that is none stays one and does not become a missing value"
    assert joined.values("identity") == {
        (row.prompt_id, row.seed): row.value for row in found if row.metric == "identity" and row.value is not None
    }
    assert list(joined.values("copying")) == [("beach", 0)] and joined.values("age") == {}
    assert joined.rows("copying", "identity")[-1] == found[-1] and joined.rows("leakage:scene") == []
    wanted = ("copying", "identity", "leakage:clothes")
    columns = joined.columns(*wanted)
    made = [MetricRow(*values) for values in zip(*(columns[field.name] for field in fields(MetricRow)), strict=True)]
    assert repr(made) == repr(joined.rows(*wanted)), "by their words, because a NaN is not equal to itself"
    assert joined.columns("age") == {"prompt_id": [], "seed": [], "metric": [], "value": [], "detail": []}
    assert set(joined.metrics) == {row.metric for row in found}
    assert joined.pictures == {(row.prompt_id, row.seed) for row in found}


@pytest.mark.parametrize(("same_order", "most"), [(True, 24), (False, 48)])
def test_the_rows_of_many_people_take_little_memory(same_order, most):
    def person(number):
        # Which pictures show a face differs, and so does the order of rows.
        faces = range(96) if same_order else [place for place in range(96) if (place * 7 + number) % 11]
        return MetricRows(
            (f"p{place // 4}", place % 4, metric, number / 1000, "".join(["leak", "ed"]) if metric == "leakage" else "")
            for metric in ("identity", "concepts", "leakage")
            for place in faces
        )

    first = person(0)
    tracemalloc.start()
    others = [person(number) for number in range(1, 51)]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / sum(map(len, others)) < most, "bytes a row; as objects they took two hundred"
    assert set(first.values("identity").values()) == {0.0} and others[-1].rows("leakage")[0].detail == "leaked"


def test_an_unknown_backend_is_refused():
    with pytest.raises(ConfigurationError, match="use one of: miniature"):
        load_scorers("clip")


def test_the_miniatures_own_scorers_say_what_the_renderer_drew(rows, oracle):
    """The real models through the same door: the person, the concepts and the place of the face."""
    real = load_scorers("miniature")
    pictures = Pictures(rows, real)
    detected = [row.value for row in _score("detection", pictures, real)]
    assert detected == [row.value for row in _score("detection", rows, _oracle_scorers(oracle))]
    ann, ben = (row.value for row in _score("identity", pictures, real)[:2])
    assert ann > 0.6 and ann > ben + 0.3
    named = {
        (r.prompt_id, r.seed): r.value for r in _score("concepts", pictures, real) if r.metric == "concepts"
    }
    assert named["beach", 0] == named["beach", 1] == 1 and named["hat-book", 0] == 0
    mask = mask_of(rows[1].image, pictures.faces[1], real) > 0.5
    truth = np.isin(render(BEN, BEACH).labels, [INDEX[name] for name in REGIONS["face_hair"]])
    assert (mask & truth).sum() / (mask | truth).sum() > 0.6


def test_every_reason_is_a_word_of_the_contract_and_a_metric_can_give_no_other():
    (column,) = [
        each for each in contract("image_metrics").document["schema"][0]["properties"] if each["name"] == "null_reason"
    ]
    (rule,) = column["quality"]
    allowed = set(rule["arguments"]["validValues"]) - {"unknown"}  # of rows that version 1 wrote
    reasons = [each for each in vars(null_reasons).values() if isinstance(each, null_reasons.NoValue)]
    assert {each.reason for each in reasons} | {null_reasons.OTHER} == allowed
    assert len({each.text for each in reasons}) == len(reasons), "a blob keeps the text alone"
    row = SimpleNamespace(prompt_id="beach", seed=0)
    given = row_of(row, "identity", None, null_reasons.NO_FACE)
    assert (given.detail, null_reasons.null_reason(given.value, given.detail)) == ("no face", "no_face")
    for value, detail in ((None, "no face"), (0.5, null_reasons.NO_FACE)):
        with pytest.raises(TypeError, match="identity"):
            row_of(row, "identity", value, detail)
