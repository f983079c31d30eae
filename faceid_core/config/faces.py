"""The section `faces`: how a photo becomes an aligned crop and a mask, and which photos are rejected."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

from pydantic import Field, model_validator

from .section import LocalPath, Section

# Limits of photographs alone, by the names of `faces.quality.Limits`.
_PHOTOGRAPH_LIMITS = (
    "min_brightness",
    "min_contrast",
    "min_eye_brightness",
    "min_mouth_contrast",
    "max_flat_share",
    "min_side_margin",
    "min_detail_share",
)
# Keys that have no effect in the miniature world.
_FOR_PHOTOGRAPHS = (
    "detector",
    "parser",
    "parser_source",
    "framing",
    "max_yaw_degrees",
    "max_clipped_share",
    "max_covered_share",
    *_PHOTOGRAPH_LIMITS,
    "covered",
    "min_filled_share",
)
# The second holds the files of the landmarks and of the recognizer.
_DLIB_PACKAGES = ("dlib", "face_recognition_models")


class FacesConfig(Section):
    """How a photo becomes an aligned crop and a mask."""

    backend: Literal["miniature", "deepface"] = Field(
        "miniature",
        description="Face detector and parser: miniature for the synthetic world, deepface for photographs, with "
        "the keys detector and parser.",
    )
    detector: Literal[
        "auto",
        "opencv",
        "dlib",
        "yunet",
        "ssd",
        "centerface",
        "retinaface",
        "mtcnn",
        "fastmtcnn",
        "mediapipe",
    ] = Field(
        "auto",
        description="For photographs: the detector, by its DeepFace name. auto takes dlib where it is installed, else "
        "opencv, which finds fewer faces and eyes only; the files of the others are fetched before a run.",
    )
    parser: Literal["grabcut", "ellipse", "segformer"] = Field(
        "grabcut",
        description="For photographs: the face parser. grabcut (landmarks and color) and ellipse (landmarks) need "
        "no weights and are rough; segformer is a network.",
    )
    parser_source: LocalPath = Field(
        "",
        description="Folder of the segformer parser, or its hub id, such as jonathandinu/face-parsing, optionally "
        "with @commit, if `weights` or the hub's local cache holds it.",
    )
    framing: Literal["auto", "close_up", "portrait"] = Field(
        "auto",
        description="What the crop shows: close_up, on which the miniature was trained, or portrait, with hair and "
        "shoulders; auto takes portrait for photographs.",
    )
    mask_region: Literal["face", "face_hair", "head"] = Field(
        "face", description="What the mask covers: the face, face and hair, or the whole head."
    )
    min_face_pixels: float = Field(
        40.0, ge=8, le=4096, description="Smallest accepted width and height of a face, in photo pixels."
    )
    min_sharpness: float = Field(
        0.08, ge=0.0, le=10.0, description="Smallest accepted sharpness of the face (see faces/quality.py)."
    )
    max_yaw_degrees: float = Field(
        35.0,
        gt=0,
        le=90,
        description="For photographs: largest turn of the face to the side, if the detector finds the nose.",
    )
    max_clipped_share: float = Field(
        0.45,
        gt=0,
        le=1,
        description="For photographs: largest share of black or white pixels in the face (1: any).",
    )
    max_covered_share: float = Field(
        0.3,
        gt=0,
        le=1,
        description="For photographs parsed by a segformer: largest covered share of eyes, nose and mouth (1: any).",
    )
    min_brightness: float = Field(
        0.14, ge=0, le=1, description="For photographs: least mean gray value of the face, 0 to 1 (0: any)."
    )
    min_contrast: float = Field(
        0.04,
        ge=0,
        le=1,
        description="For photographs: least standard deviation of the face's gray values, 0 to 1 (0: any).",
    )
    min_eye_brightness: float = Field(
        0.79,
        ge=0,
        le=2,
        description="For photographs: brightness around the eyes by that of the cheeks, below which they count as "
        "covered by sunglasses (0: never).",
    )
    min_mouth_contrast: float = Field(
        0.05,
        ge=0,
        le=1,
        description="For photographs: contrast around the mouth, below which it counts as covered (0: never).",
    )
    max_flat_share: float = Field(
        0.25,
        gt=0,
        le=1,
        description="For photographs: share of the face without texture, above which it counts as drawn (1: never).",
    )
    min_side_margin: float = Field(
        0.4,
        ge=0,
        le=2,
        description="For photographs: least distance of an eye from the photo's side, in eye distances.",
    )
    min_detail_share: float = Field(
        0.33,
        ge=0,
        le=1,
        description="For photographs: least share of the face's pixels a side that its detail needs, below which the "
        "photo counts as enlarged (0: never).",
    )
    covered: Literal["reject", "warn"] = Field(
        "reject",
        description="For photographs: whether eyes or a mouth that min_eye_brightness and min_mouth_contrast take for "
        "covered reject the photo, or only warn in `faceid prepare`.",
    )
    min_filled_share: float = Field(
        0.8,
        ge=0,
        le=1,
        description="For photographs: least share of eyes, nose and mouth that the mask covers, below which it is not "
        "reported as ok.",
    )
    max_photo_bytes: int = Field(
        30_000_000, ge=1_000, le=500_000_000, description="Largest accepted photo file, in bytes."
    )
    max_photo_pixels: int = Field(
        50_000_000, ge=4_096, le=178_000_000, description="Largest accepted photo, in pixels."
    )

    @model_validator(mode="after")
    def _a_segformer_has_a_source(self) -> FacesConfig:
        if self.parser == "segformer" and not self.parser_source:
            raise ValueError("parser segformer needs parser_source: a folder, or a hub id that is staged")
        return self

    @property
    def photographs(self) -> bool:
        """Whether identities come as photographs, not as renderings of the miniature."""
        return self.backend != "miniature"

    @property
    def detector_name(self) -> str:
        """The detector with `auto` resolved: dlib where it and its landmarks are installed, else opencv."""
        if self.detector != "auto":
            return self.detector
        here = all(importlib.util.find_spec(package) is not None for package in _DLIB_PACKAGES)
        return "dlib" if here else "opencv"

    @property
    def crop_framing(self) -> str:
        """The framing with `auto` resolved."""
        if self.framing != "auto":
            return self.framing
        return "portrait" if self.photographs else "close_up"

    def limits(self) -> dict[str, Any]:
        """The limits on a photo, by the names of `faces.quality.Limits`."""
        limits = {
            "min_face_pixels": self.min_face_pixels,
            "min_sharpness": self.min_sharpness,
            "max_bytes": self.max_photo_bytes,
            "max_pixels": self.max_photo_pixels,
        }
        if self.photographs:
            limits |= {
                "max_yaw_degrees": self.max_yaw_degrees,
                "max_clipped_share": self.max_clipped_share,
                **{name: getattr(self, name) for name in _PHOTOGRAPH_LIMITS},
                "covered": self.covered,
            }
        return limits

    def covered_limit(self) -> float | None:
        """Largest share of the face that may be covered; None if the parser cannot tell."""
        return self.max_covered_share if self.photographs and self.parser == "segformer" else None

    def filled_limit(self) -> float | None:
        """Least share of eyes, nose and mouth in a mask that is ok; None in the miniature world."""
        return self.min_filled_share if self.photographs else None

    def result_values(self) -> dict[str, Any]:
        """The values that results depend on; in the miniature world without the keys for photographs."""
        values = self.model_dump(mode="json") | {"detector": self.detector_name}
        if not self.photographs:
            values = {name: value for name, value in values.items() if name not in _FOR_PHOTOGRAPHS}
            if self.crop_framing != "close_up":
                values["framing"] = self.crop_framing
        return values
