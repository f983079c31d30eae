"""What each of DeepFace's detector models says about a picture, with every landmark that it has.

DeepFace's own clients build and hold the models; their `detect_faces` keeps the eyes in whole pixels and, of most
models, drops nose and mouth. So the models that a client holds are asked here themselves, as the client asks them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from faceid_core.geometry.protocols import Point

# The order in which YuNet, CenterFace, RetinaFace and facenet-pytorch give their five points (YuNet, RetinaFace: by the
# person's sides, right first, which in an upright picture is the left).
FIVE_POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
# dlib's five points: of the person's left eye the outer and the inner corner, of the right eye the same, the nose's base.
DLIB_POINTS = ("right_eye_outer", "right_eye_inner", "left_eye_outer", "left_eye_inner", "nose_base")

_YUNET_SIDE_PIXELS = 640  # above which DeepFace shrinks: YuNet misses large faces in large pictures
# Least scores, as DeepFace has them by default; its environment variables would change results behind the keys' back.
_YUNET_SCORE, _CENTERFACE_SCORE, _RETINAFACE_SCORE = 0.9, 0.35, 0.9


@dataclass(frozen=True)
class Found:
    """A face in the picture that the detector was given.

    Args:
        box: (x, y, width, height) in pixels.
        confidence: as the model reports it.
        points: by name, sides those of the picture; may be empty.
    """

    box: tuple[float, float, float, float]
    confidence: float
    points: Mapping[str, Point]


Reader = Callable[[Any, np.ndarray], list[Found]]


def reader_of(model: str) -> Reader:
    """How a detector is read; `picture` is uint8 [h, w, 3] in OpenCV's channel order (BGR)."""
    return _READERS.get(model, read_regions)


def read_regions(client: Any, picture: np.ndarray) -> list[Found]:
    """Any DeepFace client, through its own `detect_faces`: points in whole pixels, sides the person's."""
    names = {
        "right_eye": "left_eye",
        "left_eye": "right_eye",
        "nose": "nose",
        "mouth_right": "mouth_left",
        "mouth_left": "mouth_right",
    }
    found = []
    for region in client.detect_faces(picture):
        given = {ours: getattr(region, theirs, None) for theirs, ours in names.items()}
        # Whole pixels name pixels, whose center lies half a pixel further.
        points = {name: (float(p[0]) + 0.5, float(p[1]) + 0.5) for name, p in given.items() if p is not None}
        box = (float(region.x), float(region.y), float(region.w), float(region.h))
        found.append(Found(box, float(region.confidence or 0.0), points))
    return found


def read_yunet(client: Any, picture: np.ndarray) -> list[Found]:
    """YuNet: rows of x, y, w, h, five points, score (OpenCV's `FaceDetectorYN`)."""
    height, width = picture.shape[:2]
    scale = min(1.0, _YUNET_SIDE_PIXELS / max(height, width))
    small = (
        cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture
    )
    ratio = np.array([width / small.shape[1], height / small.shape[0]])
    client.model.setInputSize((small.shape[1], small.shape[0]))
    client.model.setScoreThreshold(_YUNET_SCORE)
    _, rows = client.model.detect(small)
    found = []
    for row in [] if rows is None else np.asarray(rows, dtype=np.float64):
        box = (*(row[:2] * ratio), *(row[2:4] * ratio))
        found.append(Found(box, float(row[14]), _five(row[4:14].reshape(5, 2) * ratio)))
    return found


def read_centerface(client: Any, picture: np.ndarray) -> list[Found]:
    """CenterFace: (x0, y0, x1, y1, score) and five points; its network is loaded for each picture, as DeepFace does."""
    boxes, landmarks = client.build_model().forward(
        picture, picture.shape[0], picture.shape[1], threshold=_CENTERFACE_SCORE
    )
    found = []
    for (x0, y0, x1, y1, score), points in zip(boxes, landmarks, strict=True):
        box = (float(x0), float(y0), float(x1 - x0), float(y1 - y0))
        found.append(Found(box, float(score), _five(np.asarray(points, np.float64).reshape(5, 2))))
    return found


def read_dlib(client: Any, picture: np.ndarray) -> list[Found]:
    """dlib's HOG detector and five-point shape predictor: eye corners and the base of the nose."""
    # dlib works in RGB; DeepFace hands it BGR, to which HOG is nearly but the shape predictor not quite indifferent.
    rgb = np.ascontiguousarray(picture[:, :, ::-1])
    rectangles, scores, _ = client.model["face_detector"].run(rgb, 1)
    found = []
    for rectangle, score in zip(rectangles, scores, strict=True):
        shape = client.model["sp"](rgb, rectangle)
        corners = {
            name: (float(shape.part(i).x) + 0.5, float(shape.part(i).y) + 0.5)
            for i, name in enumerate(DLIB_POINTS)
        }
        points = dict(corners)
        for side in ("left", "right"):
            outer, inner = corners[f"{side}_eye_outer"], corners[f"{side}_eye_inner"]
            points[f"{side}_eye"] = ((outer[0] + inner[0]) / 2, (outer[1] + inner[1]) / 2)
        x, y = float(rectangle.left()), float(rectangle.top())
        box = (x, y, float(rectangle.width()), float(rectangle.height()))
        found.append(Found(box, float(score), points))
    return found


def read_mtcnn(client: Any, picture: np.ndarray) -> list[Found]:
    """The mtcnn package: five points, sides the observer's."""
    found = []
    for one in client.model.detect_faces(np.ascontiguousarray(picture[:, :, ::-1])) or []:
        points = {
            name: (float(x), float(y)) for name, (x, y) in one["keypoints"].items() if name in FIVE_POINTS
        }
        x, y, width, height = (float(value) for value in one["box"])
        found.append(Found((x, y, width, height), float(one["confidence"]), points))
    return found


def read_fastmtcnn(client: Any, picture: np.ndarray) -> list[Found]:
    """facenet-pytorch's MTCNN: boxes (x0, y0, x1, y1), probabilities, five points."""
    rgb = np.ascontiguousarray(picture[:, :, ::-1])
    boxes, scores, landmarks = client.model.detect(rgb, landmarks=True)
    if boxes is None:
        return []
    return [
        Found((float(x0), float(y0), float(x1 - x0), float(y1 - y0)), float(score), _five(points))
        for (x0, y0, x1, y1), score, points in zip(boxes, scores, landmarks, strict=True)
    ]


def read_retinaface(client: Any, picture: np.ndarray) -> list[Found]:
    """RetinaFace: five points by the person's sides, with fractions of a pixel."""
    from retinaface import RetinaFace

    answer = RetinaFace.detect_faces(picture, model=client.model, threshold=_RETINAFACE_SCORE)
    found = []
    for one in answer.values() if isinstance(answer, dict) else ():
        x0, y0, x1, y1 = (float(value) for value in one["facial_area"])
        given = one["landmarks"]
        order = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")
        points = _five(np.array([given[name] for name in order], np.float64))
        found.append(Found((x0, y0, x1 - x0, y1 - y0), float(one["score"]), points))
    return found


_READERS: dict[str, Reader] = {
    "yunet": read_yunet,
    "centerface": read_centerface,
    "dlib": read_dlib,
    "mtcnn": read_mtcnn,
    "fastmtcnn": read_fastmtcnn,
    "retinaface": read_retinaface,
}


def _five(points: np.ndarray) -> dict[str, Point]:
    return {name: (float(x), float(y)) for name, (x, y) in zip(FIVE_POINTS, points, strict=True)}
