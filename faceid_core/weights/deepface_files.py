"""Finds the files that DeepFace's models read, hands them to it, and keeps it from downloading any."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faceid_core.errors import ConfigurationError, MissingWeights
from faceid_core.private import user_folder

from .catalog import DETECTORS, KnownFile, KnownModel, by_file

# Of DeepFace's three engines the one whose weights are plain graphs: torch's are pickled.
ENGINE = "onnx"
_PACKAGE_FOLDERS = {"face_recognition_models": "models"}

# Files that DeepFace 0.0.103 loads from its weights folder, and would download if they were not there.
DETECTOR_FILES: dict[str, tuple[str, ...]] = {
    "opencv": (),
    "yunet": ("face_detection_yunet_2023mar.onnx",),
    "ssd": ("deploy.prototxt", "res10_300x300_ssd_iter_140000.caffemodel"),
    "centerface": ("centerface.onnx",),
    "dlib": ("shape_predictor_5_face_landmarks.dat",),
    "retinaface": ("retinaface.pth",),
    # These bring their weights in their package.
    "mtcnn": (),
    "fastmtcnn": (),
    "mediapipe": (),
}
# Python packages that DeepFace leaves to its users to install, by detector.
DETECTOR_PACKAGES = {
    "dlib": "dlib",
    "retinaface": "retinaface",
    "mtcnn": "mtcnn",
    "fastmtcnn": "facenet_pytorch",
    "mediapipe": "mediapipe",
}
# What to install for a package that is imported under another name.
_PIP_NAMES = {"dlib": "dlib-bin", "retinaface": "retina-face", "facenet_pytorch": "facenet-pytorch"}
_CASCADES = ("haarcascade_frontalface_default.xml", "haarcascade_eye.xml")

# Files that a model is being loaded from: name -> path. DeepFace asks by name alone.
_found: dict[str, Path] = {}


def home_folder() -> Path:
    """DeepFace's own folder of weights."""
    return user_folder("DEEPFACE_HOME", "") / ".deepface" / "weights"


def package_folder(package: str | None) -> Path | None:
    """The folder of an installed package's model files; the package itself is not imported."""
    if package is None:
        return None
    # Importing face_recognition_models asks for pkg_resources, which recent setuptools lack.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / _PACKAGE_FOLDERS[package]


def find_files(model: KnownModel, folders: Sequence[Path] = ()) -> tuple[Path, ...]:
    """The files of one of DeepFace's models: in the given folders, DeepFace's own, or the package that has them.

    Args:
        folders: looked in first; the model's folder below each of them as well.

    Raises:
        MissingWeights: naming each absent file, its size where known, and where to put it.
    """
    places = [place for folder in folders for place in (folder / model.folder, folder)]
    places.append(home_folder())
    package = package_folder(model.package)
    if package is not None:
        places.append(package)
    found = []
    for file in model.files:
        path = next((place / file.name for place in places if (place / file.name).is_file()), None)
        if path is None:
            raise MissingWeights(_missing(model, file, places[0]))
        found.append(path)
    return tuple(found)


def _missing(model: KnownModel, file: KnownFile, place: Path) -> str:
    size = f" ({file.bytes:,} bytes)" if file.bytes else ""
    extra = model.package and f"the package {model.package} brings it, which `pip install -e .` installs; or "
    fetched = ", or let `faceid models fetch` bring it" if file.urls else ""
    return (
        f"{model.folder}: no file {file.name}{size} in {place}; {extra or ''}put it there yourself{fetched}: a run "
        "downloads nothing"
    )


def detector_files(name: str, folders: Sequence[Path] = ()) -> tuple[Path, ...]:
    """The files that one of DeepFace's detectors reads; none if its package holds them.

    Args:
        folders: looked in before DeepFace's own.

    Raises:
        MissingWeights: a file is absent that DeepFace would download.
        ConfigurationError: the detector is not one of `DETECTOR_FILES`.
    """
    if name not in DETECTOR_FILES:
        known = ", ".join(DETECTOR_FILES)
        why = "; YOLO's weights are pickles, which are never loaded" if name.startswith("yolo") else ""
        raise ConfigurationError(f"DeepFace detector {name!r} is not supported here{why}; use one of {known}")
    if name != "opencv":
        files = tuple(KnownFile(each) for each in DETECTOR_FILES[name])
        return find_files(DETECTORS.get(name) or KnownModel(f"deepface-{name}", files), folders)
    cascades = tuple(cascade_folder() / each for each in _CASCADES)
    missing = [file.name for file in cascades if not file.is_file()]
    if missing:
        raise MissingWeights(
            f"DeepFace detector {name}: {', '.join(missing)} not found in {cascades[0].parent}; "
            "install opencv-contrib-python-headless below version 5, which ships them"
        )
    return cascades


def second_look_files(name: str) -> tuple[Path, ...]:
    """The cascades that are asked beside a detector with landmarks; none for those that find eyes by them anyway."""
    return () if name in ("opencv", "ssd") else detector_files("opencv")


def cascade_folder() -> Path:
    """The folder of OpenCV's cascades; OpenCV itself is not imported. Raises ConfigurationError if it is missing."""
    spec = importlib.util.find_spec("cv2")
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "OpenCV is not installed; install opencv-contrib-python-headless below version 5"
        )
    return Path(spec.origin).parent / "data"


def detector_package_version(name: str) -> str | None:
    """Version of the package that decides a detector's answers beside its files; None for OpenCV and files alone."""
    package = DETECTOR_PACKAGES.get(name)
    if package is None:
        return None
    for distribution in importlib.metadata.packages_distributions().get(package, ()):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def missing_package(error: BaseException | None) -> str | None:
    """The package whose import failed, which DeepFace's own message does not always name."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name.partition(".")[0]
        error = error.__cause__ or error.__context__
    return None


def needs_package(package: str) -> str:
    """That a package is missing, and how to install it, as the middle of a sentence."""
    pip_name = _PIP_NAMES.get(package, package)
    return f"needs the package {pip_name}, which is not installed: pip install {pip_name}"


def prepare_deepface() -> None:
    """Import DeepFace so that it is quiet, reads onnx graphs, and takes the files that are here.

    Raises:
        ConfigurationError: the package is missing.
    """
    if importlib.util.find_spec("deepface") is None:
        raise ConfigurationError(
            "the deepface package is not installed; install it, or use the miniature faces and scorers"
        )
    os.environ["DEEPFACE_BACKEND_ENGINE"] = ENGINE
    # DeepFace takes a second to import, and reads the engine when it is.
    from deepface.commons import backend_utils, weight_utils
    from deepface.commons.logger import Logger

    if "DEEPFACE_LOG_LEVEL" not in os.environ:
        # It prints to standard output, where a command's own answer belongs.
        Logger().log_level = logging.WARNING
    # The first detector made DeepFace choose an engine, once for the process; detectors do not depend on it.
    backend_utils._backend_engine = ENGINE
    weight_utils.download_weights_if_necessary = _local_file
    if importlib.util.find_spec("retinaface") is not None:
        from retinaface.commons import backend_utils as retinaface_utils

        # It would choose by the variable above or by what is installed, and a worker would read another file than
        # the planner digested. PyTorch reads the one of DETECTOR_FILES, as plain tensors.
        retinaface_utils._backend_engine = "pytorch"


def _local_file(file_name: str, source_url: Any = None, compress_type: str | None = None) -> str:
    """What DeepFace calls instead of its download: the path of a file that is here."""
    name = Path(file_name).name
    if name in _found and _found[name].is_file():
        return str(_found[name])
    known = by_file().get(name)
    model = known[0] if known else KnownModel(f"DeepFace's {name}", (KnownFile(name),))
    return str(next(path for path in find_files(model) if path.name == name))


@contextmanager
def serving(files: Sequence[Path]) -> Generator[None]:
    """While it lasts, DeepFace reads these files, wherever they lie."""
    prepare_deepface()
    before = dict(_found)
    _found.update({path.name: path for path in files})
    try:
        yield
    finally:
        _found.clear()
        _found.update(before)


def forget(task: str) -> None:
    """Make DeepFace load its models of a task again: it caches them by name, whatever file they came from."""
    prepare_deepface()
    from deepface.modules import modeling

    getattr(modeling, "cached_models", {}).get(task, {}).clear()


def build(task: str, name: str, files: Sequence[Path]) -> Any:
    """DeepFace's own client of one model, made from files that are here.

    Args:
        task: of DeepFace's: facial_recognition, facial_attribute, face_detector.
        name: of the model, as DeepFace calls it.

    Raises:
        ConfigurationError: a Python package that the model needs is missing, or a file is not what it is to be.
    """
    with serving(files):
        from deepface.modules import modeling

        try:
            return modeling.get_model_class(task=task, model_name=name)()
        except (ImportError, ValueError, RuntimeError) as error:
            package = missing_package(error)
            if package:
                raise ConfigurationError(
                    f"DeepFace's {name} {needs_package(package)}, or choose another model"
                ) from error
            raise ConfigurationError(f"DeepFace's {name} cannot be loaded: {error}") from error
