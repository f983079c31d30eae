"""Method: every choice of the personalisation method as one frozen, validated value.

It imports no model library: command line and form show the same descriptions. `source` in a field's schema
says where its default comes from: the paper, a relative's public code, or our reconstruction.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

PAPER, RELATIVE, RECONSTRUCTION = "paper", "relative", "reconstruction"


def _choice(default: Any, description: str, source: str, **limits: Any) -> Any:
    suffix = " (Reconstruction.)" if source == RECONSTRUCTION else ""
    return Field(default, description=description + suffix, json_schema_extra={"source": source}, **limits)


class Method(BaseModel):
    """How a person's tokens are learned. The defaults are the preset `semantic-fidelity`.

    Source: Beyond Inserting: Learning Identity Embedding for Semantic-Fidelity Personalized Diffusion
    Generation, arXiv 2402.00631; each field names its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: int = _choice(
        5, "Stages that the diffusion timesteps are cut into, each with its own vectors.", PAPER, ge=1, le=50
    )
    boundaries: tuple[int, ...] | None = _choice(
        None, "Training timesteps at which stages 2, 3, ... begin; empty cuts evenly.", RECONSTRUCTION
    )
    kv_split: bool = _choice(True, "Separate vectors for the keys and the values of cross-attention.", PAPER)
    vectors: int = _choice(1, "Token positions that the person takes in a prompt.", PAPER, ge=1, le=8)
    start: Literal["class_word"] = _choice("class_word", "Where the vectors start from.", RELATIVE)
    template: str = _choice("a photo of the face of {}", "Training prompt; {} is the person's place.", PAPER)
    attention_target: Literal["none", "reference"] = _choice(
        "reference",
        "What the attention maps are held to: nothing, or those of the class word's prompt.",
        PAPER,
    )
    tokens_compared: Literal["every", "placeholder"] = _choice(
        "every",
        "Context positions whose attention maps are compared: all of them, or the person's only.",
        RECONSTRUCTION,
    )
    attention_reduction: Literal["sum", "mean"] = _choice(
        "sum",
        "Reduction of squared map differences over pixels and tokens; heads and layers are averaged.",
        RECONSTRUCTION,
    )
    attention_resolutions: int = _choice(
        32, "Largest side of the attention maps compared, in cells.", RECONSTRUCTION, ge=1, le=256
    )
    attention_weight: float = _choice(
        0.003, "Lambda, the weight of the attention loss.", PAPER, ge=0.0, le=100.0
    )
    masked_loss: bool = _choice(
        False, "Restrict the diffusion loss to the face mask and divide by its area.", RECONSTRUCTION
    )
    learning_rate: float = _choice(0.03, "AdamW's learning rate.", RECONSTRUCTION, gt=0.0, le=10.0)
    schedule: Literal["constant", "cosine"] = _choice(
        "constant", "Learning rate after the warm-up: constant, or a cosine down to zero.", RECONSTRUCTION
    )
    warmup_steps: int = _choice(
        0, "Steps over which the learning rate rises from zero.", RECONSTRUCTION, ge=0, le=10_000
    )
    beta1: float = _choice(0.9, "AdamW's decay of the first moment.", RELATIVE, ge=0.0, lt=1.0)
    beta2: float = _choice(0.999, "AdamW's decay of the second moment.", RELATIVE, ge=0.0, lt=1.0)
    weight_decay: float = _choice(0.01, "AdamW's decoupled weight decay.", RELATIVE, ge=0.0, le=1.0)
    gradient_clip: float = _choice(
        1.0, "Largest norm of one person's gradient; 0 leaves it as it is.", RECONSTRUCTION, ge=0.0, le=1e6
    )
    steps: int = _choice(200, "Optimiser steps for each person.", RECONSTRUCTION, ge=1, le=100_000)
    samples_per_step: int = _choice(
        10, "Noised copies of the photo in each step.", RECONSTRUCTION, ge=1, le=256
    )
    stratified: bool = _choice(
        True, "Give every stage the same number of samples, instead of uniform timesteps.", RECONSTRUCTION
    )
    flip_probability: float = _choice(
        0.5, "Share of samples that see the photo mirrored.", RELATIVE, ge=0.0, le=1.0
    )

    @field_validator("template")
    @classmethod
    def _one_place(cls, value: str) -> str:
        if value.count("{}") != 1 or "V*" in value:
            raise ValueError(
                f"template {value!r} must hold {{}} exactly once, where the person belongs, and no V*"
            )
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.boundaries is not None:
            rising = all(a < b for a, b in zip((0, *self.boundaries), self.boundaries, strict=False))
            if len(self.boundaries) != self.stages - 1 or not rising:
                raise ValueError(
                    f"boundaries {list(self.boundaries)} must be {self.stages - 1} rising timesteps "
                    f"for {self.stages} stages"
                )
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be less than steps {self.steps}")
        return self

    @property
    def sides(self) -> int:
        """Number of separate vector sets per stage: 2 (K and V) or 1 (shared)."""
        return 2 if self.kv_split else 1

    @property
    def compares_attention(self) -> bool:
        """Whether the attention loss is part of the objective."""
        return self.attention_target != "none"
