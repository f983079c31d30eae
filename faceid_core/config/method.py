"""Method: every choice of the personalization method as one frozen, validated value, and its timestep stages.

It imports no model library: the command line and the form show the same descriptions. `source` in a field's schema
says where its default comes from: the paper, a relative's public code, or our reconstruction.

Stages cut the diffusion timesteps into consecutive pieces, each with its own vectors. They are numbered from 0 (least
noise) in code; the paper's i is that number plus one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from faceid_core.errors import ConfigurationError

PAPER, RELATIVE, RECONSTRUCTION = "paper", "relative", "reconstruction"


def _choice(default: Any, description: str, source: str, **limits: Any) -> Any:
    suffix = " (Reconstruction.)" if source == RECONSTRUCTION else ""
    return Field(default, description=description + suffix, json_schema_extra={"source": source}, **limits)


class Method(BaseModel):
    """How a person's tokens are learned. The defaults are the preset `semantic-fidelity-as-published`.

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
    parametrization: Literal["free", "block", "name_basis", "name_mixture"] = _choice(
        "free",
        "What is learned: the vectors themselves, a small transformer block that makes them from the initial "
        "embedding, coefficients of the principal components of known names' embeddings, or a mixture of known names "
        "(an affine combination of their contexts) with a prior from portraits that the base model draws of them.",
        RECONSTRUCTION,
    )
    initial_embedding: Literal["class_word", "mean_name", "encoder_output"] = _choice(
        "class_word",
        "Where the vectors begin: the class word, the mean of known names, or the text encoder's output for that mean.",
        RELATIVE,
    )
    shared_vector: bool = _choice(
        False,
        "Learn a part that all stages, keys and values share, beside each one's own part.",
        RECONSTRUCTION,
    )
    stage_learning_rate_ratio: float = _choice(
        1.0,
        "Learning rate of each stage's own parts (K and V), as a share of the shared part's; counts with shared_vector.",
        RECONSTRUCTION,
        gt=0.0,
        le=1.0,
    )
    vector_length: Literal["free", "bounded", "fixed"] = _choice(
        "free",
        "Length of each vector: free, at most that of the vocabulary's longest, or fixed to the vocabulary's mean.",
        RELATIVE,
    )
    direction_prior: float = _choice(
        0.0,
        "Weight of a von Mises-Fisher prior, which draws each vector's direction to the initial embedding's.",
        RELATIVE,
        ge=0.0,
        le=100.0,
    )
    initial_embedding_penalty: float = _choice(
        0.0, "Weight of the squared distance from the initial embedding.", RELATIVE, ge=0.0, le=100.0
    )
    known_names: Literal["auto", "miniature", "public_figures"] = _choice(
        "auto",
        "Names that the base model knows, for initial embeddings and the name basis; auto picks by base model.",
        RELATIVE,
    )
    basis_size: int = _choice(
        48,
        "Principal components of the name basis at each token position, if the names span so many.",
        RELATIVE,
        ge=1,
        le=2048,
    )
    prior_weight: float = _choice(
        0.003,
        "Weight of the name prior: of half the squared distance from what it expects of the photo, in its deviations; "
        "counts with name_mixture.",
        RECONSTRUCTION,
        ge=0.0,
        le=100.0,
    )
    prior_stage_deviation: float = _choice(
        0.3,
        "Deviation of each stage's own parts (K and V), in the name prior's deviations; counts with name_mixture and "
        "shared_vector.",
        RECONSTRUCTION,
        gt=0.0,
        le=10.0,
    )
    prior_portraits: int = _choice(
        4,
        "Portraits that the base model draws for the prior, as a multiple of the known names: up to three of each, the "
        "others of mixtures of names.",
        RECONSTRUCTION,
        ge=1,
        le=64,
    )
    template: str = _choice("a photo of the face of {}", "Training prompt; {} stands for the person.", PAPER)
    attention_target: Literal["none", "reference", "mask", "reference_in_mask"] = _choice(
        "reference",
        "What the attention maps are held to: nothing, those of the reference prompt (see reference_subject), the "
        "face mask, or the reference prompt's with the person's own confined to the face.",
        PAPER,
    )
    reference_subject: Literal["class_word", "initial_embedding"] = _choice(
        "class_word",
        "Who stands in the reference prompt: the class word, or the initial embedding (such as the mean name).",
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
    attention_space: Literal["post_softmax", "pre_softmax"] = _choice(
        "post_softmax", "Compare attention maps, or the scores before their softmax.", RECONSTRUCTION
    )
    attention_layers: tuple[Literal["down", "mid", "up"], ...] = _choice(
        ("down", "mid", "up"), "Parts of the U-Net whose maps are compared.", RECONSTRUCTION, min_length=1
    )
    attention_max_resolution: int = _choice(
        32, "Largest side of the attention maps compared, in cells.", RECONSTRUCTION, ge=1, le=256
    )
    attention_weight: float = _choice(
        0.003, "Lambda, the weight of the attention loss.", PAPER, ge=0.0, le=100.0
    )
    masked_loss: bool = _choice(
        False, "Restrict the diffusion loss to the face mask and divide by its area.", RECONSTRUCTION
    )
    optimizer: Literal["adamw", "riemannian"] = _choice(
        "adamw",
        "AdamW; or Riemannian descent: directions of free vectors of fixed length move by steps of one length.",
        RELATIVE,
    )
    learning_rate: float = _choice(
        1.0,
        "Learning rate. Of free vectors in units of the spread of the base model's token embeddings, so that it carries "
        "over to another model; of coefficients and of a block's weights as it is; of riemannian steps in radians.",
        RECONSTRUCTION,
        gt=0.0,
        le=250.0,
    )
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
    steps: int = _choice(100, "Optimizer steps for each person.", RECONSTRUCTION, ge=1, le=100_000)
    samples_per_step: int = _choice(
        10, "Noised copies of the photo in each step.", RECONSTRUCTION, ge=1, le=256
    )
    timestep_sampling: Literal["stratified", "uniform"] = _choice(
        "stratified", "Give every stage the same number of samples, or draw timesteps evenly.", RECONSTRUCTION
    )
    timestep_range: tuple[float, float] = _choice(
        (0.0, 1.0), "Timesteps trained on, as shares of all: from, to.", RECONSTRUCTION
    )
    flip_probability: float = _choice(
        0.5, "Share of samples that see the photo mirrored.", RELATIVE, ge=0.0, le=1.0
    )
    patience: int = _choice(
        0,
        "Stop a person early when so many steps have not lowered the photo's own diffusion loss, taken on fixed "
        "noise; 0 never stops early.",
        RECONSTRUCTION,
        ge=0,
        le=100_000,
    )
    patience_tolerance: float = _choice(
        0.002, "Share by which that loss must fall to count as lower.", RECONSTRUCTION, ge=0.0, lt=1.0
    )

    @field_validator("template")
    @classmethod
    def _one_person(cls, value: str) -> str:
        if value.count("{}") != 1 or "V*" in value:
            raise ValueError(
                f"template {value!r} must hold {{}} exactly once, where the person belongs, and no V*"
            )
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.boundaries is not None:
            rising = all(a < b for a, b in pairwise((0, *self.boundaries)))
            if len(self.boundaries) != self.stages - 1 or not rising:
                raise ValueError(
                    f"boundaries {list(self.boundaries)} must be {self.stages - 1} rising timesteps "
                    f"for {self.stages} stages"
                )
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be less than steps {self.steps}")
        low, high = self.timestep_range
        if not 0 <= low < high <= 1:
            raise ValueError(f"timestep_range {low} to {high} must rise within 0 to 1")
        if self.attention_target in ("mask", "reference_in_mask") and self.attention_space != "post_softmax":
            raise ValueError(f"attention_target {self.attention_target} needs attention_space post_softmax")
        if self.parametrization == "block" and self.shared_vector:
            raise ValueError(
                "parametrization block makes all vectors from one embedding already: shared_vector must be off"
            )
        if self.optimizer == "riemannian" and (
            (self.parametrization, self.vector_length) != ("free", "fixed") or self.shared_vector
        ):
            raise ValueError(
                "optimizer riemannian moves directions: set parametrization to free, vector_length to fixed and "
                "shared_vector to off"
            )
        if self.parametrization in ("name_basis", "name_mixture") and self.initial_embedding != "mean_name":
            raise ValueError(
                f"parametrization {self.parametrization} begins at the mean: set initial_embedding to mean_name"
            )
        if self.parametrization == "name_mixture" and (self.vectors, self.vector_length) != (2, "free"):
            raise ValueError(
                "parametrization name_mixture stands where a name of two words would and has no vectors of its own: set "
                "vectors to 2 and vector_length to free"
            )
        return self

    @model_validator(mode="after")
    def _holds_vectors_that_there_are(self) -> Self:
        held = [name for name in ("direction_prior", "initial_embedding_penalty") if getattr(self, name)]
        if held and self.parametrization == "name_mixture":
            raise ValueError(
                f"{held[0]} holds vectors, and parametrization name_mixture has none; leave it at 0 (prior_weight holds "
                "a mixture)"
            )
        return self

    @property
    def kv_count(self) -> int:
        """Sets of vectors per stage: 2 (K and V), or 1 that serves both."""
        return 2 if self.kv_split else 1

    @property
    def needs_prior(self) -> bool:
        """Whether the method learns from the name prior of the base model."""
        return self.parametrization == "name_mixture"

    @property
    def compares_attention(self) -> bool:
        """Whether the attention loss is part of the objective."""
        return self.attention_target != "none"


def stage_boundaries(stages: int, timesteps: int, chosen: Sequence[int] | None = None) -> tuple[int, ...]:
    """The timesteps at which a new stage begins.

    Args:
        stages: number of stages.
        timesteps: number of training timesteps T of the base model.
        chosen: boundaries from the configuration; None cuts evenly, i = floor(stages * t / T).

    Returns:
        The stages - 1 inner boundaries, rising: stage s holds boundaries[s-1] <= t < boundaries[s].

    Raises:
        ConfigurationError: the chosen boundaries do not fit.

    Source: five stages, paper abstract; even cuts, reconstruction.
    """
    if chosen is None:
        if stages > timesteps:
            raise ConfigurationError(f"{stages} stages do not fit into {timesteps} training timesteps")
        return tuple(-(-stage * timesteps // stages) for stage in range(1, stages))
    inner = tuple(chosen)
    edges = (0, *inner, timesteps)
    if len(inner) != stages - 1 or any(low >= high for low, high in pairwise(edges)):
        raise ConfigurationError(
            f"boundaries {list(inner)} do not cut {timesteps} timesteps into {stages} stages; "
            f"give {stages - 1} rising numbers from 1 to {timesteps - 1}, or leave them out for even stages"
        )
    return inner


def stage_of(timestep: float, boundaries: Sequence[int]) -> int:
    """The stage, from 0, that a training timestep belongs to; samplers may ask for fractions."""
    return bisect_right(boundaries, timestep)


def stage_range(stage: int, boundaries: Sequence[int], timesteps: int) -> tuple[int, int]:
    """The half-open range of training timesteps of a stage."""
    edges = (0, *boundaries, timesteps)
    return edges[stage], edges[stage + 1]
