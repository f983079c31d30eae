"""The trainer: many people learned together by one frozen network, in slots of a fixed shape."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from faceid_core.diffusion.base import BaseModel

from .losses import outside_share
from .method import Method
from .objective import Objective
from .parametrisation import make_parametrisation
from .probe import photo_attention
from .slots import Slot, TrainingPhoto, at_side, learning_rate, loss_weights, make_optimizer, with_mirror
from .starts import first_vectors
from .tokens import IdentityTokens

Progress = Callable[[str, int, int], None]
_PLATEAU_EVERY = 10  # steps between two looks at the photo's own loss


@dataclass(frozen=True)
class PersonalizeResult:
    """What was learned of a person.

    Attributes:
        curve: a row for each step: step, loss_diffusion, loss_attention, attention_ratio
            (lambda * L_attention / L_diffusion) and seconds, the person's share of the time up to then.
        attention_before, attention_after: float32 [h, w], attention on the person's tokens over the photo.
        outside_before, outside_after: the share of it outside the face mask.
        seconds: the person's share of the time.
    """

    name: str
    tokens: IdentityTokens
    curve: list[dict[str, float]]
    attention_before: np.ndarray
    attention_after: np.ndarray
    outside_before: float
    outside_after: float
    seconds: float


@dataclass(frozen=True)
class SlotFailure:
    """A person whose training had to stop; the others went on."""

    name: str
    reason: str
    step: int


def personalize(
    base: BaseModel,
    photos: Sequence[TrainingPhoto],
    method: Method,
    *,
    slots: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> Iterator[PersonalizeResult | SlotFailure]:
    """Learn every person's tokens; yields each as it finishes.

    A person's result depends on base, method, slots, seed and photo only: not on who shares the pass, nor on
    the order of arrival. Empty slots are filled with dummies, so the shape of the work never changes.

    Args:
        slots: people who share each pass through the network.
        seed: of every random draw.
        progress: called with (name, steps done, steps in all) after each step of each person.

    Raises:
        ConfigurationError: boundaries or template do not fit the base model.
    """
    trainer = _Trainer(base, method, seed)
    waiting, seats = deque(photos), [None] * slots
    while waiting or any(seats):
        for place, slot in enumerate(seats):
            if slot is None and waiting:
                seats[place] = trainer.admit(waiting.popleft())
        failures = trainer.step(seats)
        for place, slot in enumerate(seats):
            if slot is None:
                continue
            if place in failures:
                seats[place] = None
                yield SlotFailure(slot.photo.name, failures[place], slot.step)
                continue
            if progress:
                progress(slot.photo.name, slot.step, method.steps)
            if trainer.finished(slot):
                seats[place] = None
                yield trainer.finish(slot)


class _Trainer:
    """Opens, steps and closes slots."""

    def __init__(self, base: BaseModel, method: Method, seed: int):
        self.base, self.method, self.seed = base, method, seed
        self.objective = Objective(base, method, seed)

    def admit(self, photo: TrainingPhoto) -> Slot:
        """Open a slot: encode the photo once, put the vectors at their start."""
        began = time.perf_counter()
        method, base = self.method, self.base
        mirrored = np.ascontiguousarray(photo.image[:, ::-1])
        # One by one: the encoder's arithmetic must not depend on a batch.
        latents = torch.cat([base.encode_images([image]) for image in (photo.image, mirrored)])
        starts = {
            name: first_vectors(base, tower, photo.class_word, method) for name, tower in base.towers.items()
        }
        learned = {
            name: make_parametrisation(base, tower, starts[name], method, self.seed)
            for name, tower in base.towers.items()
        }
        side = base.description.latent_side
        slot = Slot(
            photo=photo,
            latents=latents,
            weights=loss_weights(photo, side, method.masked_loss).to(base.device),
            masks=with_mirror(at_side(photo.mask, side)).to(base.device),
            starts=starts,
            learned=learned,
            reference=self.objective.reference(photo.class_word, starts),
            optimizer=make_optimizer(learned, method),
            attention_before=torch.empty(0),
        )
        slot.attention_before = self._attention(slot)
        slot.seconds = time.perf_counter() - began
        return slot

    def step(self, seats: Sequence[Slot | None]) -> dict[int, str]:
        """One optimiser step of every occupied seat.

        Returns:
            Seat -> reason, for those whose training cannot go on.
        """
        began = time.perf_counter()
        method = self.method
        taken = [place for place, slot in enumerate(seats) if slot is not None]
        leaves = self.objective.leaves(seats)
        loss_diffusion, loss_attention = self.objective.losses(seats, leaves)  # [slots], [slots]
        # A sum, not a mean: a person's gradient must not depend on how many others there are.
        total = loss_diffusion + method.attention_weight * loss_attention
        total[taken].sum().backward()
        losses = torch.stack([loss_diffusion, loss_attention]).detach().tolist()

        failures = {}
        for place in taken:
            slot = seats[place]
            gradients = {name: leaf.grad[place] for name, leaf in leaves.items()}
            reason = _reason_to_stop(losses[0][place], losses[1][place], gradients)
            if reason:
                failures[place] = reason
                continue
            self._update(slot, gradients)
            ratio = method.attention_weight * losses[1][place] / max(losses[0][place], 1e-12)
            slot.curve.append(
                {
                    "step": slot.step,
                    "loss_diffusion": losses[0][place],
                    "loss_attention": losses[1][place],
                    "attention_ratio": ratio,
                }
            )
        share = (time.perf_counter() - began) / len(taken)
        for place in taken:
            seats[place].seconds += share
            if place not in failures:
                seats[place].curve[-1]["seconds"] = seats[place].seconds
        return failures

    def finish(self, slot: Slot) -> PersonalizeResult:
        """Close a slot: the tokens, and where they look now."""
        began = time.perf_counter()
        method, base = self.method, self.base
        tokens = IdentityTokens(
            tensors={
                name: vectors.detach().cpu().expand(-1, 2, -1, -1).contiguous().clone()
                for name, vectors in slot.vectors().items()
            },
            base_digest=base.description.digest,
            class_word=slot.photo.class_word,
            template=method.template,
            boundaries=self.objective.boundaries,
            training_timesteps=base.description.training_timesteps,
            prediction_type=base.description.prediction_type,
            photo_digest=slot.photo.photo_digest,
            method=method.model_dump(mode="json"),
        )
        before, after = slot.attention_before, self._attention(slot)
        mask = at_side(slot.photo.mask, len(before))
        return PersonalizeResult(
            name=slot.photo.name,
            tokens=tokens,
            curve=slot.curve,
            attention_before=before.numpy(),
            attention_after=after.numpy(),
            outside_before=outside_share(before, mask),
            outside_after=outside_share(after, mask),
            seconds=slot.seconds + time.perf_counter() - began,
        )

    @torch.no_grad()
    def _attention(self, slot: Slot) -> torch.Tensor:
        """The attention on the slot's present vectors over its photo, float32 [s, s]."""
        objective = self.objective
        contexts = objective.contexts(slot.vectors())  # [stages, sides, length, context width]
        return photo_attention(
            self.base,
            objective.staged,
            contexts.expand(-1, 2, -1, -1),
            objective.positions,
            objective.boundaries,
            slot.latents[0],
            slot.photo.photo_digest,
        )

    def _update(self, slot: Slot, gradients: dict[str, torch.Tensor]) -> None:
        slot.optimizer.zero_grad()
        for name, vectors in slot.vectors().items():
            # The start penalty's gradient, w * |v - start|^2, is added here: it needs no pass through the network.
            penalty = 2 * self.method.start_penalty * (vectors.detach() - slot.starts[name])
            vectors.backward(gradients[name] + penalty)
        if self.method.gradient_clip > 0:
            parameters = [each for group in slot.optimizer.param_groups for each in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.method.gradient_clip)
        for group in slot.optimizer.param_groups:
            group["lr"] = learning_rate(self.method, slot.step) * group["share"]
        slot.optimizer.step()
        slot.step += 1

    def finished(self, slot: Slot) -> bool:
        """Whether a person has had all steps, or its own loss has stopped falling."""
        method = self.method
        if slot.step >= method.steps:
            return True
        if not method.patience or slot.step % _PLATEAU_EVERY:
            return False
        return slot.plateau.reached(
            self.objective.photo_loss(slot),
            slot.step,
            patience=method.patience,
            tolerance=method.patience_tolerance,
        )


def _reason_to_stop(
    loss_diffusion: float, loss_attention: float, gradients: dict[str, torch.Tensor]
) -> str | None:
    """Why a person's training cannot go on, or None."""
    if not np.isfinite(loss_diffusion):
        return f"the diffusion loss is {loss_diffusion}; look at the photo, or lower the learning rate"
    if not np.isfinite(loss_attention):
        return f"the attention loss is {loss_attention}; lower the learning rate"
    if not all(bool(gradient.isfinite().all()) for gradient in gradients.values()):
        return "the gradient is not finite; lower the learning rate or use float32"
    return None
