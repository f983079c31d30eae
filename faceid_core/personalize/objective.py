"""The objective of a step: L_diffusion and L_attention of every seat, in one pass of a fixed shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from faceid_core.diffusion.base import BaseModel

from .attention import StagedUNet, picture_sizes
from .conditioning import encode_vectors, person_positions, start_vectors, tokenize
from .contexts import Contexts
from .losses import diffusion_loss, noised, prediction_target
from .method import Method
from .observers import Comparison, MaskComparison, Projections
from .prompts import training_prompt
from .random import normal
from .slots import Samples, Slot, allowed_range, distinct_stages, draw_samples
from .stages import stage_boundaries, stage_of

Seats = Sequence[Slot | None]
_PROBES = 10


@dataclass(frozen=True)
class _Batch:
    """All samples of a step, n = slots * m, in the order of the seats.

    Attributes:
        x0, noise: [n, c, side, side]. weight, mask: [n, side, side]. timesteps: int64 [n], on the CPU.
        projections: of the contexts; rows: int64 [n], each sample's.
        sizes: int64 [n, 6], picture sizes. reference_rows: int64 [n], each sample's reference prompt.
    """

    x0: torch.Tensor
    noise: torch.Tensor
    weight: torch.Tensor
    timesteps: torch.Tensor
    mask: torch.Tensor
    projections: Projections
    rows: torch.Tensor
    sizes: torch.Tensor
    reference_rows: torch.Tensor


class Objective:
    """What all slots share: the network, the tokenized training prompt, the class words' reference contexts.

    Attributes:
        prompts: text encoder -> the tokenized training prompt.
        positions: int64 [vectors], the person's positions in the context.
        boundaries: the training timesteps at which stages 2, 3, ... begin.
    """

    def __init__(self, base: BaseModel, method: Method, seed: int, samples_at_once: int = 0):
        self.base, self.method, self.seed = base, method, seed
        self.samples_at_once = samples_at_once
        self.staged = StagedUNet.of(base)
        self.boundaries = stage_boundaries(
            method.stages, base.description.training_timesteps, method.boundaries
        )
        prompt = training_prompt(method.template)
        self.prompts = {name: tokenize(tower, prompt, method.vectors) for name, tower in base.towers.items()}
        self.positions = person_positions(self.prompts)
        self._distinct = min(method.samples_per_step, method.stages)
        # The reference prompt's keys, layer -> [class words met, heads, length, d], and each class word's row.
        self._reference_keys: dict[str, torch.Tensor] = {}
        self._reference_rows: dict[str, int] = {}

    def contexts(self, vectors: Mapping[str, torch.Tensor]) -> Contexts:
        """Contexts of the training prompt.

        Args:
            vectors: text encoder -> [n, sides, vectors, width].

        Returns:
            [n, sides, length, context width].
        """
        flat = {name: each.flatten(0, 1) for name, each in vectors.items()}
        return encode_vectors(self.base, self.prompts, flat).unflatten(-1, self.method.sides)

    @torch.no_grad()
    def reference(self, class_word: str, starts: Mapping[str, torch.Tensor]) -> int:
        """The row of the reference prompt's keys, which is encoded and projected once for each class word.

        Args:
            starts: text encoder -> float32 [vectors, width]; stands in the prompt where the method says so.
        """
        if class_word not in self._reference_rows:
            vectors = {
                name: start_vectors(tower, class_word, self.method.vectors)[None]
                if self.method.reference_subject == "class_word"
                else starts[name][None]
                for name, tower in self.base.towers.items()
            }
            states = encode_vectors(self.base, self.prompts, vectors).states  # [1, length, context width]
            for name, layer in self.staged.project(states, states).layers.items():
                known = self._reference_keys.get(name)
                self._reference_keys[name] = layer.keys if known is None else torch.cat([known, layer.keys])
            self._reference_rows[class_word] = len(self._reference_rows)
        return self._reference_rows[class_word]

    def leaves(self, seats: Seats) -> dict[str, torch.Tensor]:
        """Everybody's vectors as one leaf per text encoder: [slots, stages, sides, vectors, width]."""
        method = self.method
        leaves = {}
        for name, tower in self.base.towers.items():
            empty = torch.zeros(
                method.stages, method.sides, method.vectors, tower.width, device=self.base.device
            )
            everyone = [slot.learned[name].vectors().detach() if slot else empty for slot in seats]
            leaves[name] = torch.stack(everyone).requires_grad_()
        return leaves

    def losses(self, seats: Seats, leaves: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """L_diffusion and L_attention of every seat, [slots] each; those of empty seats mean nothing."""
        device, count = self.base.device, self.method.samples_per_step
        samples = self._samples(seats)
        picked, places = zip(*(distinct_stages(each.stages, self._distinct) for each in samples), strict=True)
        batch = _Batch(
            x0=torch.cat([each.x0 for each in samples]).to(device),
            noise=torch.cat([each.noise for each in samples]).to(device),
            weight=torch.cat([each.weight for each in samples]).to(device),
            timesteps=torch.cat([each.timesteps for each in samples]),
            mask=torch.cat([each.mask for each in samples]).to(device),
            projections=self._project(leaves, torch.stack(picked).to(device)),
            # Each sample's context among the slots * distinct projected ones.
            rows=torch.cat([place * self._distinct + where for place, where in enumerate(places)]).to(device),
            sizes=self._sizes(seats).repeat_interleave(count, dim=0),
            reference_rows=torch.tensor(
                [slot.reference if slot else 0 for slot in seats], device=device
            ).repeat_interleave(count),
        )
        total = len(batch.rows)
        size = self.samples_at_once or total
        if size >= total:
            parts = [self._sample_losses(batch, slice(0, total))]
        else:
            # Each part's activations are computed again when its gradient is due, so that one part's are in memory.
            parts = [
                checkpoint(
                    self._sample_losses, batch, slice(first, first + size),
                    use_reentrant=False, preserve_rng_state=False,
                )
                for first in range(0, total, size)
            ]  # fmt: skip
        diffusion, attention = (
            torch.cat(each).unflatten(0, (-1, count)) for each in zip(*parts, strict=True)
        )
        return diffusion.mean(dim=1), attention.mean(dim=1)

    def _sample_losses(self, batch: _Batch, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """L_diffusion and L_attention of some samples, [part] each."""
        base, device = self.base, self.base.device
        x0, noise, timesteps = batch.x0[part], batch.noise[part], batch.timesteps[part]
        alpha_bar = base.alphas_cumprod[timesteps].to(device)
        comparison = self._comparison(batch, part)
        prediction = self.staged.predict(
            noised(x0, noise, alpha_bar).to(base.dtype),
            timesteps.to(device),
            batch.projections,
            batch.rows[part],
            observers=(comparison,) if comparison else (),
            sizes=batch.sizes[part],
        )
        target = prediction_target(x0, noise, alpha_bar, base.description.prediction_type)
        loss_diffusion = diffusion_loss(prediction, target, batch.weight[part])
        return loss_diffusion, comparison.loss() if comparison else torch.zeros_like(loss_diffusion)

    @torch.no_grad()
    def photo_loss(self, slot: Slot) -> float:
        """L_diffusion of the photo on noise and timesteps that never change, evenly over the trained timesteps.

        A criterion for stopping: it asks no scorer, and by itself, so that it depends on nobody else.
        """
        base, count, photo = self.base, _PROBES, slot.photo.photo_digest
        low, high = allowed_range(self.method, base.description.training_timesteps)
        timesteps = low + ((torch.arange(count) + 0.5) * (high - low) / count).long()
        noise = torch.stack(
            [normal(base.description.latent_shape, photo, "plateau", at) for at in range(count)]
        )
        noise, x0 = noise.to(base.device), slot.latents[:1].expand(count, -1, -1, -1)
        alpha_bar = base.alphas_cumprod[timesteps].to(base.device)
        contexts = self.contexts(slot.vectors())
        prediction = self.staged.predict(
            noised(x0, noise, alpha_bar).to(base.dtype),
            timesteps.to(base.device),
            self.staged.project_sides(contexts),
            torch.tensor([stage_of(int(t), self.boundaries) for t in timesteps], device=base.device),
            sizes=self._sizes([slot]).expand(count, -1),
        )
        target = prediction_target(x0, noise, alpha_bar, base.description.prediction_type)
        return float(diffusion_loss(prediction, target, slot.weights[:1]).mean())

    def _samples(self, seats: Seats) -> list[Samples]:
        """The samples of every seat; an empty one gets zeros."""
        count, shape = self.method.samples_per_step, self.base.description.latent_shape
        nothing = torch.zeros(count, *shape)
        dummy = Samples(
            x0=nothing.to(self.base.device),
            weight=torch.ones(count, *shape[1:], device=self.base.device),
            mask=torch.ones(count, *shape[1:], device=self.base.device),
            noise=nothing,
            timesteps=torch.zeros(count, dtype=torch.int64),
            stages=torch.zeros(count, dtype=torch.int64),
        )
        return [
            draw_samples(slot, self.base, self.method, self.boundaries, self.seed) if slot else dummy
            for slot in seats
        ]

    def _sizes(self, seats: Seats) -> torch.Tensor:
        """Each seat's photo sizes for models that read them, int64 [slots, 6]."""
        resolution = self.base.description.resolution
        originals = [slot.photo.original_pixels if slot else 0 for slot in seats]
        return torch.tensor([picture_sizes(resolution, original or None) for original in originals])

    def _project(self, leaves: Mapping[str, torch.Tensor], picked: torch.Tensor) -> Projections:
        """Keys and values of the contexts that the step needs.

        Args:
            leaves: text encoder -> [slots, stages, sides, vectors, width].
            picked: int64 [slots, distinct], the stages needed.

        Returns:
            The projection of slots * distinct contexts.
        """
        seat = torch.arange(len(picked), device=picked.device)[:, None]
        # [slots, distinct, sides, vectors, width] to [slots * distinct, sides, vectors, width]
        contexts = self.contexts({name: leaf[seat, picked].flatten(0, 1) for name, leaf in leaves.items()})
        return self.staged.project_sides(contexts)

    def _comparison(self, batch: _Batch, part: slice) -> Comparison | MaskComparison | None:
        """What the attention loss of some samples needs."""
        method = self.method
        if not method.compares_attention:
            return None
        person = self.positions.to(self.base.device)
        if method.attention_target == "mask":
            return MaskComparison(
                batch.mask[part], person, method.attention_resolutions, method.attention_layers
            )
        return Comparison(
            keys=self._reference_keys,
            rows=batch.reference_rows[part],
            columns=person if method.tokens_compared == "placeholder" else None,
            reduction=method.attention_reduction,
            largest_side=method.attention_resolutions,
            parts=method.attention_layers,
            space=method.attention_space,
            mask=batch.mask[part] if method.attention_target == "reference_in_mask" else None,
            person=person,
        )
