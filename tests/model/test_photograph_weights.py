"""Weights for photographs: where they lie, how they are named when they are not there, and which sets they make."""

from __future__ import annotations

import importlib.util
import os

import numpy as np
import pytest
from skimage import data

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError, MissingWeights
from faceid_core.evaluate.clip import load_clip
from faceid_core.evaluate.recognizers import load_recognizer
from faceid_core.weights.catalog import ATTRIBUTES, CLIPS, RECOGNIZERS
from faceid_core.weights.lock import LOCK, DamagedWeights, write_lock
from faceid_core.weights.place import NOWHERE, WeightsPlace
from faceid_core.weights.required import BASE, DETECTOR, PARSER, published, required
from faceid_core.weights.resolve import resolve
from tests.helpers.tiny_clip import write_tiny_clip
from tests.helpers.tiny_onnx import write_mean_network


def found(model, place):
    return resolve(published(model, place))


@pytest.fixture(autouse=True)
def no_weights_of_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path / "home"))


def test_weights_that_are_not_there_are_named_with_size_and_place(tmp_path):
    with pytest.raises(MissingWeights) as caught:
        found(RECOGNIZERS["SFace"], WeightsPlace(str(tmp_path)))
    text = str(caught.value)
    assert "face_recognition_sface_2021dec.onnx (24,227,283 bytes)" in text and "faceid models fetch" in text
    assert str(tmp_path / "deepface-SFace") in text
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(
        MissingWeights, match=r"model\.safetensors \(1,710,540,580 bytes\) in .*clip-vit-large-patch14"
    ):
        found(CLIPS["ViT-L/14"], WeightsPlace(str(tmp_path)))
    with pytest.raises(MissingWeights, match="set `weights`"):
        found(CLIPS["ViT-B/32"], NOWHERE)
    with pytest.raises(ConfigurationError, match="unknown; use one of: Dlib"):
        load_recognizer("Buffalo_L")


def test_the_catalog_names_what_deepface_would_download():
    modules = {
        name: f"deepface.models.facial_recognition.onnx.{name.replace('-', '').replace('512', '')}"
        for name in RECOGNIZERS
    }
    modules |= {name: f"deepface.models.demography.onnx.{name}" for name in ATTRIBUTES}
    modules["Dlib"] = "deepface.models.facial_recognition.dlib.Dlib"
    for name, model in (RECOGNIZERS | ATTRIBUTES).items():
        module = importlib.import_module(modules[name])
        known = [value for key, value in vars(module).items() if key.isupper() and "WEIGHT" in key]
        urls = {url for value in known for url in ([value] if isinstance(value, str) else value)}
        assert set(model.files[0].urls) <= urls, name
        assert model.files[0].urls[0].removesuffix(".bz2").endswith(model.files[0].name)


def test_a_set_is_keyed_by_its_files_and_only_by_those_that_it_asks(tmp_path):
    write_tiny_clip(tmp_path / CLIPS["ViT-B/32"].folder)
    write_mean_network(tmp_path / "arcface_weights.onnx", axes=(1, 2), outputs=512)
    score = {
        "scorers": "photographs",
        "recognizers": ["ArcFace", "SFace"],
        "metrics": ["identity", "image_text"],
    }

    def scorers(**changes):
        config = NightlyConfig(
            weights=str(tmp_path), faces={"backend": "deepface"}, score={**score, **changes}
        )
        return {ref.role: ref for ref in required(config) if ref.role not in (BASE, DETECTOR, PARSER)}

    def digests():
        return {role: resolve(ref).digest for role, ref in scorers().items()}

    asked = digests()
    assert set(asked) == {"recognizer", "image_text"}
    second = scorers(metrics=["identity_second"])["second_recognizer"]
    with pytest.raises(MissingWeights, match="sface"):
        resolve(second)
    assert second.title == "deepface-SFace@1"
    # A lock beside the files says the same without reading them.
    folder = tmp_path / CLIPS["ViT-B/32"].folder
    write_lock(tmp_path / LOCK, {folder.name: folder})
    assert digests() == asked
    write_mean_network(tmp_path / "arcface_weights.onnx", axes=(1, 2), outputs=512, seed=1)
    again = digests()
    assert again["recognizer"] != asked["recognizer"] and again["image_text"] == asked["image_text"]


def test_a_published_file_is_not_replaced_by_another(tmp_path):
    write_mean_network(tmp_path / RECOGNIZERS["SFace"].files[0].name, axes=(2, 3), outputs=128)
    with pytest.raises(DamagedWeights, match=r"published file has f6abbfff9575"):
        found(RECOGNIZERS["SFace"], WeightsPlace(str(tmp_path)))


def test_weights_are_staged_from_a_bucket(s3_server, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    clip = CLIPS["ViT-B/32"]
    folder = write_tiny_clip(tmp_path / clip.folder)
    write_lock(tmp_path / LOCK, {clip.folder: folder})
    bucket = s3_server.new_bucket()
    for file in [tmp_path / LOCK, *folder.iterdir()]:
        s3_server.client.upload_file(str(file), bucket, f"weights/{file.relative_to(tmp_path)}")
    place = WeightsPlace(f"s3://{bucket}/weights")
    digest = found(clip, place).digest
    assert digest == found(clip, WeightsPlace(str(tmp_path))).digest
    staged = resolve(published(clip, place), planned=digest).paths
    assert {path.name for path in staged} == {path.name for path in folder.iterdir()}
    assert load_clip("ViT-B/32", staged[0].parent).score([data.coffee()], ["a hat"]).shape == (1,)
    # Staged once; a damaged copy is copied again; a damaged original is refused.
    before = {path: path.stat().st_mtime_ns for path in staged}
    next(path for path in staged if path.name == "config.json").write_text("{}")
    resolve(published(clip, place), planned=digest)
    assert {path.name for path, time in before.items() if path.stat().st_mtime_ns != time} == {"config.json"}
    s3_server.client.put_object(Bucket=bucket, Key=f"weights/{clip.folder}/config.json", Body=b"{}")
    next(path for path in staged if path.name == "config.json").unlink()
    with pytest.raises(DamagedWeights, match=r"config\.json"):
        resolve(published(clip, place), planned=digest)
    with pytest.raises(MissingWeights, match="faceid models fetch --to s3://"):
        found(RECOGNIZERS["SFace"], place)
    with pytest.raises(MissingWeights, match="faceid models fetch --to"):
        found(clip, WeightsPlace(f"s3://{bucket}/elsewhere"))


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ({"metrics": ["diversity"]}, "need scorers: photographs"),
        ({"scorers": "photographs", "metrics": ["identity_second"]}, "second name in recognizers"),
        ({"scorers": "photographs", "recognizers": ["Dlib", "Dlib"]}, "names Dlib twice"),
        (
            {"scorers": "photographs-selection", "selection_recognizer": "Dlib"},
            "both choose settings and report",
        ),
        (
            {"scorers": "photographs-selection", "selection_clip": "ViT-B/32"},
            "both choose settings and report",
        ),
        (
            {
                "scorers": "photographs-selection",
                "clips": ["ViT-B/32", "ViT-L/14"],
                "metrics": ["image_text"],
            },
            "both choose settings and report",
        ),
    ],
)
def test_sets_that_would_mix_selection_and_report_are_refused(score, message):
    with pytest.raises(ValueError, match=message):
        NightlyConfig(score=score)


def test_what_other_sets_do_not_read_is_in_no_digest():
    usual = NightlyConfig()
    assert usual.digest() == NightlyConfig(score={"recognizers": ["ArcFace"]}, weights="/models").digest()
    photographs = NightlyConfig(score={"scorers": "photographs"})
    assert photographs.digest() == NightlyConfig(score={"scorers": "photographs"}, weights="/models").digest()
    assert (
        photographs.digest()
        != NightlyConfig(score={"scorers": "photographs", "recognizers": ["SFace"]}).digest()
    )


def test_a_worker_refuses_downloads(monkeypatch):
    from huggingface_hub import constants

    from faceid_core.weights.offline import refuse_downloads

    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    refuse_downloads()
    assert os.environ["HF_HUB_OFFLINE"] == "1" and constants.is_offline_mode()
    from deepface.commons import weight_utils

    from faceid_core.weights.deepface_files import prepare_deepface

    prepare_deepface()
    with pytest.raises(MissingWeights, match=r"vgg_face_weights\.onnx"):
        weight_utils.download_weights_if_necessary("vgg_face_weights.onnx", "https://example.invalid/x")


def test_deepface_reads_graphs_whatever_it_chose_before(tmp_path):
    from deepface.commons import backend_utils
    from deepface.modules import modeling

    backend_utils._backend_engine = "pytorch"  # as it is after a detector was built by DeepFace alone
    modeling.get_model_class(task="face_detector", model_name="opencv")
    write_mean_network(tmp_path / "arcface_weights.onnx", axes=(1, 2), outputs=512)
    recognizer = load_recognizer("ArcFace", [tmp_path / "arcface_weights.onnx"])
    assert recognizer.embed([np.zeros((112, 112, 3), np.uint8) + 9]).shape == (1, 512)
