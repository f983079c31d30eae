"""The miniature's scorers on people and shots that no training saw, and the code that trains them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from faceid_core.errors import MissingWeights
from faceid_core.faces.classes import CLASSES
from faceid_core.miniature import measure_scorers, people, scorers, train_scorers
from faceid_core.miniature.concepts import ATTRIBUTES
from faceid_core.miniature.renderer import LABELS, Shot, render, render_group, render_scene, sample_shot
from faceid_core.miniature.scorer_data import SCENE_ANSWERS, render_people
from faceid_core.miniature.scorer_geometry import decode, letterbox
from faceid_core.miniature.scorer_spatial import grid_targets
from faceid_core.miniature.scorer_tasks import FACTS, facts_of_caption, facts_of_shot
from faceid_core.miniature.scorer_words import UNKNOWN, encode, vocabulary


@pytest.fixture(scope="module")
def renders():
    """144 pictures of 24 held-out people other than those of the published figures."""
    return render_people(people.HELD_OUT_SEEDS[900:924], 6, seed=123)


@pytest.fixture(scope="module")
def detector():
    return scorers.load_detector()


def test_people_of_training_and_measuring_are_disjoint():
    held_out, trained = set(people.HELD_OUT_SEEDS), set(people.SCORER_TRAINING_SEEDS)
    assert not held_out & trained
    assert not trained & (set(people.NAMED_SEEDS) | set(people.SAMPLE_SEEDS))


def test_labels_of_renderer_and_masks_have_one_order():
    assert LABELS == CLASSES


def test_detector_finds_faces_and_their_eyes(renders, detector):
    found = detector.detect(list(renders.images))
    assert np.mean([len(faces) == 1 for faces in found]) >= 0.97
    errors = [
        np.abs(np.array([*faces[0].left_eye, *faces[0].right_eye]) - eyes).max()
        for faces, eyes in zip(found, renders.eyes, strict=True)
        if faces
    ]
    assert np.median(errors) < 0.8  # pixels of 64


def test_detector_finds_nobody_where_nobody_is(detector):
    rng = np.random.default_rng(3)
    scenes = [render_scene(sample_shot(rng)).image for _ in range(60)]
    noise = list(rng.integers(0, 256, (20, 90, 120, 3), dtype=np.uint8))
    flat = [np.full((50, 50, 3), value, np.uint8) for value in range(0, 256, 15)]
    found = [len(faces) for faces in detector.detect([*scenes, *noise, *flat])]
    assert np.mean(np.array(found) > 0) <= 0.02


def test_detector_tells_two_from_one(detector):
    rng = np.random.default_rng(4)
    pairs = [
        [people.person_from_seed(200_950 + 2 * n), people.person_from_seed(200_951 + 2 * n)]
        for n in range(20)
    ]
    counts = [
        len(faces)
        for faces in detector.detect([render_group(pair, sample_shot(rng)).image for pair in pairs])
    ]
    assert np.mean(np.array(counts) == 2) >= 0.9


@pytest.mark.parametrize("size", [(128, 128), (200, 300), (300, 200), (1000, 1400)])
def test_detector_answers_in_pixels_of_the_picture(detector, size):
    height, width = size
    side = min(size)
    drawn = render(people.person_from_seed(200_990), Shot(scene="room"), size=side)
    picture = np.full((height, width, 3), 128, np.uint8)
    picture[height - side :, width - side :] = drawn.image
    faces = detector.detect([picture])[0]
    assert len(faces) == 1
    expected = np.array(drawn.eyes[0]) + np.array([width - side, height - side])
    pixel = max(size) / 64
    assert np.abs(np.array([faces[0].left_eye, faces[0].right_eye]) - expected).max() < 1.5 * pixel


def test_parser_masks_faces(renders):
    labels = scorers.load_parser().parse(list(renders.images))
    assert labels.shape == renders.labels.shape and labels.dtype == np.uint8
    assert measure_scorers.overlap_of_regions(labels, renders.labels, "face") >= 0.85


def test_parser_keeps_the_size_of_its_crops(renders):
    large = [cv2.resize(image, (96, 96)) for image in renders.images[:3]]
    assert scorers.load_parser().parse(large).shape == (3, 96, 96)


def test_recogniser_tells_people_apart(renders):
    recogniser = scorers.load_recogniser()
    crops = [
        scorers.recogniser_crop(image, tuple(eyes[:2]), tuple(eyes[2:]))
        for image, eyes in zip(renders.images, renders.eyes, strict=True)
    ]
    vectors = recogniser.embed(crops)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    figures = measure_scorers.recognition(vectors, renders.seeds, gallery=24)
    assert figures["equal_error_rate"] <= 0.05
    assert figures["rank1"] >= 0.97


def test_a_vector_does_not_depend_on_its_companions(renders):
    recogniser = scorers.load_recogniser()
    together = recogniser.embed(list(renders.images[:40]))
    alone = np.concatenate([recogniser.embed([image]) for image in renders.images[:3]])
    assert (together[:3] == alone).all()


def test_recogniser_needs_eyes(renders):
    with pytest.raises(ValueError, match="aligns a face by its eyes"):
        scorers.recogniser_crop(renders.images[0], None, None)


def test_image_text_names_concepts(renders):
    shown = scorers.load_image_text().concepts(list(renders.images))
    scenes = [
        concepts.scene == SCENE_ANSWERS[index] for concepts, index in zip(shown, renders.scene, strict=True)
    ]
    assert np.mean(scenes) >= 0.98
    told = np.array([[name in concepts.attributes for name in ATTRIBUTES] for concepts in shown])
    assert (told == renders.attributes).mean() >= 0.98


def test_true_texts_score_higher_than_false_ones(renders):
    figures = measure_scorers.measure_texts(renders, renders.images)
    assert figures["true text above false one"] >= 0.98
    assert figures["shift by an unknown name, mean"] < 0.1


def test_one_text_for_each_picture(renders):
    with pytest.raises(ValueError, match="2 pictures, 1 texts"):
        scorers.load_image_text().score(list(renders.images[:2]), ["a photo of a person"])


def test_nothing_in_nothing_out(detector):
    assert detector.detect([]) == []
    assert scorers.load_parser().parse([]).shape[0] == 0
    assert scorers.load_recogniser().embed([]).shape == (0, 128)
    assert scorers.load_image_text().concepts([]) == []
    assert scorers.load_image_text().score([], []).shape == (0,)


def test_missing_weights_name_the_command(tmp_path):
    with pytest.raises(MissingWeights, match="train_scorers recogniser"):
        scorers.load_recogniser(tmp_path)


def test_grid_says_where_the_faces_are():
    faces = np.float32([[10, 8, 30, 36, 15, 20, 25, 20], [40, 20, 56, 44, 44, 30, 52, 31]])
    heat, _, places, _ = grid_targets(faces)
    logits = np.log(np.clip(heat, 1e-6, 1 - 1e-6) / (1 - np.clip(heat, 1e-6, 1 - 1e-6)))
    found = decode(np.concatenate([logits[None], places]).astype(np.float32), threshold=0.5)
    found = found[np.argsort(found[:, 1])]
    assert np.abs(found[:, 1:] - faces).max() < 0.01


@pytest.mark.parametrize(("row", "column"), [(0, 0), (15, 15), (0, 15), (15, 7)])
def test_a_face_may_lie_in_any_cell(row, column):
    grid = np.full((9, 16, 16), -5, np.float32)
    grid[0, row, column] = 5
    assert decode(grid, threshold=0.5).shape == (1, 9)


def test_letterbox_keeps_proportions():
    view = letterbox(np.zeros((100, 200, 3), np.uint8))
    assert view.board.shape == (64, 64, 3)
    assert view.scale == pytest.approx((200 / 64, 100 / 32))


def test_equal_error_rate_of_known_distributions():
    same, different = np.array([0.9, 0.8, 0.7, 0.2]), np.array([0.1, 0.0, -0.1, 0.75])
    assert measure_scorers.equal_error_rate(same, different)[0] == pytest.approx(0.25)
    assert measure_scorers.equal_error_rate(np.array([0.9, 0.8]), np.array([0.1, 0.2]))[0] == pytest.approx(
        0.0
    )


def test_facts_of_a_caption_are_facts_of_its_shot():
    shot = Shot(
        framing="half",
        scene="snow",
        clothes="white coat",
        held="glass of wine",
        attributes=frozenset({"hat"}),
    )
    text = "a photo of a man in the snow wearing a hat, holding a glass of wine"
    said = {name for name, on in zip(FACTS, facts_of_caption(text, "half"), strict=True) if on}
    assert said == {"half", "snow", "hat", "glass of wine"}
    assert not (facts_of_caption(text, "half") & ~facts_of_shot(shot)).any()


def test_unknown_words_have_a_number():
    words = vocabulary()
    assert encode("a photo of V* Marwood", words)[3:5] == [UNKNOWN, UNKNOWN]
    assert len(encode("word " * 50, words)) == 32


@pytest.mark.parametrize("name", ["recogniser", "detector"])
def test_training_resumes_and_exports(tmp_path, name, monkeypatch):
    monkeypatch.setattr(train_scorers.TASKS[name], "pairs" if name == "recogniser" else "size", 8)
    monkeypatch.setattr(train_scorers.TASKS[name], "examples", 20, raising=False)
    arguments = {"work": tmp_path, "weights": tmp_path / "weights", "persons": 20}
    train_scorers.train(name, minutes=0.02, resume=False, **arguments)
    train_scorers.train(name, minutes=0.03, resume=True, **arguments)
    loader = {"recogniser": scorers.load_recogniser, "detector": scorers.load_detector}[name]
    network = loader(tmp_path / "weights" / name).network
    assert all(value.isfinite().all() for value in network.state_dict().values())
