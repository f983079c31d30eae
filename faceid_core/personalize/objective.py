"""The objective of a step, L = L_diffusion + lambda * L_attention, for all slots in one pass of a fixed shape.

First L_diffusion as pure functions in the paper's symbols, then `Objective`, which makes the batch and runs the pass;
L_attention is in `attention_loss.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from faceid_core.config.method import Method, stage_boundaries, stage_of
from faceid_core.diffusion.base import BaseModel

from .attention import AttentionRecorder, ProjectedContexts, Recorder, StagedUNet, picture_sizes
from .attention_loss import MaskAttentionLoss, ReferenceAttentionLoss
from .conditioning import (
    Contexts,
    class_word_embeddings,
    encode_vectors,
    mixed,
    name_contexts,
    person_positions,
    tokenize,
)
from .name_prior import NamePrior
from .prompts import training_prompt
from .seeded_draws import normal
from .slots import Slot, allowed_range, distinct_stages, draw_samples, empty_samples
from .tokens import MIXTURE

Slots = Sequence[Slot | None]  # None is an empty slot
# Timesteps at which the photo's own loss is taken, spread evenly over those that the method trains on.
_PHOTO_LOSS_TIMESTEPS = 10
# Noise levels of the photo's attention maps, as shares of the training timesteps: the same for every method.
_ATTENTION_LEVELS = (0.125, 0.375, 0.625, 0.875)


def noised(x0: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise.

    Args:
        x0, noise: [b, c, h, w].
        alpha_bar: [b], the cumulative product of alphas at each sample's timestep.
    """
    alpha_bar = alpha_bar[:, None, None, None]
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise


def prediction_target(
    x0: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor, prediction_type: str
) -> torch.Tensor:
    """What the U-Net is to predict, [b, c, h, w]: the noise, the velocity, or the clean latent.

    Source: v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0, Salimans and Ho 2022, appendix D.
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return x0
    if prediction_type == "v_prediction":
        alpha_bar = alpha_bar[:, None, None, None]
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0
    raise ValueError(f"prediction type {prediction_type!r} is unknown; use epsilon, v_prediction or sample")


def diffusion_loss(prediction: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """L_diffusion of each sample: the squared error's weighted mean over the latent.

    Args:
        prediction, target: [b, c, h, w].
        weight: [b, h, w], at least 0; all ones is the plain mean, a face mask divides by the face's area.

    Returns:
        float32 [b].

    Source: plain, Rombach et al. 2022; masked and normalized by area, Break-A-Scene, reconstruction here.
    """
    squared = (prediction.float() - target.float()).square().mean(dim=1)  # [b, h, w]
    return (squared * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp_min(1e-6)


@dataclass(frozen=True)
class _Batch:
    """All samples of a step, n = slots * m, slot by slot.

    Attributes:
        x0, noise: [n, c, side, side]. weight, mask: [n, side, side]. timesteps: int64 [n], on the CPU.
        projected: the contexts; rows: int64 [n], each sample's.
        sizes: int64 [n, 6], picture sizes. reference_rows: int64 [n], each sample's reference prompt.
    """

    x0: torch.Tensor
    noise: torch.Tensor
    weight: torch.Tensor
    timesteps: torch.Tensor
    mask: torch.Tensor
    projected: ProjectedContexts
    rows: torch.Tensor
    sizes: torch.Tensor
    reference_rows: torch.Tensor


class Objective:
    """What all slots share: the network, the tokenized training prompt, the reference prompts' keys.

    Attributes:
        prompts: text encoder -> the tokenized training prompt.
        positions: int64 [vectors], the person's positions in the context.
        boundaries: the training timesteps at which stages 2, 3, ... begin.
    """

    def __init__(
        self,
        base: BaseModel,
        method: Method,
        seed: int,
        samples_at_once: int = 0,
        prior: NamePrior | None = None,
    ):
        self.base, self.method, self.seed = base, method, seed
        self.samples_at_once = samples_at_once
        self.staged = StagedUNet.of(base)
        self.boundaries = stage_boundaries(
            method.stages, base.description.training_timesteps, method.boundaries
        )
        prompt = training_prompt(method.template)
        self.prompts = {name: tokenize(tower, prompt, method.vectors) for name, tower in base.towers.items()}
        self.positions = person_positions(self.prompts)
        # The known names' contexts of the training prompt, [names, length, context width], if people are mixtures.
        self._names = name_contexts(base, prompt, prior.names).map(torch.Tensor.float) if prior else None
        # Stages that one person's samples of a step can use: the number of contexts that each slot projects.
        self._distinct = min(method.samples_per_step, method.stages)
        # The reference prompt's keys, layer -> [class words met, heads, length, d], and each class word's row.
        self._reference_keys: dict[str, torch.Tensor] = {}
        self._reference_rows: dict[str, int] = {}

    def leaves(self, slots: Slots) -> dict[str, torch.Tensor]:
        """The vectors of all slots as one leaf per text encoder, [slots, stages, kv, vectors, width].

        Of mixtures the weights of the names, [slots, stages, kv, 1, names].
        """
        method = self.method
        if self._names is None:
            shapes = {name: (method.vectors, tower.width) for name, tower in self.base.towers.items()}
        else:
            shapes = {MIXTURE: (1, len(self._names))}
        leaves = {}
        for name, shape in shapes.items():
            empty = torch.zeros(method.stages, method.kv_count, *shape, device=self.base.device)
            each = [slot.learned[name].vectors().detach() if slot else empty for slot in slots]
            leaves[name] = torch.stack(each).requires_grad_()
        return leaves

    def losses(self, slots: Slots, leaves: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """L_diffusion and L_attention of every slot, [slots] each; those of empty slots mean nothing."""
        batch = self._batch(slots, leaves)
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
            torch.cat(each).unflatten(0, (-1, self.method.samples_per_step))  # [slots, m]
            for each in zip(*parts, strict=True)
        )
        return diffusion.mean(dim=1), attention.mean(dim=1)

    def _batch(self, slots: Slots, leaves: Mapping[str, torch.Tensor]) -> _Batch:
        """Draw the samples of every slot and project the contexts that they use."""
        device, count = self.base.device, self.method.samples_per_step
        dummy = empty_samples(self.base, self.method)
        samples = [
            draw_samples(slot, self.base, self.method, self.boundaries, self.seed) if slot else dummy
            for slot in slots
        ]
        # Of each slot the stages that its samples use [distinct], and each sample's index among them [m].
        used, indices = zip(*(distinct_stages(each.stages, self._distinct) for each in samples), strict=True)
        used = torch.stack(used).to(device)  # [slots, distinct]
        slot_index = torch.arange(len(used), device=device)[:, None]  # [slots, 1]
        # [slots, distinct, kv, vectors, width] to [slots * distinct, kv, vectors, width]
        vectors = {name: leaf[slot_index, used].flatten(0, 1) for name, leaf in leaves.items()}
        references = [slot.reference if slot else 0 for slot in slots]
        return _Batch(
            x0=torch.cat([each.x0 for each in samples]).to(device),
            noise=torch.cat([each.noise for each in samples]).to(device),
            weight=torch.cat([each.weight for each in samples]).to(device),
            timesteps=torch.cat([each.timesteps for each in samples]),
            mask=torch.cat([each.mask for each in samples]).to(device),
            projected=self.staged.project_kv(self.contexts(vectors)),
            rows=torch.cat([slot * self._distinct + index for slot, index in enumerate(indices)]).to(device),
            sizes=self._sizes(slots).repeat_interleave(count, dim=0),
            reference_rows=torch.tensor(references, device=device).repeat_interleave(count),
        )

    def _sample_losses(self, batch: _Batch, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """L_diffusion and L_attention of some samples, [part] each."""
        base, device = self.base, self.base.device
        x0, noise, timesteps = batch.x0[part], batch.noise[part], batch.timesteps[part]
        alpha_bar = base.alphas_cumprod[timesteps].to(device)  # [part]
        attention = self._attention_loss(batch, part)
        prediction = self.staged.predict(
            noised(x0, noise, alpha_bar).to(base.dtype),  # x_t: [part, c, side, side]
            timesteps.to(device),
            batch.projected,
            batch.rows[part],
            recorders=(attention,) if attention else (),
            sizes=batch.sizes[part],
        )
        target = prediction_target(x0, noise, alpha_bar, base.description.prediction_type)
        loss_diffusion = diffusion_loss(prediction, target, batch.weight[part])  # [part]
        return loss_diffusion, attention.loss() if attention else torch.zeros_like(loss_diffusion)

    def _attention_loss(
        self, batch: _Batch, part: slice
    ) -> ReferenceAttentionLoss | MaskAttentionLoss | None:
        """The recorder of some samples' attention loss, as the method chooses it."""
        method = self.method
        if not method.compares_attention:
            return None
        person = self.positions.to(self.base.device)
        if method.attention_target == "mask":
            return MaskAttentionLoss(
                batch.mask[part], person, method.attention_max_resolution, method.attention_layers
            )
        return ReferenceAttentionLoss(
            keys=self._reference_keys,
            rows=batch.reference_rows[part],
            columns=person if method.tokens_compared == "placeholder" else None,
            reduction=method.attention_reduction,
            largest_side=method.attention_max_resolution,
            parts=method.attention_layers,
            space=method.attention_space,
            mask=batch.mask[part] if method.attention_target == "reference_in_mask" else None,
            person=person,
        )

    def contexts(self, vectors: Mapping[str, torch.Tensor]) -> Contexts:
        """Contexts of the training prompt.

        Args:
            vectors: text encoder -> [n, kv, vectors, width]; of mixtures their weights, [n, kv, 1, names].

        Returns:
            [n, kv, length, context width].
        """
        if self._names is not None:
            made = mixed(self._names, vectors[MIXTURE][:, :, 0])
            return made.map(lambda each: each.to(self.base.dtype))
        flat = {name: each.flatten(0, 1) for name, each in vectors.items()}  # [n * kv, vectors, width]
        return encode_vectors(self.base, self.prompts, flat).unflatten(-1, self.method.kv_count)

    @torch.no_grad()
    def reference(self, class_word: str, initial: Mapping[str, torch.Tensor]) -> int:
        """The row of the reference prompt's keys, which is encoded and projected once for each class word.

        Args:
            initial: text encoder -> initial embedding, float32 [vectors, width]; it stands in the prompt where the
                method says so.
        """
        if class_word not in self._reference_rows:
            vectors = {
                name: class_word_embeddings(tower, class_word, self.method.vectors)[None]
                if self.method.reference_subject == "class_word"
                else initial[name][None]
                for name, tower in self.base.towers.items()
            }
            states = encode_vectors(self.base, self.prompts, vectors).states  # [1, length, context width]
            for name, layer in self.staged.project(states, states).layers.items():
                known = self._reference_keys.get(name)
                self._reference_keys[name] = layer.keys if known is None else torch.cat([known, layer.keys])
            self._reference_rows[class_word] = len(self._reference_rows)
        return self._reference_rows[class_word]

    @torch.no_grad()
    def photo_loss(self, slot: Slot) -> float:
        """L_diffusion of the photo on noise and timesteps that never change, evenly over the trained timesteps.

        A criterion for stopping early. It uses no scorer, and runs by itself, so that it depends on no other person.
        """
        base, count, photo = self.base, _PHOTO_LOSS_TIMESTEPS, slot.photo.photo_digest
        low, high = allowed_range(self.method, base.description.training_timesteps)
        timesteps = low + ((torch.arange(count) + 0.5) * (high - low) / count).long()
        noise = torch.stack(
            [normal(base.description.latent_shape, photo, "plateau", at) for at in range(count)]
        ).to(base.device)
        sizes = self._sizes([slot]).expand(count, -1)
        prediction = self._predict_photo(slot, timesteps, noise, sizes=sizes)
        alpha_bar = base.alphas_cumprod[timesteps].to(base.device)
        x0 = slot.latents[:1].expand(count, -1, -1, -1)
        target = prediction_target(x0, noise, alpha_bar, base.description.prediction_type)
        return float(diffusion_loss(prediction, target, slot.weights[:1]).mean())

    @torch.no_grad()
    def photo_attention(self, slot: Slot) -> torch.Tensor:
        """Attention on the slot's present vectors over its photo, averaged over heads, layers and four noise levels.

        Taken alike before and after training, so that the two maps can be compared.

        Returns:
            float32 [s, s] on the CPU, s the side of the largest attention map.
        """
        base, photo = self.base, slot.photo.photo_digest
        total, shape = base.description.training_timesteps, tuple(slot.latents[0].shape)
        timesteps = torch.tensor([int(level * total) for level in _ATTENTION_LEVELS])
        noise = torch.stack([normal(shape, photo, "probe", int(t)) for t in timesteps]).to(base.device)
        columns = torch.zeros(len(timesteps), len(next(iter(self.prompts.values())).ids), device=base.device)
        columns[:, self.positions] = 1
        recorder = AttentionRecorder(columns, self.base.description.latent_shape[1:])
        self._predict_photo(slot, timesteps, noise, recorders=(recorder,))
        return recorder.maps().mean(dim=0).cpu()

    def _predict_photo(
        self,
        slot: Slot,
        timesteps: torch.Tensor,
        noise: torch.Tensor,
        *,
        recorders: tuple[Recorder, ...] = (),
        sizes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The prediction for the photo at some timesteps [n], with noise [n, c, side, side]: the same shape."""
        base = self.base
        alpha_bar = base.alphas_cumprod[timesteps].to(base.device)
        x0 = slot.latents[:1].expand(len(timesteps), -1, -1, -1)  # [n, c, side, side]
        contexts = self.contexts(slot.vectors())  # [stages, kv, length, context width]
        return self.staged.predict(
            noised(x0, noise, alpha_bar).to(base.dtype),
            timesteps.to(base.device),
            self.staged.project_kv(contexts),
            torch.tensor([stage_of(int(t), self.boundaries) for t in timesteps], device=base.device),
            recorders=recorders,
            sizes=sizes,
        )

    def _sizes(self, slots: Slots) -> torch.Tensor:
        """Each slot's photo sizes for models that read them, int64 [slots, 6]."""
        resolution = self.base.description.resolution
        originals = [slot.photo.original_pixels if slot else 0 for slot in slots]
        return torch.tensor([picture_sizes((resolution, resolution), original or None) for original in originals])
