"""Face parsing by a SegFormer through transformers, its labels mapped to our classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from faceid_core.geometry.classes import INDEX
from faceid_core.geometry.protocols import Face

from ..errors import ConfigurationError, MissingWeights
from ..weights.catalog import VERSIONS

# What the labels of face parsing models mean here. The names are those of CelebAMask-HQ (Lee et al. 2020) as
# jonathandinu/face-parsing writes them, and the spellings of other models trained on it or on LaPa.
LABELS: dict[str, str] = {
    "background": "background",
    "skin": "skin", "face": "skin", "nose": "skin",
    "l_ear": "skin", "r_ear": "skin", "ear": "skin", "left_ear": "skin", "right_ear": "skin",
    "l_eye": "eyes", "r_eye": "eyes", "left_eye": "eyes", "right_eye": "eyes", "eye": "eyes",
    "l_brow": "brows", "r_brow": "brows", "left_eyebrow": "brows", "right_eyebrow": "brows", "eyebrow": "brows",
    "mouth": "mouth", "inner_mouth": "mouth",
    "u_lip": "mouth", "l_lip": "mouth", "upper_lip": "mouth", "lower_lip": "mouth",
    "hair": "hair", "beard": "hair",
    "neck": "neck",
    "cloth": "clothes", "clothes": "clothes",
    "eye_g": "accessory", "eyeglasses": "accessory", "glasses": "accessory",
    "hat": "accessory", "ear_r": "accessory", "earring": "accessory",
    "neck_l": "accessory", "necklace": "accessory",
}  # fmt: skip


class SegFormerParser:
    """A `SegformerForSemanticSegmentation` and its preprocessing.

    Args:
        source: as the configuration names it.
        folder: of its files, in the layout of transformers; only safetensors are read.
        device: where it runs.

    Raises:
        MissingWeights: the file of weights lacks some of them.
        ConfigurationError: the folder holds another kind of model, or a label that has no meaning here.
    """

    version = str(VERSIONS["segformer"])
    approximate = False

    def __init__(self, source: str, folder: Path, *, device: str = "cpu"):
        self.name = f"segformer:{Path(source).name}"
        self.device = device
        self._classes = _class_table(_json(folder / "config.json"), source)
        self._prepare = _json(folder / "preprocessor_config.json")
        self._model = _load(folder, source).to(device)

    def parse(self, crops: Sequence[np.ndarray], faces: Sequence[Face] | None = None) -> np.ndarray:
        """See `protocols.FaceParser`; the faces are not needed."""
        import torch

        side = crops[0].shape[0]
        pixels = torch.from_numpy(np.stack([self._input(crop) for crop in crops])).to(self.device)
        with torch.inference_mode():
            logits = self._model(pixel_values=pixels).logits  # [n, labels, h / 4, w / 4]
            logits = torch.nn.functional.interpolate(
                logits, (side, side), mode="bilinear", align_corners=False
            )
            # argmax before the mapping, as its authors do: the mapping joins labels, it does not vote.
            labels = logits.argmax(dim=1).cpu().numpy()  # [n, s, s]
        return self._classes[labels]

    def _input(self, crop: np.ndarray) -> np.ndarray:
        """A crop as the model takes it, float32 [3, h, w]."""
        about = self._prepare
        if about.get("do_resize", True):
            size = about.get("size", {})
            width, height = int(size.get("width", 512)), int(size.get("height", 512))
            # As the library's own preprocessing resizes, smoothing where it shrinks.
            way = Image.Resampling(about.get("resample", Image.Resampling.BILINEAR))
            crop = np.asarray(Image.fromarray(crop).resize((width, height), way))
        values = crop.astype(np.float32)
        if about.get("do_rescale", True):
            values *= np.float32(about.get("rescale_factor", 1 / 255))
        if about.get("do_normalize", True):
            values = (values - np.float32(about["image_mean"])) / np.float32(about["image_std"])
        return np.ascontiguousarray(values.transpose(2, 0, 1))


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"{path} cannot be read as JSON: {error}") from error


def _class_table(config: dict[str, Any], source: str) -> np.ndarray:
    """Our class of each label of the model, uint8 [labels]."""
    if config.get("model_type") != "segformer":
        raise ConfigurationError(
            f"face parser {source} is of type {config.get('model_type')!r}; a SegFormer for semantic segmentation "
            "is needed"
        )
    names = {int(index): str(name) for index, name in config.get("id2label", {}).items()}
    unknown = [name for name in names.values() if _key(name) not in LABELS]
    if unknown or sorted(names) != list(range(len(names))) or not names:
        told = ", ".join(unknown[:8]) if unknown else "none or not numbered from 0"
        raise ConfigurationError(
            f"face parser {source} has labels that mean nothing here: {told}; it must be one trained for face "
            f"parsing (known labels: {', '.join(LABELS)})"
        )
    return np.array([INDEX[LABELS[_key(names[i])]] for i in range(len(names))], np.uint8)


def _key(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _load(folder: Path, source: str) -> Any:
    from safetensors import SafetensorError
    from transformers import SegformerForSemanticSegmentation
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        loaded: Any = SegformerForSemanticSegmentation.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        model, found = loaded  # a pair on this request, which its annotation leaves out
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigurationError(f"face parser {source} cannot be loaded: {error}") from error
    if found["missing_keys"]:
        # transformers would go on with random numbers in their place.
        raise MissingWeights(
            f"face parser {source}: model.safetensors lacks {len(found['missing_keys'])} tensors, such as "
            f"{sorted(found['missing_keys'])[0]}; bring the whole file again"
        )
    return model.eval()
