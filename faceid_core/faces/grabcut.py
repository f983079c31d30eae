"""A parser without weights: ellipses by the landmarks initialize GrabCut, which segments by color."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from faceid_core.geometry.classes import INDEX
from faceid_core.geometry.protocols import Face, Point
from faceid_core.weights.catalog import VERSIONS

from .ellipse import Geometry, draw_parts, geometry_of, with_faces

# GrabCut works on a copy of this size, which suffices for a mask; its time grows with the area.
_WORK_PIXELS = 256
_ROUNDS = 4
# In units of the face's half width, from the middle of the eyes: center (x, y), half axes.
_SURE_FACE = (0.0, 0.42), (0.62, 0.72)
_FOREHEAD = (0.0, -0.62), (0.65, 0.5)
_PERHAPS_FACE = (0.0, 0.38), (1.05, 1.28)
_HEAD = (0.0, 0.0), (1.6, 1.8)
_CHIN = 1.55  # the face's lower end, along the line from the eyes' middle to the chin
_ROUND_CHIN = (0.0, 0.5), (0.7, 1.2)  # where it reaches further down
_NECK_END = 2.3
_NECK_HALF_WIDTH = 0.75
# The face down to the chin, where a beard or a shadow has another color: always the face.
_DOWN_TO_CHIN = (0.0, 0.38), (0.75, 1.12)
_CHIN_BEGINS = 0.75
# The face of a picture without color, in which brightness alone would follow shadows.
_WHOLE_FACE = (0.0, 0.38), (1.0, 1.25)
# Mean distance from gray (a, b of CIELAB) below which a picture counts as one without color.
_LEAST_COLOR = 5.0
# The top of a head, and the share of it that is like the face's skin in color and brightness if the head is bald.
_TOP = (0.0, -1.05), (0.55, 0.3)
_BALD_SHARE = 0.7
# Skin is within this many standard deviations of the face's hue.
_LIKE_SKIN = 2.5


class GrabCutParser:
    """Labels skin, hair, neck and clothes by color, and eyes, brows and mouth by geometry.

    Runs GrabCut twice (Rother, Kolmogorov and Blake 2004): for the person against the background, and within the person
    for the face's skin against the rest. Below the chin, skin is neck and the rest is clothes.
    """

    name = "grabcut"
    version = str(VERSIONS["grabcut"])
    approximate = True

    def parse(self, crops: Sequence[np.ndarray], faces: Sequence[Face] | None = None) -> np.ndarray:
        """See `protocols.FaceParser`; without `faces`, the eyes are at the training targets."""
        return np.stack([_label(crop, face) for crop, face in with_faces(crops, faces)])


def _label(crop: np.ndarray, face: Face | None) -> np.ndarray:
    side = crop.shape[0]
    work = min(side, _WORK_PIXELS)
    small = crop if work == side else cv2.resize(crop, (work, work), interpolation=cv2.INTER_AREA)
    place = geometry_of(work, face if work == side else _scaled(face, work / side))
    person, skin = _segment(np.ascontiguousarray(small[:, :, ::-1]), place)
    labels = _classes(person, skin, place)
    labels = cv2.resize(labels, (side, side), interpolation=cv2.INTER_NEAREST)
    covered = labels == INDEX["skin"]
    # Geometry also places features on hair that hides them; they count only on skin.
    features = draw_parts(
        np.full((side, side), INDEX["background"], np.uint8), geometry_of(side, face), features=True
    )
    inside = (features != INDEX["background"]) & covered
    labels[inside] = features[inside]
    return labels


def _segment(picture: np.ndarray, place: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Masks bool [s, s] of the person in a picture (uint8 BGR), and of the person's skin."""
    side = picture.shape[0]
    sure, perhaps, head = (place.ellipse(side, *part) for part in (_SURE_FACE, _PERHAPS_FACE, _HEAD))
    below, body = _below_chin(place, side), place.shoulders(side, _CHIN, _NECK_HALF_WIDTH)
    seeds = np.full((side, side), cv2.GC_BGD, np.uint8)
    # Clothes often have the hair's color: pixels below the chin must not define the background of the head.
    seeds[below] = cv2.GC_PR_BGD
    seeds[head | body] = cv2.GC_PR_FGD
    chin = place.ellipse(side, *_DOWN_TO_CHIN) & place.below(side, _CHIN_BEGINS)
    # Pixels above the brows belong to the person, with or without hair; they define the hair's color.
    seeds[sure | chin | place.ellipse(side, *_FOREHEAD)] = cv2.GC_FGD
    person = _foreground(picture, seeds) | sure | chin
    if _is_gray(picture, sure):
        return person, place.ellipse(side, *_WHOLE_FACE) & ~below
    seeds = np.full((side, side), cv2.GC_BGD, np.uint8)
    seeds[person & ~below] = cv2.GC_PR_BGD
    seeds[person & ~below & perhaps] = cv2.GC_PR_FGD
    seeds[sure] = cv2.GC_FGD
    seeds[chin & ~below] = cv2.GC_FGD
    face = _foreground(picture, seeds) & perhaps
    top = _similar_skin(picture, sure) & person & ~below
    if top[place.ellipse(side, *_TOP)].mean() >= _BALD_SHARE:
        face |= top
    neck = person & below & place.within(side, _NECK_HALF_WIDTH) & ~place.below(side, _NECK_END)
    return person, face | (neck & _similar_hue(picture, sure))


def _below_chin(place: Geometry, side: int) -> np.ndarray:
    """Pixels below a rounded chin, bool [s, s]."""
    return place.below(side, _CHIN) & ~place.ellipse(side, *_ROUND_CHIN)


def _is_gray(picture: np.ndarray, sample: np.ndarray) -> bool:
    """Whether a sample of the picture has hardly any color."""
    hue = cv2.cvtColor(picture, cv2.COLOR_BGR2LAB)[..., 1:].astype(np.float64)[sample] - 128
    return float(np.hypot(*hue.T).mean()) < _LEAST_COLOR


def _similar_skin(picture: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """Pixels whose hue and brightness are within the distribution of a sample's, bool [s, s]."""
    light = cv2.cvtColor(picture, cv2.COLOR_BGR2LAB)[..., 0].astype(np.float64)
    known = light[sample]
    # Of half of the sample, which pupils and nostrils do not widen: 1.48 brings it to a standard deviation.
    spread = 1.48 * np.median(np.abs(known - np.median(known)))
    near = np.abs(light - np.median(known)) <= _LIKE_SKIN * (spread + 2)
    return near & _similar_hue(picture, sample)


def _similar_hue(picture: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """Pixels whose hue is within the distribution of a sample's, bool [s, s]; a chin's shadow is not distinguished."""
    hue = cv2.cvtColor(picture, cv2.COLOR_BGR2LAB)[..., 1:].astype(np.float64)  # [s, s, 2]
    known = hue[sample]
    # A floor of two steps lets a uniform sample accept similar colors.
    inverse = np.linalg.inv(np.cov(known.T) + np.eye(2) * 4)
    offset = hue - known.mean(axis=0)
    return np.einsum("xyi,ij,xyj->xy", offset, inverse, offset) <= _LIKE_SKIN**2


def _foreground(picture: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """GrabCut's foreground, bool [s, s]; the seeds' own if foreground or background has no seed."""
    front = (seeds == cv2.GC_FGD) | (seeds == cv2.GC_PR_FGD)
    if front.all() or not front.any():
        return front
    # Seeds its k-means, so that the same picture gives the same mask.
    cv2.setRNGSeed(0)
    marks = seeds.copy()
    # The rectangle is not read in this mode.
    cv2.grabCut(
        picture, marks, (0, 0, 0, 0), np.zeros((1, 65)), np.zeros((1, 65)), _ROUNDS, cv2.GC_INIT_WITH_MASK
    )
    return (marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)


def _classes(person: np.ndarray, skin: np.ndarray, place: Geometry) -> np.ndarray:
    """Labels uint8 [s, s] from the masks of the person and the skin."""
    side = person.shape[0]
    below = _below_chin(place, side)
    head = place.ellipse(side, *_HEAD)
    labels = np.full((side, side), INDEX["background"], np.uint8)
    labels[person & below] = INDEX["clothes"]
    labels[person & ~below & head] = INDEX["hair"]
    labels[skin & ~below] = INDEX["skin"]
    labels[skin & below] = INDEX["neck"]
    return labels


def _scaled(face: Face | None, factor: float) -> Face | None:
    if face is None:
        return None

    def scaled(point: Point | None) -> Point | None:
        return None if point is None else (point[0] * factor, point[1] * factor)

    x0, y0, x1, y1 = (value * factor for value in face.box)
    return Face((x0, y0, x1, y1), scaled(face.left_eye), scaled(face.right_eye), face.confidence)
