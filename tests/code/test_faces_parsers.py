"""Parsers for photographs: a SegFormer from a folder in its real layout, and GrabCut by landmarks and color."""

import json
import shutil

import numpy as np
import pytest
from skimage import data

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError, MissingWeights
from faceid_core.faces.detect import detect_face
from faceid_core.faces.ellipse import EllipseParser
from faceid_core.faces.grabcut import GrabCutParser
from faceid_core.faces.mask import make_mask
from faceid_core.faces.parse import parse_face
from faceid_core.geometry.classes import CLASSES, INDEX, REGIONS
from faceid_core.geometry.protocols import Face
from faceid_core.miniature import people, renderer
from faceid_core.weights.place import WeightsPlace
from faceid_core.weights.resolve import resolve_all
from tests.helpers.face_models import load_parser, parser_digest

# Labels of jonathandinu/face-parsing, in its config.json's order.
LABELS = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip",
    "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip
OURS = (
    "background", "skin", "skin", "accessory", "eyes", "eyes", "brows", "brows", "skin", "skin", "mouth", "mouth",
    "mouth", "hair", "accessory", "accessory", "accessory", "neck", "clothes",
)  # fmt: skip
PREPROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "image_processor_type": "SegformerImageProcessor",
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": 64, "width": 64},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A SegFormer of few numbers in the layout of the real one."""
    import torch
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=[8, 16, 16, 16],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=16,
        num_attention_heads=[1, 1, 2, 2],
        id2label=dict(enumerate(LABELS)),
        label2id={name: index for index, name in enumerate(LABELS)},
    )
    place = tmp_path_factory.mktemp("face-parsing")
    SegformerForSemanticSegmentation(config).save_pretrained(place)
    (place / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return place


def test_a_segformer_labels_crops_by_our_classes(folder):
    import torch
    from transformers import SegformerForSemanticSegmentation, SegformerImageProcessorPil

    parser = load_parser("segformer", str(folder))
    crops = [data.astronaut()[:256, 100:356], data.astronaut()[200:456, 200:456]]
    labels = parser.parse(crops)
    assert labels.shape == (2, 256, 256) and labels.dtype == np.uint8 and not parser.approximate
    # The library's own preprocessing and answer, mapped by hand.
    processor = SegformerImageProcessorPil.from_pretrained(folder)
    with torch.inference_mode():
        logits = SegformerForSemanticSegmentation.from_pretrained(folder)(
            **processor(images=crops, return_tensors="pt")
        ).logits
    theirs = torch.nn.functional.interpolate(logits, (256, 256), mode="bilinear").argmax(1).numpy()
    wanted = np.array([INDEX[name] for name in OURS])[theirs]
    assert len(np.unique(theirs)) > 2 and (labels == wanted).mean() > 0.97
    assert (parse_face(crops[0], parser) == labels[0]).mean() > 0.999


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_file_is_named_with_its_folder(folder, tmp_path, name):
    for file in folder.iterdir():
        if file.name != name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    for ask in (load_parser, parser_digest):
        with pytest.raises(MissingWeights, match=f"{name} not found in {tmp_path}.*340 MB"):
            ask("segformer", str(tmp_path))


def test_a_hub_id_that_is_not_staged_is_not_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for source in ("somebody/face-parsing", "/no/such/folder"):
        with pytest.raises(
            MissingWeights, match=r"neither a folder nor a hub id in the local cache.*model\.safe"
        ):
            load_parser("segformer", source)


def test_a_staged_hub_id_is_its_snapshot(monkeypatch, tmp_path, folder):
    revision = "a" * 40
    repository = tmp_path / "models--somebody--face-parsing"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert parser_digest("segformer", "somebody/face-parsing") == parser_digest("segformer", str(folder))

    weights = tmp_path / "weights"
    shutil.copytree(folder, weights / "somebody--face-parsing")
    with (weights / "somebody--face-parsing" / "config.json").open("a") as stream:
        stream.write(" ")
    first = parser_digest("segformer", "somebody/face-parsing", WeightsPlace(str(weights)))
    assert first != parser_digest("segformer", str(folder)), "the folder of weights is looked in first"
    assert load_parser(
        "segformer", "somebody/face-parsing", place=WeightsPlace(str(weights))
    ).name.startswith("segformer")


def changed(folder, tmp_path, **values):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | values
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


def test_labels_that_mean_nothing_here_are_an_error(folder, tmp_path):
    source = changed(
        folder, tmp_path, id2label={str(i): "tree" if i == 7 else n for i, n in enumerate(LABELS)}
    )
    with pytest.raises(ConfigurationError, match="mean nothing here: tree"):
        load_parser("segformer", source)
    with pytest.raises(ConfigurationError, match="'bert'"):
        load_parser("segformer", changed(folder, tmp_path, model_type="bert"))


def test_a_file_without_some_of_its_tensors_is_not_filled_up_with_chance(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    source = changed(folder, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[sorted(tensors)[0]]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MissingWeights, match="lacks 1 tensors"):
        load_parser("segformer", source)
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0notjson!")
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        load_parser("segformer", source)


def test_the_digest_is_that_of_every_file_that_is_loaded(folder, tmp_path):
    digests = {parser_digest("segformer", str(folder))}
    source = changed(folder, tmp_path, decoder_dropout=0.2)
    digests.add(parser_digest("segformer", source))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR | {"do_resize": False}))
    digests.add(parser_digest("segformer", source))
    assert len(digests) == 3


def test_the_configuration_chooses_the_parser_and_asks_for_its_source():
    def digest(**faces):
        config = NightlyConfig(faces={"backend": "deepface", **faces})
        return resolve_all(config).digests["face_parser"]

    assert digest() == parser_digest("grabcut") != digest(parser="ellipse") == parser_digest("ellipse")
    with pytest.raises(ValueError, match="parser_source"):
        NightlyConfig(faces={"backend": "deepface", "parser": "segformer"})
    with pytest.raises(ConfigurationError, match="nose"):
        load_parser("nose")


def shares(parser, region):
    """Intersection over union with the renderer's true labels, of 12 people."""
    found = []
    for seed in people.HELD_OUT_SEEDS[:12]:
        shot = renderer.render(people.person_from_seed(seed), renderer.Shot(), size=128)
        labels = parse_face(shot.image, parser, face=Face(shot.boxes[0], *shot.eyes[0], 1.0))
        mask, truth = (make_mask(each, region=region)[0] > 0 for each in (labels, shot.labels))
        found.append((mask & truth).sum() / (mask | truth).sum())
    return float(np.mean(found))


@pytest.mark.parametrize("region", REGIONS)
def test_grabcut_is_nearer_to_the_truth_than_ellipses(region):
    assert shares(GrabCutParser(), region) > shares(EllipseParser(), region) + 0.03


def test_grabcut_finds_the_astronauts_hair_and_leaves_the_wall():
    from faceid_core.faces.backends import load_faces
    from faceid_core.geometry.align import FRAMINGS

    detector, parser = load_faces("deepface")
    found = detect_face(data.astronaut(), detector, crop_pixels=256, eye_targets=FRAMINGS["portrait"])
    face = found.face_in_crop()
    labels = parse_face(found.crop, parser, face=face)
    assert (labels == parse_face(found.crop, parser, face=face)).all()
    unit = face.right_eye[0] - face.left_eye[0]
    middle = np.array([(face.left_eye[0] + face.right_eye[0]) / 2, face.left_eye[1]])

    def at(x, y):
        column, row = np.rint(middle + np.array([x, y]) * unit).astype(int)
        return CLASSES[labels[row, column]]

    assert at(0, -1.2) == "hair" and at(-1.25, 0.2) == "hair" and at(0, 0.5) == "skin"
    assert at(-2.3, -1.5) == at(2.3, -1.5) == "background" and at(0, 2.4) == "clothes"
    assert at(0, 1.1) == "mouth" and at(-0.5, 0) == at(0.5, 0) == "eyes"


def test_grabcut_keeps_its_word_on_pictures_that_have_nothing_to_part():
    for gray in (0, 127, 255):
        labels = GrabCutParser().parse([np.full((64, 64, 3), gray, np.uint8)])
        assert labels.shape == (1, 64, 64) and labels.dtype == np.uint8
        mask, _ = make_mask(labels[0])
        assert mask[40, 32] == 1
