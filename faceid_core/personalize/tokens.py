"""IdentityTokens: a person's learned vectors, and their file format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load, save

from faceid_core.config.method import stage_of
from faceid_core.errors import BaseMismatch, FaceidError

from .prompts import PLACEHOLDER

FORMAT = "faceid-identity-tokens"
FORMAT_VERSION = 1
# Version 2 adds mixtures of known names; tokens that are no mixture are written as version 1, which older programs read.
_MIXTURE_VERSION = 2
MIXTURE = "known_names"
NAME_WORDS = 2  # token positions of a known name
_METADATA_KEY = "faceid"


class UnreadableTokens(FaceidError):
    """A file holds no tokens, or its format is not one that this version reads."""


@dataclass(frozen=True)
class IdentityTokens:
    """A person's learned vectors and what is needed to use them.

    What is learned is either vectors at the person's positions, or a mixture of known names: the person's context in any
    prompt is an affine combination of the contexts that the prompt has with each name.

    Attributes:
        tensors: text encoder's name -> float32 [stages, 2 (K, V), vectors, width]; of a mixture, "known_names" ->
            the weights of the names, float32 [stages, 2 (K, V), 1, names].
        base_digest: digest of the base model's weights on which they were learned.
        class_word: what the person is, for instance "person"; it stands in the prompt where the person is left out.
        template: training prompt with {} for the person.
        boundaries: the training timesteps at which stages 2, 3, ... begin.
        training_timesteps: number of training timesteps of the base model.
        prediction_type: what the base model predicts: epsilon, v_prediction or sample.
        photo_digest: sha256 of the photo.
        method: the method's fields.
        names: of a mixture, the known names, two words each; else empty.
    """

    tensors: Mapping[str, torch.Tensor]
    base_digest: str
    class_word: str
    template: str
    boundaries: tuple[int, ...]
    training_timesteps: int
    prediction_type: str
    photo_digest: str
    method: Mapping[str, Any] = field(default_factory=dict)
    placeholder: str = PLACEHOLDER
    names: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.tensors:
            raise UnreadableTokens("the tokens hold no tensor; personalize the person again")
        if self.is_mixture and set(self.tensors) != {MIXTURE}:
            raise UnreadableTokens("the tokens are a mixture of known names and hold other tensors; personalize again")
        if self.is_mixture and self.tensors[MIXTURE].shape[-1] != len(self.names):
            raise UnreadableTokens(
                f"the tokens have weights of {self.tensors[MIXTURE].shape[-1]} names and name {len(self.names)}; "
                "personalize the person again"
            )
        for name, tensor in self.tensors.items():
            expected = (self.stages, 2, 1 if self.is_mixture else self.vectors)
            if tensor.ndim != 4 or tuple(tensor.shape[:3]) != expected or tensor.dtype != torch.float32:
                raise UnreadableTokens(
                    f"tensor {name!r} is {tensor.dtype} {list(tensor.shape)}, "
                    f"expected float32 {[*expected, 'any']}"
                )

    @property
    def stages(self) -> int:
        """Number of timestep stages."""
        return len(self.boundaries) + 1

    @property
    def vectors(self) -> int:
        """Number of token positions that the person takes."""
        if self.is_mixture:
            return NAME_WORDS
        return next(iter(self.tensors.values())).shape[2]

    @property
    def is_mixture(self) -> bool:
        """Whether the person is a mixture of known names, and not vectors."""
        return MIXTURE in self.tensors

    def stage_of(self, timestep: float) -> int:
        """The stage, from 0, of a training timestep."""
        return stage_of(timestep, self.boundaries)

    def require_base(self, digest: str) -> None:
        """Refuse another base model than the one on which the tokens were learned.

        Raises:
            BaseMismatch: the digests differ.
        """
        if digest != self.base_digest:
            raise BaseMismatch(
                f"the tokens were learned on base model {self.base_digest[:12] or '(unnamed)'}, this one is "
                f"{digest[:12] or '(unnamed)'}; load that base model, or personalize the person on this one"
            )

    def to_bytes(self) -> bytes:
        """The tokens as a safetensors file; the same tokens always give the same bytes."""
        fields = {
            "format": FORMAT,
            "format_version": _MIXTURE_VERSION if self.is_mixture else FORMAT_VERSION,
            "base_digest": self.base_digest,
            "placeholder": self.placeholder,
            "class_word": self.class_word,
            "template": self.template,
            "boundaries": list(self.boundaries),
            "training_timesteps": self.training_timesteps,
            "prediction_type": self.prediction_type,
            "photo_digest": self.photo_digest,
            "method": dict(self.method),
        }
        if self.is_mixture:
            fields["names"] = list(self.names)
        # One metadata entry with sorted JSON: safetensors writes several entries in no fixed order.
        metadata = {_METADATA_KEY: json.dumps(fields, sort_keys=True, separators=(",", ":"))}
        tensors = {name: self.tensors[name].detach().cpu().contiguous() for name in sorted(self.tensors)}
        return save(tensors, metadata=metadata)

    @classmethod
    def from_bytes(cls, data: bytes) -> IdentityTokens:
        """Read what `to_bytes` wrote.

        Raises:
            UnreadableTokens: not such a file, or of another format version.
        """
        fields = _read_fields(data)
        version = fields.get("format_version")
        if fields.get("format") != FORMAT or version not in (FORMAT_VERSION, _MIXTURE_VERSION):
            raise UnreadableTokens(
                f"the file has format {fields.get('format')!r} version {version!r}, this program reads "
                f"{FORMAT!r} versions {FORMAT_VERSION} and {_MIXTURE_VERSION}; personalize the person again"
            )
        try:
            return cls(
                tensors=load(data),
                boundaries=tuple(int(boundary) for boundary in fields.pop("boundaries")),
                names=tuple(str(name) for name in fields.pop("names", ())),
                **{key: value for key, value in fields.items() if key not in ("format", "format_version")},
            )
        except UnreadableTokens:
            raise
        except Exception as error:
            raise UnreadableTokens(f"the tokens file is damaged: {error}") from error


def _read_fields(data: bytes) -> dict[str, Any]:
    """The metadata of a safetensors file that holds tokens."""
    length = int.from_bytes(data[:8], "little")
    try:
        if len(data) < 8 or length > len(data) - 8:
            raise ValueError("the header is longer than the file")
        fields = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_METADATA_KEY])
        if not isinstance(fields, dict):
            raise ValueError("the metadata is not a mapping")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnreadableTokens(
            "the file holds no identity tokens (a safetensors file written by this program was expected); "
            f"detail: {type(error).__name__}: {error}"
        ) from error
    return fields
