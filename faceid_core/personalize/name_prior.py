"""The name prior: what a base model's known people teach of a new one.

A text encoder's output is nearly linear in identity: the contexts of known names span a space in which a new person is
an affine combination of known ones. The base model draws portraits of its own names and of random mixtures of them,
whose coefficients of the principal components of the names' contexts are known; a ridge regression from the portraits'
latents to the coefficients then expects a person's from one photo, with the error of its cross-validation as deviation.
Training starts there and is held there by a Gaussian prior.

Needs no face recognizer, no further network and no picture but those that the model draws itself. Reconstruction:
neither the paper nor its relatives have this.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from faceid_core.diffusion.base import BaseModel
from faceid_core.errors import ConfigurationError, FaceidError

from .conditioning import name_contexts
from .prompts import training_prompt

_FORMAT = "faceid-name-prior-1"
_METADATA_KEY = "faceid"
_FOLDS = 8
# Directions of the latents in which portraits differ most, to which the regression is confined.
_MOST_DIRECTIONS = 1024
# Ridge penalties that cross-validation chooses from, as shares of the features' mean variance times their number.
_RIDGES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)
# Variance of a name's portraits between names over that within, below which the model does not know it. Chance has 1 in
# the mean and with three portraits 1.5 in one of twenty cases; of the miniature's names one in twenty has less than 1.6.
_LEAST_ALIKE = 1.6


class UnreadablePrior(FaceidError):
    """A file holds no name prior, or one of another format."""


@dataclass(frozen=True)
class NamePrior:
    """Basis, regression and deviation of the known names of one base model.

    Attributes:
        names: the known names.
        basis: float32 [components, names], each component as weights of the names, which sum to 0; a coefficient of 1 is
            one standard deviation among the names.
        slope: float32 [features, components] and offset: float32 [components], the regression from a portrait's latents.
        deviation: float32 [components], the regression's cross-validated error.
        explained: float32 [components], the cross-validated share of variance that the regression explains.
        left_out: how many names take no part: they are not two tokens long, or the model does not draw them alike from
            seed to seed.
    """

    names: tuple[str, ...]
    basis: torch.Tensor
    slope: torch.Tensor
    offset: torch.Tensor
    deviation: torch.Tensor
    explained: torch.Tensor
    left_out: int = 0

    def expected(self, latents: torch.Tensor) -> torch.Tensor:
        """The coefficients expected of a portrait, float32 [components], the mean over its views.

        Args:
            latents: [views, c, side, side], for instance the photo and its mirror image.
        """
        features = latents.flatten(1).float().mean(dim=0)
        return features @ self.slope + self.offset

    def to(self, device: torch.device) -> NamePrior:
        """The prior with its tensors on a device."""
        tensors = {name: getattr(self, name).to(device) for name in _TENSORS}
        return NamePrior(names=self.names, left_out=self.left_out, **tensors)

    def to_bytes(self) -> bytes:
        """The prior as a safetensors file; the same prior always gives the same bytes."""
        fields = {"format": _FORMAT, "names": list(self.names), "left_out": self.left_out}
        metadata = {_METADATA_KEY: json.dumps(fields, sort_keys=True, separators=(",", ":"))}
        return save({name: getattr(self, name).cpu().contiguous() for name in _TENSORS}, metadata)

    @classmethod
    def from_bytes(cls, data: bytes) -> NamePrior:
        """Read what `to_bytes` wrote.

        Raises:
            UnreadablePrior: not such a file.
        """
        try:
            length = int.from_bytes(data[:8], "little")
            fields = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_METADATA_KEY])
            if fields["format"] != _FORMAT:
                raise ValueError(f"format {fields['format']!r}")
            tensors = load(data)
            return cls(
                names=tuple(fields["names"]),
                left_out=int(fields["left_out"]),
                **{name: tensors[name] for name in _TENSORS},
            )
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UnreadablePrior(f"the name prior cannot be read: {type(error).__name__}: {error}") from None


_TENSORS = ("basis", "slope", "offset", "deviation", "explained")


@dataclass(frozen=True)
class Teachers:
    """Portraits of people whose coefficients are known, in rows.

    Attributes:
        latents: float32 [rows, c, side, side], the autoencoder's latents of the portraits.
        coefficients: float64 [rows, components].
        people: int64 [rows], a number for each person; what is learned is validated on other people.
        plain: bool [rows], whether a portrait is as it was drawn; a moved copy only teaches.
    """

    latents: torch.Tensor
    coefficients: np.ndarray
    people: np.ndarray
    plain: np.ndarray


def fit_name_prior(
    names: Sequence[str], basis: np.ndarray, teachers: Teachers, *, left_out: int = 0
) -> NamePrior:
    """Fit regression and deviation.

    Args:
        names: known names.
        basis: float64 [components, names], of `name_components`.
        teachers: at least as many people as the folds of the cross-validation.
        left_out: how many names take no part.
    """
    features = teachers.latents.flatten(1).double().cpu().numpy()
    wanted = teachers.coefficients
    slope, offset, predicted = _cross_validated_ridge(features, wanted, teachers.people, teachers.plain)
    truth = wanted[teachers.plain]
    error = ((predicted - truth) ** 2).mean(axis=0)  # [components]
    return NamePrior(
        names=tuple(names),
        basis=torch.from_numpy(basis).float(),
        slope=torch.from_numpy(slope).float(),
        offset=torch.from_numpy(offset).float(),
        deviation=torch.from_numpy(np.sqrt(error)).float(),
        explained=torch.from_numpy(1 - error / truth.var(axis=0)).float(),
        left_out=left_out,
    )


def require_known(kept: torch.Tensor) -> None:
    """Refuse a prior of too few names.

    Args:
        kept: bool [names], of `drawn_alike`.

    Raises:
        ConfigurationError: the model draws too few of the names alike from seed to seed.
    """
    if int(kept.sum()) <= _FOLDS:
        raise ConfigurationError(
            f"the base model draws {int(kept.sum())} of {len(kept)} known names alike from seed to seed, too few for a "
            "prior; give names that it knows, or a parametrization other than name_mixture"
        )


def drawn_alike(latents: torch.Tensor) -> torch.Tensor:
    """Which names the model draws alike from seed to seed, bool [names].

    What all names share at a seed (framing, light) is taken off. A name counts as known if its portraits' mean is then
    further from nothing than chance would have it: as in an analysis of variance, the variance between names is compared
    with the name's own from seed to seed, in autoencoder space. No scorer takes part.

    Args:
        latents: [names, portraits, c, side, side]; with one portrait a name all are kept.
    """
    names, portraits = latents.shape[:2]
    if portraits < 2:
        return torch.ones(names, dtype=torch.bool)
    flat = latents.flatten(2).double().cpu()
    own = flat - flat.mean(dim=0)  # [names, portraits, features]
    means = own.mean(dim=1)  # [names, features]
    within = (own - means[:, None]).square().sum(dim=(1, 2)) / (portraits - 1)  # [names]
    between = portraits * means.square().sum(dim=1)  # [names]; where there is no identity, as large as `within`
    return between > _LEAST_ALIKE * within


@torch.no_grad()
def name_components(
    base: BaseModel, names: Sequence[str], template: str, components: int
) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of the names' contexts as weights of the names, and each name's coefficients of them.

    Args:
        names: known names, two tokens each.
        template: training prompt with {} for the person, whose contexts are taken.
        components: fewer where the names span fewer.

    Returns:
        float64 [components, names] and [names, components].
    """
    states = name_contexts(base, training_prompt(template), names).states
    flat = states.flatten(1).double().cpu()
    left, lengths, _ = torch.linalg.svd(flat - flat.mean(dim=0), full_matrices=False)
    size = min(components, int((lengths > 1e-5 * lengths[0]).sum()))
    scale = (len(names) - 1) ** 0.5
    return (left[:, :size].T / scale).numpy(), (left[:, :size] * scale).numpy()


def _cross_validated_ridge(
    features: np.ndarray, targets: np.ndarray, people: np.ndarray, plain: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ridge regression whose penalty has the least cross-validated error, folds over people.

    Args:
        features: [rows, features].
        targets: [rows, components].
        people: [rows], a number for each person.
        plain: bool [rows], the rows on which the error is measured.

    Returns:
        slope [features, components], offset [components], held-out predictions [plain rows, components].
    """
    center = features.mean(axis=0)
    centered = features - center
    directions = _directions(centered)
    rotated = centered @ directions
    folds = people % _FOLDS
    predicted = np.zeros((len(_RIDGES), *targets.shape))
    for fold in range(_FOLDS):
        held = (folds == fold) & plain
        equations = _Equations.of(rotated[folds != fold], targets[folds != fold])
        for found, ridge in zip(predicted, _RIDGES, strict=True):
            slope, offset = equations.solved(ridge)
            found[held] = rotated[held] @ slope + offset
    predicted = predicted[:, plain]
    best = int(((predicted - targets[plain]) ** 2).mean(axis=(1, 2)).argmin())
    slope, offset = _Equations.of(rotated, targets).solved(_RIDGES[best])
    slope = directions @ slope
    return slope, offset - center @ slope, predicted[best]


def _directions(rows: np.ndarray) -> np.ndarray:
    """The directions [features, at most 1,024] in which centered rows [rows, features] differ most."""
    is_wide = len(rows) < rows.shape[1]
    # The smaller of the two matrices has the same variances.
    variances, vectors = np.linalg.eigh(rows @ rows.T if is_wide else rows.T @ rows)
    order = np.argsort(variances)[::-1][:_MOST_DIRECTIONS]
    order = order[variances[order] > 1e-9 * variances.max()]
    found = vectors[:, order]
    return rows.T @ found / np.sqrt(variances[order]) if is_wide else found


class _Equations(NamedTuple):
    """The normal equations of a regression, which are the same for every ridge penalty.

    Attributes:
        center: [features] and middle: [components], the means of rows and targets.
        gram: [features, features], of the centered rows.
        moments: [features, components], of the centered rows with the targets.
    """

    center: np.ndarray
    middle: np.ndarray
    gram: np.ndarray
    moments: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, wanted: np.ndarray) -> _Equations:
        """The equations of rows [rows, features] and targets [rows, components]."""
        center, middle = rows.mean(axis=0), wanted.mean(axis=0)
        rows = rows - center
        return cls(center, middle, rows.T @ rows, rows.T @ (wanted - middle))

    def solved(self, ridge: float) -> tuple[np.ndarray, np.ndarray]:
        """Slope [features, components] and offset [components].

        Args:
            ridge: penalty as a share of the features' mean variance times their number, which the trace is.
        """
        penalty = ridge * np.trace(self.gram) * np.eye(len(self.gram))
        slope = np.linalg.solve(self.gram + penalty, self.moments)
        return slope, self.middle - self.center @ slope
