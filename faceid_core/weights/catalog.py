"""The models that a configuration can name: those that ship, published ones with their files, and hub revisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

# The set of shipped scorers whose figures are published: no setting is chosen with it and no training mask is made.
REPORTING = "miniature"
# The set that prepares photos and their masks, and that may be asked while settings are chosen. The two sets share
# no network and no person.
SELECTION = "miniature-selection"
# Set -> role -> folder below faceid_core/miniature/weights and name in its models.lock.
MINIATURE_SETS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        REPORTING: {
            "detector": "reporting_detector",
            "parser": "reporting_parser",
            "recognizer": "reporting_recognizer",
            "image_text": "reporting_concepts",
        },
        SELECTION: {role: role for role in ("detector", "parser", "recognizer", "image_text")},
    }
)
# Base models by name: revisions as the hub has them since their publication.
BASE_REVISIONS = {
    "sd14": "CompVis/stable-diffusion-v1-4@133a221b8aa7292a167afc5127cb63fb5005638b",
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5@451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    "sd21": "stabilityai/stable-diffusion-2-1@5cae40e6a2745ae2b01ad92ae5043f95f23644d6",
    "sd21-base": "stabilityai/stable-diffusion-2-1-base@5ede9e4bf3e3fd1cb0ef2f7a3fff13ee514fdf06",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0@462165984030d82259a11f4367a4eed129e94a7b",
}
# Version of the code that asks each kind of model. Raise one when the same files would give other values: when crops,
# normalization or preprocessing change. It is part of the model's digest, so everything that depends on it runs again.
VERSIONS: dict[str, int | str] = {
    "recognizer": 1,
    "clip": 1,
    "attributes": 1,
    "safety_checker": 1,
    "detector": "3",
    "grabcut": "2",
    "ellipse": "1",
    "segformer": "1",
}
# Face parsers for photographs; only the last reads files.
PARSERS = ("grabcut", "ellipse", "segformer")

_RELEASE = "https://github.com/serengil/deepface_models/releases/download/v1.0/"
_MIRROR = "https://huggingface.co/serengil/deepface/resolve/main/"
_ZOO = "https://github.com/opencv/opencv_zoo/raw/main/models/"
_DLIB = "https://dlib.net/files/"


@dataclass(frozen=True)
class KnownFile:
    """One file of a model.

    Args:
        name: in the model's folder.
        urls: where it can be downloaded, tried in order; one that ends in .bz2 is unpacked.
        sha256: of the file as used (unpacked), or None: then the first fetch settles it in models.lock.
        bytes: its size, or None where it is not published.
    """

    name: str
    urls: tuple[str, ...] = ()
    sha256: str | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class KnownModel:
    """One model: a folder of that name in a weights folder.

    Args:
        folder: its name there and in models.lock.
        files: those that must be there; empty for a whole pipeline.
        hub: its repository on the Hugging Face hub, for models that come as a whole folder, or None.
        revision: commit of that repository, or None for the newest.
        package: Python package that holds the files, or None.
    """

    folder: str
    files: tuple[KnownFile, ...]
    hub: str | None = None
    revision: str | None = None
    package: str | None = None


def _deepface(model: str, file: KnownFile, package: str | None = None) -> KnownModel:
    return KnownModel(f"deepface-{model}", (file,), package=package)


def _released(name: str) -> KnownFile:
    return KnownFile(name, (_RELEASE + name, _MIRROR + name))


# DeepFace's models by DeepFace's names, as onnx graphs: nothing of them is pickled.
# Buffalo_L is left out: it comes from a drive link and needs a package of its own.
RECOGNIZERS: Mapping[str, KnownModel] = MappingProxyType(
    {
        "Dlib": _deepface(
            "Dlib",
            KnownFile(
                "dlib_face_recognition_resnet_model_v1.dat",
                (f"{_DLIB}dlib_face_recognition_resnet_model_v1.dat.bz2",),
                "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
                22_466_066,
            ),
            package="face_recognition_models",
        ),
        "SFace": _deepface(
            "SFace",
            # Digest and size as the repository's own large-file pointer states them.
            KnownFile(
                "face_recognition_sface_2021dec.onnx",
                (f"{_ZOO}face_recognition_sface/face_recognition_sface_2021dec.onnx",),
                "f6abbfff9575e3041db692c1e29d782e995191888477fd59ebc81202d99fc63b",
                24_227_283,
            ),
        ),
        "ArcFace": _deepface("ArcFace", _released("arcface_weights.onnx")),
        "GhostFaceNet": _deepface("GhostFaceNet", _released("ghostfacenet_v1.onnx")),
        "Facenet": _deepface("Facenet", _released("facenet_weights.onnx")),
        "Facenet512": _deepface("Facenet512", _released("facenet512_weights.onnx")),
        "VGG-Face": _deepface("VGG-Face", _released("vgg_face_weights.onnx")),
        "OpenFace": _deepface("OpenFace", _released("openface_weights.onnx")),
    }
)
ATTRIBUTES: Mapping[str, KnownModel] = MappingProxyType(
    {
        "Age": _deepface("Age", _released("age_model_weights.onnx")),
        "Gender": _deepface("Gender", _released("gender_model_weights.onnx")),
    }
)
DETECTORS: Mapping[str, KnownModel] = MappingProxyType(
    {
        "dlib": _deepface(
            "dlib-landmarks",
            KnownFile(
                "shape_predictor_5_face_landmarks.dat",
                (f"{_DLIB}shape_predictor_5_face_landmarks.dat.bz2",),
                "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
                9_150_489,
            ),
            package="face_recognition_models",
        ),
        "yunet": _deepface(
            "yunet",
            KnownFile(
                "face_detection_yunet_2023mar.onnx",
                (f"{_ZOO}face_detection_yunet/face_detection_yunet_2023mar.onnx",),
                "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
                232_589,
            ),
        ),
        "ssd": KnownModel(
            "deepface-ssd",
            (
                KnownFile(
                    "deploy.prototxt",
                    ("https://github.com/opencv/opencv/raw/3.4.0/samples/dnn/face_detector/deploy.prototxt",),
                ),
                KnownFile(
                    "res10_300x300_ssd_iter_140000.caffemodel",
                    (
                        "https://github.com/opencv/opencv_3rdparty/raw/dnn_samples_face_detector_20170830/"
                        "res10_300x300_ssd_iter_140000.caffemodel",
                    ),
                ),
            ),
        ),
        "centerface": _deepface(
            "centerface",
            KnownFile(
                "centerface.onnx",
                ("https://github.com/Star-Clouds/CenterFace/raw/master/models/onnx/centerface.onnx",),
            ),
        ),
    }
)


def _clip(folder: str, revision: str, weights: KnownFile) -> KnownModel:
    small = ("config.json", "preprocessor_config.json", "vocab.json", "merges.txt")
    files = (weights, *(KnownFile(name) for name in small))
    return KnownModel(folder, files, hub=f"openai/{folder}", revision=revision)


# CLIP by OpenAI's names. Revisions that hold safetensors: the main one of ViT-B/32 has pickled weights only.
CLIPS: Mapping[str, KnownModel] = MappingProxyType(
    {
        "ViT-B/32": _clip(
            "clip-vit-base-patch32",
            "c237dc49a33fc61debc9276459120b7eac67e7ef",
            KnownFile("model.safetensors", bytes=605_157_884),
        ),
        "ViT-L/14": _clip(
            "clip-vit-large-patch14",
            "32bd64288804d66eefd0ccbe215aa642df71cc41",
            KnownFile(
                "model.safetensors",
                sha256="a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
                bytes=1_710_540_580,
            ),
        ),
    }
)


_SAFETY = "https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5/resolve/451f4fe16113bff5a5d2269ed5ad43b0592e9a14/"
# As Stable Diffusion 1.5's repository has it; digest and size as the hub states them.
SAFETY_CHECKERS: Mapping[str, KnownModel] = MappingProxyType(
    {
        "StableDiffusion": KnownModel(
            "stable-diffusion-safety-checker",
            (
                KnownFile(
                    "model.safetensors",
                    (f"{_SAFETY}safety_checker/model.safetensors",),
                    "9d6a233ff6fd5ccb9f76fd99618d73369c52dd3d8222376384d0e601911089e8",
                    1_215_981_830,
                ),
                KnownFile("config.json", (f"{_SAFETY}safety_checker/config.json",)),
                KnownFile(
                    "preprocessor_config.json", (f"{_SAFETY}feature_extractor/preprocessor_config.json",)
                ),
            ),
        )
    }
)


SEGFORMER_FILES = tuple(
    KnownFile(name) for name in ("config.json", "preprocessor_config.json", "model.safetensors")
)


def by_file() -> dict[str, tuple[KnownModel, KnownFile]]:
    """File's name -> its model and entry, of all models that DeepFace reads."""
    return {
        file.name: (model, file)
        for table in (RECOGNIZERS, ATTRIBUTES, DETECTORS)
        for model in table.values()
        for file in model.files
    }
