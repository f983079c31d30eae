"""The sections that decide what is drawn and scored: base model, images, scores."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from .section import LocalPath, Section

Metric = Literal[
    "identity", "detection", "concepts", "image_text", "attention", "leakage", "copying",
    "identity_second", "image_text_second", "diversity", "attributes", "flagged",
]  # fmt: skip
Recognizer = Literal[
    "Dlib", "SFace", "ArcFace", "GhostFaceNet", "Facenet", "Facenet512", "VGG-Face", "OpenFace"
]
Clip = Literal["ViT-B/32", "ViT-L/14"]
# Metrics that ask models which no miniature set has.
_OF_PHOTOGRAPHS = ("identity_second", "image_text_second", "diversity", "attributes", "flagged")
# Fields of `ScoreConfig` that other sets do not read.
PHOTOGRAPH_FIELDS = ("recognizers", "clips", "selection_recognizer", "selection_clip")


class BaseModelConfig(Section):
    """The frozen text-to-image model for which tokens are learned."""

    source: LocalPath = Field(
        "miniature",
        min_length=1,
        description="'miniature' (ships with the project), a known name (sd14, sd15, sd21, sd21-base, sdxl), "
        "hub:owner/name@revision, a folder in diffusers' layout, a single .safetensors file (with layout), or an "
        "s3:// address of either. Nothing is downloaded from the hub during a run.",
    )
    layout: LocalPath = Field(
        "",
        description="For a single-file source: the known name or folder with the model's configurations and tokenizers.",
    )
    weights: LocalPath = Field(
        "",
        description="Folder with hub models as <owner>--<name>--<revision>; empty: the folder of `weights`, or "
        "else Hugging Face's own cache.",
    )
    digest: str = Field(
        "",
        pattern=r"^([0-9a-f]{64})?$",
        description="Digest that the model's files must have, as a run records it with its results; empty accepts any.",
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Precision of the frozen network; tokens and losses are float32."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device of the models; auto takes CUDA if there is a GPU."
    )


class GenerateConfig(Section):
    """The evaluation images: prompt grid x seeds."""

    grid: LocalPath = Field(
        "miniature",
        min_length=1,
        description="Prompt grid: 'miniature' (24 prompts), 'laboratory' (40 harder), 'laboratory-half' (20 of "
        "these), 'photographs', or the path of a YAML file of your own.",
    )
    seeds: int = Field(4, ge=1, le=64, description="Images per prompt, seeds 0 to n-1.")
    sampler: Literal[
        "DPMSolverMultistepScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"
    ] = Field("DPMSolverMultistepScheduler", description="Sampler, by its diffusers name.")
    steps: int = Field(12, ge=1, le=1000, description="Sampling steps of each image.")
    guidance_scale: float = Field(
        4.0, ge=1.0, le=30.0, description="Classifier-free guidance scale (1: none)."
    )
    batch: int = Field(32, ge=1, le=512, description="Images drawn together.")
    height: int = Field(
        0, ge=0, le=4096, description="Height of an image in pixels (0: the base model's own), as in diffusers."
    )
    width: int = Field(
        0, ge=0, le=4096, description="Width of an image in pixels (0: the base model's own), as in diffusers."
    )
    use_stages: tuple[int, ...] = Field(
        (),
        description="Stages that use the learned tokens, from 1 (least noise); the others use the class word. "
        "Empty: all.",
    )
    use_kv: Literal["kv", "k", "v"] = Field(
        "kv",
        description="What uses the learned tokens: keys (where to sample), values (what is painted), or both.",
    )
    use_strength: float = Field(
        1.0,
        ge=0.0,
        le=1.0,
        description="Interpolation from the class word's contexts (0) to those of the learned tokens (1).",
    )
    adjust_length: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="How far the length of learned vectors is brought to the class word's (1) before they are encoded.",
    )
    adjust_direction: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="How far the direction of learned vectors is turned to the class word's (1) before they are encoded.",
    )

    def size(self, own: int) -> tuple[int, int] | None:
        """Height and width of the images in pixels; None for the base model's own square of side `own`."""
        chosen = self.height or own, self.width or own
        return None if chosen == (own, own) else chosen

    def result_values(self) -> dict[str, Any]:
        """The values that pictures depend on, for digests: a size only where one is chosen."""
        values = self.model_dump(mode="json")
        return {name: value for name, value in values.items() if value or name not in ("height", "width")}


class ScoreConfig(Section):
    """What is measured on the images."""

    scorers: Literal["miniature", "miniature-selection", "photographs", "photographs-selection"] = Field(
        "miniature",
        description="Set of scorers: miniature for figures that are reported, miniature-selection for choosing "
        "settings, whose figures are never reported. photographs and photographs-selection alike; faceid models "
        "fetch brings their weights.",
    )
    metrics: tuple[Metric, ...] = Field(
        ("identity", "detection", "concepts", "image_text", "attention", "leakage"),
        description="Metrics to compute; each is cached by itself.",
    )
    named_people: int = Field(
        16,
        ge=0,
        le=256,
        description="Number of people that the base model knows, drawn for the ceiling (0: no ceiling).",
    )
    recognizers: tuple[Recognizer, ...] = Field(
        ("Dlib",),
        min_length=1,
        max_length=2,
        description="For photographs: the face recognizer of metric identity and, if a second is named, of "
        "identity_second, by their DeepFace names. Dlib's weights come with faceid's packages.",
    )
    clips: tuple[Clip, ...] = Field(
        ("ViT-B/32",),
        min_length=1,
        max_length=2,
        description="For photographs: the CLIP model of metrics image_text and diversity and, if a second is "
        "named, of image_text_second.",
    )
    selection_recognizer: Recognizer = Field(
        "SFace", description="Face recognizer of photographs-selection; it should be none of the recognizers that report."
    )
    selection_clip: Clip = Field(
        "ViT-L/14", description="CLIP model of photographs-selection; it should be none of the clips that report."
    )

    @property
    def of_photographs(self) -> bool:
        """Whether the set is one for photographs."""
        return self.scorers.startswith("photographs")

    @property
    def own_recognizers(self) -> tuple[str, ...]:
        """The recognizers of a set for photographs: the selection's own, or those that report."""
        return (self.selection_recognizer,) if self.scorers == "photographs-selection" else self.recognizers

    @property
    def own_clips(self) -> tuple[str, ...]:
        """The CLIP models of a set for photographs, as `own_recognizers`."""
        return (self.selection_clip,) if self.scorers == "photographs-selection" else self.clips

    @model_validator(mode="after")
    def _models_fit_the_metrics(self) -> Self:
        # A set that is not used is not checked.
        if not self.of_photographs:
            only = [each for each in self.metrics if each in _OF_PHOTOGRAPHS]
            if only:
                raise ValueError(f"metrics {', '.join(only)} need scorers: photographs")
            return self
        shared = {self.selection_recognizer, self.selection_clip} & {*self.recognizers, *self.clips}
        if self.scorers == "photographs-selection" and shared:
            raise ValueError(
                f"{', '.join(sorted(shared))} would both choose settings and report on them; name another "
                "selection_recognizer or selection_clip, or take it out of recognizers or clips"
            )
        for field, chosen, metric in (
            ("recognizers", self.recognizers, "identity_second"),
            ("clips", self.clips, "image_text_second"),
        ):
            selecting = self.scorers == "photographs-selection"
            if len(set(chosen)) != len(chosen):
                raise ValueError(f"{field} names {chosen[0]} twice; name another or one only")
            if metric in self.metrics and (len(chosen) < 2 or selecting):
                raise ValueError(f"metric {metric} needs a second name in {field}, and scorers: photographs")
        return self
