"""Training tasks of detector and parser: augmented pictures and their targets."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceid_core.geometry.align import TRAINING_EYE_TARGETS, similarity, targets_in_pixels, transform_points
from faceid_core.miniature import people
from faceid_core.miniature.renderer import LABELS, render_group, render_scene, sample_shot
from faceid_core.miniature.scorer_geometry import warp
from faceid_core.miniature.scorer_networks import SIZE, DetectorNetwork, ParserNetwork, as_tensor
from faceid_core.miniature_training.scorer_data import SELECTION, Renders, Training, augment_appearance

# A face of which less than this lies in the picture is ignored in the loss.
WHOLE_SHARE = 0.7

# One face: box x0, y0, x1, y1, then left eye x, y, right eye x, y: float32 [8], pixels.
Faces = np.ndarray  # float32 [k, 8]


def transform_faces(faces: Faces, matrix: np.ndarray) -> Faces:
    """Faces [k, 8] after a transform [2, 3] without a rotation."""
    return transform_points(matrix, faces.reshape(-1, 2)).reshape(-1, 8).astype(np.float32)


def share_inside(faces: Faces) -> np.ndarray:
    """The share of each box [k, 8] that lies in the picture: float [k]."""
    x0, y0, x1, y1 = faces[:, :4].T
    width = np.clip(x1, 0, SIZE) - np.clip(x0, 0, SIZE)
    height = np.clip(y1, 0, SIZE) - np.clip(y0, 0, SIZE)
    return width * height / ((x1 - x0) * (y1 - y0))


def zoom_and_shift(box: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random transform [2, 3] after which a box [4] has 28 to 82 % of the picture's height."""
    height = rng.uniform(0.28, 0.82) * SIZE
    zoom = height / (box[3] - box[1])
    x, y = zoom * (box[0] + box[2]) / 2, zoom * (box[1] + box[3]) / 2
    room = max(0.0, SIZE - 0.7 * height)
    target = SIZE / 2 + rng.uniform(-0.5, 0.5, 2) * room
    return np.array([[zoom, 0.0, target[0] - x], [0.0, zoom, target[1] - y]])


def faceless_picture(rng: np.random.Generator, scenes: np.ndarray) -> np.ndarray:
    """A picture [64, 64, 3] without a face: a scene, a color, a ramp, noise, blots, or a scene in pieces."""
    kind = rng.integers(0, 8)
    scene = scenes[rng.integers(len(scenes))]
    if kind <= 2:
        return scene
    if kind == 3:
        return np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (SIZE, SIZE, 3)).copy()
    if kind == 4:
        side = int(rng.choice((2, 3, 4, 8, 16, 64)))
        coarse = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        how = cv2.INTER_CUBIC if rng.random() < 0.5 else cv2.INTER_NEAREST
        return cv2.resize(coarse, (SIZE, SIZE), interpolation=how)
    if kind == 5:
        noise = np.clip(rng.normal(rng.uniform(40, 215), rng.uniform(10, 80), (SIZE, SIZE, 3)), 0, 255)
        return noise.astype(np.uint8)
    if kind == 6:
        picture = scene.copy()
        for _ in range(rng.integers(1, 12)):
            center, axes = rng.integers(0, SIZE, 2).tolist(), rng.integers(2, 24, 2).tolist()
            cv2.ellipse(picture, center, axes, 0, 0, 360, rng.integers(0, 256, 3).tolist(), -1)
        return picture
    cells = scene.reshape(4, 16, 4, 16, 3).transpose(0, 2, 1, 3, 4).reshape(16, 16, 16, 3)
    return rng.permutation(cells).reshape(4, 4, 16, 16, 3).transpose(0, 2, 1, 3, 4).reshape(SIZE, SIZE, 3)


class DetectorTask:
    """A heat map of face centers, boxes and eyes on a 16 x 16 grid, from pictures of none, one or several."""

    size = 128
    examples = 2_000  # scenes without people, and as many groups

    def __init__(
        self,
        renders: Renders,
        *,
        network: type[nn.Module] = DetectorNetwork,
        arguments: dict | None = None,
        learning_rate: float = 3e-3,
        training: Training = SELECTION,
    ):
        rng = np.random.default_rng(5 + training.batches_seed)
        self.renders, self.network, self.learning_rate = renders, network, learning_rate
        self.arguments = arguments or {"widths": [24, 48, 80, 96]}
        self.faces = np.concatenate([renders.boxes, renders.eyes], 1)  # [n, 8]
        self.scenes = np.stack([render_scene(sample_shot(rng)).image for _ in range(self.examples)])
        self.groups, self.group_faces = [], []
        for _ in range(self.examples):
            seeds = rng.choice(training.people, 2, replace=False)
            pair = [people.person_from_seed(int(seed)) for seed in seeds]
            drawn = render_group(pair, sample_shot(rng))
            self.groups.append(drawn.image)
            eyes = np.array(drawn.eyes, np.float32).reshape(2, 4)
            self.group_faces.append(np.concatenate([np.array(drawn.boxes, np.float32), eyes], 1))

    def configuration(self) -> dict:
        """The content of `config.json`: the arguments of the network, and the lowest confidence of a face."""
        return {"network": self.arguments, "threshold": 0.5}

    def _person(self, rng: np.random.Generator) -> tuple[np.ndarray, Faces]:
        index = rng.integers(len(self.renders))
        image, faces = self.renders.images[index], self.faces[index : index + 1]
        if rng.random() < 0.7:
            matrix = zoom_and_shift(faces[0, :4], rng)
            return warp(image, matrix), transform_faces(faces, matrix)
        return image, faces

    def _faceless_part(self, rng: np.random.Generator) -> np.ndarray:
        """Clothes and scene below the chin of a half figure, enlarged."""
        index = 2 * rng.integers(len(self.renders) // 2) + 1  # every second picture is a half figure
        top = int(np.ceil(self.faces[index, 3])) + 1
        return cv2.resize(self.renders.images[index, top:], (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)

    def _quarters(self, rng: np.random.Generator) -> tuple[np.ndarray, Faces]:
        """Four pictures, each at half the size; some without people."""
        image, faces = np.empty((SIZE, SIZE, 3), np.uint8), []
        for row in (0, 1):
            for column in (0, 1):
                part, found = (
                    (faceless_picture(rng, self.scenes), None) if rng.random() < 0.4 else self._person(rng)
                )
                half = SIZE // 2
                small = cv2.resize(part, (half, half), interpolation=cv2.INTER_AREA)
                image[row * half : (row + 1) * half, column * half : (column + 1) * half] = small
                # A face cut by the edge of its quarter has no complete box.
                if found is not None:
                    shift = np.array([[0.5, 0, column * half], [0, 0.5, row * half]])
                    faces.append(transform_faces(found, shift))
        return image, np.concatenate(faces) if faces else np.empty((0, 8), np.float32)

    def example(self, rng: np.random.Generator) -> tuple[np.ndarray, Faces]:
        """One picture [64, 64, 3] and its faces [k, 8]."""
        kind = rng.random()
        if kind < 0.60:
            return self._person(rng)
        if kind < 0.70:
            index = rng.integers(len(self.groups))
            return self.groups[index], self.group_faces[index]
        if kind < 0.75:
            return self._quarters(rng)
        image = self._faceless_part(rng) if kind < 0.83 else faceless_picture(rng, self.scenes)
        return image, np.empty((0, 8), np.float32)

    def batch(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Pictures [n, 3, 64, 64] and, stacked, the `grid_targets` of each."""
        pictures, targets = [], []
        for _ in range(self.size):
            image, faces = self.example(rng)
            if rng.random() < 0.5:
                image = image[:, ::-1]
                x0, y0, x1, y1, lx, ly, rx, ry = faces.T
                faces = np.stack([SIZE - x1, y0, SIZE - x0, y1, SIZE - rx, ry, SIZE - lx, ly], 1)
            pictures.append(image)
            targets.append(grid_targets(faces))
        heat, care, places, weight = (torch.from_numpy(np.stack(part)) for part in zip(*targets, strict=True))
        images = as_tensor(augment_appearance(np.stack(pictures), rng))
        return {"images": images, "heat": heat, "care": care, "places": places, "weight": weight}

    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Focal loss of the heat map and the distance of boxes and eyes, per face."""
        grid = network(batch["images"])
        heat, logit = batch["heat"], grid[:, 0]
        count = (heat == 1).sum().clamp(min=1)
        found = logit.sigmoid()
        hit = (heat == 1) * (1 - found) ** 2 * F.logsigmoid(logit)
        miss = (heat < 1) * (1 - heat) ** 4 * found**2 * F.logsigmoid(-logit)
        distance = (grid[:, 1:] - batch["places"]).abs() * batch["weight"]  # [n, 8, 16, 16]
        whole = batch["weight"].sum().clamp(min=1e-6)
        return {
            "heat": -((hit + miss) * batch["care"]).sum() / count,
            "boxes": 4 * distance[:, :4].sum() / whole / 4,
            "eyes": 12 * distance[:, 4:].sum() / whole / 4,
        }


def grid_targets(faces: Faces) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The targets of the detector's grid for a picture.

    Args:
        faces: [k, 8].

    Returns:
        heat [16, 16]: 1 in the cell of each center, decreasing around it.
        care [16, 16]: 0 around faces that are mostly outside the picture, which the loss ignores.
        places [8, 16, 16]: box and eyes relative to the cell's center, in units of `DetectorNetwork.REACH`.
        weight [1, 16, 16]: of each cell's places.
    """
    cells, pitch = DetectorNetwork.CELLS, SIZE / DetectorNetwork.CELLS
    heat, care = np.zeros((cells, cells), np.float32), np.ones((cells, cells), np.float32)
    places, weight = np.zeros((8, cells, cells), np.float32), np.zeros((1, cells, cells), np.float32)
    middle = (np.arange(cells, dtype=np.float32) + 0.5) * pitch
    grid_x, grid_y = np.meshgrid(middle, middle)
    for face, inside in zip(faces, share_inside(faces) if len(faces) else (), strict=True):
        x, y = (face[0] + face[2]) / 2, (face[1] + face[3]) / 2
        around = np.exp(-((grid_x - x) ** 2 + (grid_y - y) ** 2) / (2 * (0.9 * pitch) ** 2))
        if inside < WHOLE_SHARE or not (0 <= x < SIZE and 0 <= y < SIZE):
            care[(grid_x >= face[0]) & (grid_x <= face[2]) & (grid_y >= face[1]) & (grid_y <= face[3])] = 0
            continue
        row, column = int(y / pitch), int(x / pitch)
        around[row, column] = 1
        nearer = around > heat
        heat = np.maximum(heat, around)
        offsets = face.reshape(4, 2)[:, :, None, None] - np.stack([grid_x, grid_y])  # [4, 2, 16, 16]
        places = np.where(nearer, offsets.reshape(8, cells, cells) / DetectorNetwork.REACH, places)
        weight = np.where(nearer & (around > 0.35), around, weight)
    return heat, care, places.astype(np.float32), weight.astype(np.float32)


class ParserTask:
    """The class of every pixel, on whole pictures and on crops aligned by the eyes."""

    size = 112

    def __init__(
        self,
        renders: Renders,
        *,
        network: type[nn.Module] = ParserNetwork,
        arguments: dict | None = None,
        learning_rate: float = 3e-3,
    ):
        self.renders, self.network, self.learning_rate = renders, network, learning_rate
        self.arguments = arguments or {"widths": [32, 48, 80, 96]}
        counts = np.bincount(renders.labels[::50].reshape(-1), minlength=len(LABELS))
        # Square roots: brows are a hundred times rarer than background, but not as much more important.
        share = np.sqrt(counts / counts.sum())
        self.weight = torch.from_numpy(np.float32(share.mean() / np.maximum(share, 0.02))).clamp(0.7, 1.6)

    def configuration(self) -> dict:
        """The content of `config.json`: the arguments of the network and the classes by index."""
        return {"network": {"classes": len(LABELS), **self.arguments}, "classes": list(LABELS)}

    def batch(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Pictures [n, 3, 64, 64] and labels int64 [n, 64, 64]."""
        indices = rng.choice(len(self.renders), self.size, replace=False)
        images = augment_appearance(self.renders.images[indices], rng, strength=0.8)
        labels = self.renders.labels[indices].copy()
        for number, index in enumerate(indices):
            kind = rng.random()
            if kind < 0.3:
                continue
            if kind < 0.75:
                left, right = (self.renders.eyes[index] + rng.normal(0, 0.5, 4)).reshape(2, 2)
                targets = targets_in_pixels(TRAINING_EYE_TARGETS, SIZE)
                matrix = similarity((left, right), targets)
            else:
                matrix = zoom_and_shift(self.renders.boxes[index], rng)
            images[number] = warp(images[number], matrix)
            labels[number] = warp(labels[number], matrix, nearest=True)
        return {"images": as_tensor(images), "labels": torch.from_numpy(labels.astype(np.int64))}

    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weighted cross-entropy over pixels."""
        return {"pixels": F.cross_entropy(network(batch["images"]), batch["labels"], self.weight)}
