"""The digest of every model that a configuration can name, written down: a digest stands in stage keys.

A change here computes every result of that model again. Files that do not ship are stood in for by small ones
under their real names; packages' versions are set.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from typing import get_args

import pytest

from faceid_core.config import NightlyConfig
from faceid_core.config.sections import Clip, Metric, Recognizer
from faceid_core.evaluate.metrics import METRICS
from faceid_core.weights.catalog import (
    ATTRIBUTES,
    BASE_REVISIONS,
    CLIPS,
    DETECTORS,
    RECOGNIZERS,
    SAFETY_CHECKERS,
)
from faceid_core.weights.lock import SHIPPED, ModelsLock, write_lock
from faceid_core.weights.resolve import resolve_all
from faceid_core.weights.roles import ROLES

SHIPPED_DIGESTS = {
    "detector": "3079f7fef9e0730fe93f7bc8524eea3b48717ec7448a67e46f99b43c56090936",
    "image_text": "e4f61fe81cc8dd146b5ea3f482a62de4a7385ed44d43dcd36d849e7988b3d733",
    "parser": "8dd7b3e65f20d34e5f19ecbc03dbb7db9fcd4c873cfb1af8ebb3211dda0005cb",
    "pipeline": "35a9c43a7b72769084a3466ceab6c5174097db83d357bc379e4b725bb7f2692d",
    "recognizer": "f1f2b17a5532e5d34519e44ecbedc767a62eb1a9a6827293b60a2270dd20543b",
    "reporting_concepts": "686e4c958778bfade4684cc60968cca5ae8f88aa5d292c1f14793cfcabefbf4f",
    "reporting_detector": "242e6cf1142b58c2135000f559d7918a62aa627093e205ac9cbb6666bb0b7c13",
    "reporting_parser": "3d85b12de8876b5b04663b2feb80fbb994ae5e5d3e6a7078ef0a7ed37d6eb1e5",
    "reporting_recognizer": "b1b8ae85811c59a50195e81493ba5658fd7c747e6164a81dd56ac5e3f8394c49",
}
FACE_DETECTORS = {
    "opencv": "f614d56a12d37e968e64b39fd90db0b37d87d139ff6cc9bd98ef402c8b7a4786",
    "dlib": "4a6d374279b2f09d19afb78364a102181a743b60a74244a1b59a4ca1df07b6c6",
    "yunet": "bc1a5adbbe1a136939f810fe6f68b53b7d37c2c951c0e74ddfb5508c18ad335e",
    "ssd": "414777e439a0dc25398b09a1bf93eada12cb76d4eb584ddf40a3e52ee9e3b96a",
    "centerface": "c4073d09ea6e8ac59a6294caec6246efa9b99f261bcc8abd31e38da7d66e07c6",
    "retinaface": "91798d3c1bdd8ac3874d75c59899d3d67a0906cbaf885da1cf809b72b2c4c8d0",
    "mtcnn": "7279c011d6eb7f43239452968a544341680318f760221c397a5277684caf78de",
    "fastmtcnn": "0dd77f1dc22faff430af219718e2e733ec5ccd9d9496ca2a4184a1fd7fd087ca",
    "mediapipe": "d12d4b2fd9c2be51555cd2123272117d9a0afba7f3eecad7057522cb1fced1c0",
}
FACE_PARSERS = {
    "grabcut": "0c19a59409eabc0786789f587c73a8be2be2e2c6fbbd16c33112ef2115f86138",
    "ellipse": "d828f942e033c2204c705b9bf8479e5d2e5b1b6d000b80333c05a237cd547ad4",
    "segformer org/face-parsing": "9bb91e04216d96cc915184087083413756853b13bb993687affcf1c8231ab8c7",
    f"segformer org/face-parsing@{'a' * 40}": "9bb91e04216d96cc915184087083413756853b13bb993687affcf1c8231ab8c7",
    "segformer org--face-parsing": "9bb91e04216d96cc915184087083413756853b13bb993687affcf1c8231ab8c7",
}
SCORERS = {
    "Dlib": "b19c9598e1a94c230338dd0da4bb570ae28052d411a4631fc5814077d44a79aa",
    "SFace": "10727ea84de57820dba20c3eb486f614600fd1aeb98371cace3680bb32f51720",
    "ArcFace": "2ad5a054de5ebf5de883a5d12ecde4b05f2e0f264bb291b947c40a4a1903c635",
    "GhostFaceNet": "700eda6ceecda36ec56bf122657ef1f076f27b1e1774796d5a10439981b7e435",
    "Facenet": "5a69b0aa2e6a9d25130d5035155a93077f304edbd54f68fe74107feda58d7413",
    "Facenet512": "52fe14fa00999fc25e08598e8adfeaa9e16d4f778355fce1dccb06e216b255fd",
    "VGG-Face": "31e25cb5d226fc734f4b6f084d5b12739aa880f675167a626e0d8012d85ea41a",
    "OpenFace": "56701a94b5551cdebe3c13b70edc287468bdcc7828fac4822c98b4637419d381",
    "ViT-B/32": "07ab71cb3503ccc3b71911e7564f709839e70d7e574b08f8124d199b4693803d",
    "ViT-L/14": "444bb36402ef45530061c2bdb3c0fe7f6b18a70507af9c58271182156f374af0",
    "attributes": "a73141b2a687a3a615ffbacba514a3ecd6853003a5cf59cb5f89ecd67bce702e",
    "safety_checker": "96d00a1cb7678e8268f7397ac37feae0205093de8f5bd95fa2e62a53951a63dd",
}
BASES = {
    "miniature": "35a9c43a7b72769084a3466ceab6c5174097db83d357bc379e4b725bb7f2692d",
    "own": "9eeb5c66dc0f7c17a4c44ccb59c01583a38c9eaadaf8d8e9a235c2e5e93f43fd",
    f"hub:someone/model@{'b' * 40}": "14a92e7a161b62ddb9c075e405252b0d1be9bd0b83bfd390209d6a3fbb0a0040",
    "sd14": "14a92e7a161b62ddb9c075e405252b0d1be9bd0b83bfd390209d6a3fbb0a0040",
    "sd15": "14a92e7a161b62ddb9c075e405252b0d1be9bd0b83bfd390209d6a3fbb0a0040",
    "sd21": "14a92e7a161b62ddb9c075e405252b0d1be9bd0b83bfd390209d6a3fbb0a0040",
    "sd21-base": "14a92e7a161b62ddb9c075e405252b0d1be9bd0b83bfd390209d6a3fbb0a0040",
    "sdxl": "14a92e7a161b62ddb9c075e405252b0d1be9bd0b83bfd390209d6a3fbb0a0040",
    "own/v1-5-pruned.safetensors own": "544bd827020f53d1c57aa8513a276a2cdc0576402e8bc4e68b6080976aba64b9",
    "own/v1-5-pruned.safetensors sd15": "544bd827020f53d1c57aa8513a276a2cdc0576402e8bc4e68b6080976aba64b9",
}
MINIATURE = {
    "detector": "242e6cf1142b58c2135000f559d7918a62aa627093e205ac9cbb6666bb0b7c13",
    "parser": "3d85b12de8876b5b04663b2feb80fbb994ae5e5d3e6a7078ef0a7ed37d6eb1e5",
    "recognizer": "b1b8ae85811c59a50195e81493ba5658fd7c747e6164a81dd56ac5e3f8394c49",
    "image_text": "686e4c958778bfade4684cc60968cca5ae8f88aa5d292c1f14793cfcabefbf4f",
    "face_detector": "3079f7fef9e0730fe93f7bc8524eea3b48717ec7448a67e46f99b43c56090936",
    "face_parser": "8dd7b3e65f20d34e5f19ecbc03dbb7db9fcd4c873cfb1af8ebb3211dda0005cb",
    "base": "35a9c43a7b72769084a3466ceab6c5174097db83d357bc379e4b725bb7f2692d",
}
NAMES = {
    "recognizer": "deepface-ArcFace@1",
    "second_recognizer": "deepface-SFace@1",
    "image_text": "clip-ViT-L/14@1",
    "second_image_text": "clip-ViT-B/32@1",
    "embedder": "clip-ViT-L/14@1",
    "attributes": "deepface-Age+Gender@1",
    "safety_checker": "safety-StableDiffusion@1",
    "detector": "deepface-dlib@3",
    "parser": "grabcut",
}


def small(folder, name):
    """A stand-in for a file that does not ship; its content follows from its name."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(f"stand-in for {name}\n".encode() * 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of weights in which every model of the catalog lies, locked."""
    folder = tmp_path_factory.mktemp("weights")
    models = [model for table in (RECOGNIZERS, ATTRIBUTES, DETECTORS, CLIPS, SAFETY_CHECKERS) for model in table.values()]
    for model in models:
        for file in model.files:
            small(folder / model.folder, file.name)
    small(folder / "deepface-retinaface", "retinaface.pth")
    for revision in ("", "--" + "a" * 40):
        for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
            small(folder / f"org--face-parsing{revision}", name)
    write_lock(folder / "models.lock", {model.folder: folder / model.folder for model in models})
    pipeline = SHIPPED.parent / "pipeline"
    known = (pinned.replace("/", "--").replace("@", "--") for pinned in BASE_REVISIONS.values())
    for place in ("own", f"someone--model--{'b' * 40}", *known):
        shutil.copytree(pipeline, folder / place, ignore=shutil.ignore_patterns("*.safetensors"))
        for part in ("unet", "vae", "text_encoder"):
            stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
            small(folder / place / part, f"{stem}.safetensors")
            small(folder / place / part, f"{stem}.fp16.safetensors")
        small(folder / place, "v1-5-pruned.safetensors")
    return folder


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path, folder):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.2.3")
    monkeypatch.setattr(
        importlib.metadata,
        "packages_distributions",
        lambda: {name: [name] for name in ("dlib", "retinaface", "mtcnn", "facenet_pytorch", "mediapipe")},
    )


def found(**sections):
    return resolve_all(NightlyConfig.model_validate({"weights": ".", **sections}))


def scored(**score):
    metrics = ["identity", "image_text", "diversity", "leakage", "attributes", "detection", "flagged"]
    if len(score.get("recognizers", ())) > 1:
        metrics += ["identity_second"]
    if len(score.get("clips", ())) > 1:
        metrics += ["image_text_second"]
    faces = {"backend": "deepface"}
    return found(faces=faces, score={"scorers": "photographs", "metrics": metrics, **score})


def test_the_shipped_models():
    lock = ModelsLock.load()
    assert {name: lock.digest(name) for name in lock.models} == SHIPPED_DIGESTS
    for name in lock.models:
        lock.verify(name, SHIPPED.parent / name)


def test_the_miniature_configurations():
    assert dict(found().digests) == MINIATURE
    selection = found(score={"scorers": "miniature-selection"}).digests
    assert {role: selection[role] for role in ("detector", "parser", "recognizer", "image_text")} == {
        role: SHIPPED_DIGESTS[role] for role in ("detector", "parser", "recognizer", "image_text")
    }
    assert found().titles == {}


@pytest.mark.parametrize("detector", FACE_DETECTORS)
def test_the_face_detectors(detector):
    digests = found(faces={"backend": "deepface", "detector": detector}).digests
    assert digests["face_detector"] == FACE_DETECTORS[detector]


@pytest.mark.parametrize("parser", FACE_PARSERS)
def test_the_face_parsers(parser):
    name, _, source = parser.partition(" ")
    digests = found(faces={"backend": "deepface", "parser": name, "parser_source": source}).digests
    assert digests["face_parser"] == FACE_PARSERS[parser]


def test_the_scorers_of_photographs():
    digests = {}
    for name in get_args(Recognizer):
        other = "Dlib" if name != "Dlib" else "SFace"
        digests[name] = scored(recognizers=[name, other]).digests["recognizer"]
        assert scored(recognizers=[other, name]).digests["second_recognizer"] == digests[name]
    for name in get_args(Clip):
        first = scored(clips=[name, *(other for other in get_args(Clip) if other != name)])
        digests[name] = first.digests["image_text"]
        assert first.digests["embedder"] == digests[name] != first.digests["second_image_text"]
    digests |= {role: first.digests[role] for role in ("attributes", "safety_checker")}
    assert digests == SCORERS
    score = {"scorers": "photographs-selection", "metrics": ["identity"]}
    selection = found(faces={"backend": "deepface"}, score=score)
    assert selection.digests["recognizer"] == SCORERS[NightlyConfig().score.selection_recognizer]
    both = scored(recognizers=["ArcFace", "SFace"], clips=["ViT-L/14", "ViT-B/32"])
    assert both.titles == NAMES


def test_every_metric_says_which_models_it_asks():
    assert set(ROLES) == set(METRICS) == set(get_args(Metric))


@pytest.mark.parametrize("source", BASES)
def test_the_base_models(source):
    name, _, layout = source.partition(" ")
    assert found(base_model={"source": name, "layout": layout}).digests["base"] == BASES[source]
