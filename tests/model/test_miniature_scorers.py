"""Both sets of the miniature's scorers on people and shots that no training saw, and the code that trains them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from faceid_core.errors import MissingWeights
from faceid_core.geometry.classes import CLASSES
from faceid_core.geometry.protocols import Face
from faceid_core.miniature import people, reporting_networks, reporting_scorers, scorers
from faceid_core.miniature.concepts import ATTRIBUTES
from faceid_core.miniature.renderer import LABELS, Shot, render, render_group, render_scene, sample_shot
from faceid_core.miniature.scorer_geometry import decode, letterbox
from faceid_core.miniature.scorer_words import UNKNOWN, encode, vocabulary
from faceid_core.miniature_training import (
    measure_scorers,
    reporting_tasks,
    scorer_spatial,
    scorer_tasks,
    train_scorers,
)
from faceid_core.miniature_training.measure_recognition import (
    equal_error_rate,
    error_by_kind,
    kinds_of_pairs,
    recognition,
)
from faceid_core.miniature_training.scorer_data import (
    CLOTHES_ANSWERS,
    HELD_ANSWERS,
    SCENE_ANSWERS,
    augment_appearance,
    render_people,
)
from faceid_core.miniature_training.scorer_spatial import grid_targets
from faceid_core.miniature_training.scorer_tasks import FACTS, facts_of_caption, facts_of_shot


@pytest.fixture(scope="module")
def renders():
    """144 pictures of 24 held-out people other than those of the published figures."""
    return render_people(people.HELD_OUT_SEEDS[900:924], 6, seed=123)


@pytest.fixture(scope="module", params=["selection", "reporting"])
def chosen(request):
    """One of the two sets."""
    return measure_scorers.SETS[request.param]


@pytest.fixture(scope="module")
def detector(chosen):
    return chosen.load_detector()


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


def test_parser_masks_faces(renders, chosen):
    """On aligned crops, which is all that masks and metrics ask; the reporting parser is below it on whole pictures."""
    labels = chosen.load_parser().parse(list(renders.images[:2]))
    assert labels.shape == renders.labels[:2].shape and labels.dtype == np.uint8
    assert measure_scorers.measure_parser(renders, renders.images, chosen)["face overlap (aligned)"] >= 0.85


def test_parser_keeps_the_size_of_its_crops(renders, chosen):
    large = [cv2.resize(image, (96, 96)) for image in renders.images[:3]]
    assert chosen.load_parser().parse(large).shape == (3, 96, 96)


@pytest.mark.parametrize("rough", [False, True])
def test_recognizer_tells_people_apart(renders, chosen, rough):
    """By the eyes that its own set's detector finds."""
    images = augment_appearance(renders.images, np.random.default_rng(6)) if rough else renders.images
    found = chosen.load_detector().detect(list(images))
    seen = np.array([row for row, faces in enumerate(found) if faces])
    vectors = chosen.load_recognizer().embed_faces(images[seen], [found[row][0] for row in seen])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    owners = renders.seeds[seen]
    figures = recognition(vectors, owners, gallery=24)
    assert figures["equal_error_rate"] <= 0.015
    assert figures["rank1"] >= 0.97
    # Few pairs of each kind in this small sample: the page's figures are of 200 people.
    assert max(error_by_kind(vectors, owners, kinds_of_pairs(renders, seen)).values()) <= 0.03


def test_a_vector_does_not_depend_on_its_companions(renders, chosen):
    recognizer = chosen.load_recognizer()
    together = recognizer.embed(list(renders.images[:40]))
    alone = np.concatenate([recognizer.embed([image]) for image in renders.images[:3]])
    assert (together[:3] == alone).all()


def test_recognizer_needs_eyes(renders):
    eyeless = Face((10, 10, 50, 50), None, None, 1.0)
    with pytest.raises(ValueError, match="aligned by its two eyes"):
        scorers.load_recognizer().embed_faces([renders.images[0]], [eyeless])


def test_concepts_are_named(renders, chosen):
    shown = chosen.load_image_text().concepts(list(renders.images))
    for told, answers, true in (
        ([c.scene for c in shown], SCENE_ANSWERS, renders.scene),
        ([c.held for c in shown], HELD_ANSWERS, renders.held),
    ):
        assert np.mean([name == answers[at] for name, at in zip(told, true, strict=True)]) >= 0.99
    clear = np.flatnonzero(renders.clothes_seen >= 0)
    worn = [shown[row].clothes == CLOTHES_ANSWERS[renders.clothes_seen[row]] for row in clear]
    assert np.mean(worn) >= 0.99
    told = np.array([[name in concepts.attributes for name in ATTRIBUTES] for concepts in shown])
    assert ((told == renders.attributes).mean(0) >= 0.98).all()


def test_confusions_are_the_wrong_answers(renders, chosen):
    report = measure_scorers.measure_image_text(renders, renders.images[::-1], chosen)
    halves = renders.framing == 1
    wrong = sum(
        row["times"] for row in report["confusions"] if (row["concept"], row["framing"]) == ("scene", "half")
    )
    assert wrong > 0 and report["scene (half)"] == pytest.approx(1 - wrong / halves.sum())


def test_true_texts_score_higher_than_false_ones(renders, chosen):
    figures = measure_scorers.measure_texts(renders, renders.images, chosen)
    assert figures["true text above false one"] >= 0.98
    assert figures["shift by an unknown name, mean"] < 0.1


def test_one_text_for_each_picture(renders, chosen):
    with pytest.raises(ValueError, match="2 pictures, 1 texts"):
        chosen.load_image_text().score(list(renders.images[:2]), ["a photo of a person"])


def test_a_text_that_names_no_concept_is_true():
    scorer = reporting_scorers.load_image_text()
    assert scorer.score([np.zeros((64, 64, 3), np.uint8)], ["a picture of quill marwood"]) == [1.0]
    assert reporting_scorers.concepts_in_text("Ida in a white coat at night, holding a glass of wine") == [
        "night",
        "glass of wine",
        "white coat",
    ]


def test_nothing_in_nothing_out(detector, chosen):
    assert detector.detect([]) == []
    assert chosen.load_parser().parse([]).shape[0] == 0
    assert chosen.load_recognizer().embed([]).shape == (0, 128)
    assert chosen.load_image_text().concepts([]) == []
    assert chosen.load_image_text().score([], []).shape == (0,)


def test_missing_weights_name_the_command(tmp_path):
    with pytest.raises(MissingWeights, match="train_scorers recognizer"):
        scorers.load_recognizer(tmp_path)
    with pytest.raises(MissingWeights, match="train_scorers reporting_recognizer"):
        reporting_scorers.load_recognizer(tmp_path)


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
    assert equal_error_rate(same, different)[0] == pytest.approx(0.25)
    assert equal_error_rate(np.array([0.9, 0.8]), np.array([0.1, 0.2]))[0] == pytest.approx(0.0)


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


def test_prototypes_leave_the_picture_itself_out():
    vectors = torch.nn.functional.normalize(
        torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    cosines = reporting_tasks.prototype_cosines(vectors)
    assert cosines.shape == (4, 3, 4)
    own = torch.nn.functional.cosine_similarity(vectors[2, 0], vectors[2, 1] + vectors[2, 2], dim=0)
    other = torch.nn.functional.cosine_similarity(vectors[2, 0], vectors[1].sum(0), dim=0)
    assert torch.allclose(cosines[2, 0, [2, 1]], torch.stack([own, other]), atol=1e-6)


def test_a_patch_comes_back_where_it_was():
    picture = torch.arange(2 * 64 * 64 * 3).reshape(2, 64, 64, 3)
    patches = reporting_networks.unfold(picture, 4)
    assert (patches[1, 2, 5].reshape(4, 4, 3) == picture[1, 8:12, 20:24]).all()
    assert (reporting_networks.fold(patches, 4) == picture).all()


@pytest.mark.parametrize("name", ["recognizer", "detector", "reporting_recognizer", "reporting_detector"])
def test_training_resumes_and_exports(tmp_path, name, monkeypatch):
    monkeypatch.setattr(scorer_tasks.RecognizerTask, "pairs", 8)
    monkeypatch.setattr(reporting_tasks.PrototypeTask, "persons", 8)
    monkeypatch.setattr(scorer_spatial.DetectorTask, "size", 8)
    monkeypatch.setattr(scorer_spatial.DetectorTask, "examples", 20)
    arguments = {"work": tmp_path, "weights": tmp_path / "weights", "persons": 20}
    train_scorers.train(name, minutes=0.02, resume=False, **arguments)
    train_scorers.train(name, minutes=0.03, resume=True, **arguments)
    chosen = reporting_scorers if name.startswith("reporting_") else scorers
    load = getattr(chosen, "load_" + name.removeprefix("reporting_"))
    network = load(tmp_path / "weights" / name).network
    assert all(value.isfinite().all() for value in network.state_dict().values())
