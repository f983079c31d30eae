"""The trainer: many people learned together by one frozen network, in slots of a fixed shape.

`personalize` is the loop; `_Trainer` opens a slot, takes a step of all slots and closes a slot. What a step minimizes
is in `objective.py` and `attention_loss.py`; what a slot holds and the draws of its step are in `slots.py`; the network's
cross-attention with separate contexts for keys and values is in `attention.py`.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from faceid_core.config.method import Method
from faceid_core.diffusion.base import BaseModel, TextTower
from faceid_core.progress import ProgressCallback

from .attention_loss import outside_share
from .checkpoint import Checkpoint, UnusableCheckpoint, resume, write_checkpoint
from .conditioning import name_word_embeddings
from .initial_embeddings import initial_embeddings
from .name_prior import NamePrior
from .objective import Objective, Slots
from .parametrization import Parametrization, make_parametrization, mixture_parametrization
from .slots import (
    Slot,
    TrainingPhoto,
    attention_fault,
    learning_rate,
    loss_fault,
    loss_weights,
    make_optimizer,
    resized_area,
    step_fault,
    vector_fault,
    with_mirror,
)
from .sphere import prior_gradient
from .tokens import MIXTURE, IdentityTokens
from .vocabulary import vocabulary_of

log = logging.getLogger(__name__)

_PLATEAU_EVERY = 10  # steps between two measurements of the photo's own loss
# In float16 the gradient of a mean over a picture's latents is below the smallest normal number; a power of two, so
# that nothing else is rounded otherwise. Constant, unlike GradScaler's: a person's steps must not depend on the others
# in the pass.
_HALF_SCALE = 2.0**12
_RESTART_RATE = 0.3  # learning rate of a second attempt, as a share of the method's

MOST_SLOTS = 32  # more people at once gained nothing at any size that was measured (docs/benchmarks.md)
_CPU_SLOTS = 8
_MEMORY_SHARE = 0.9  # of the free memory that slots may take; the rest is for fragments


@dataclass(frozen=True)
class PersonalizeResult:
    """A person's tokens, and how training went.

    Attributes:
        curve: a row for each step: step, loss_diffusion, loss_attention, attention_ratio
            (lambda * L_attention / L_diffusion) and seconds, the person's share of the time up to then.
        attention_before, attention_after: float32 [h, w], attention on the person's tokens over the photo.
        outside_before, outside_after: the share of it outside the face mask.
        seconds: the person's share of the time.
        slots: how many there were in the end: fewer than asked for after the memory ran out.
        restarted: the fault that ended a first attempt (the second has `_RESTART_RATE` of the learning rate), or empty.
    """

    name: str
    tokens: IdentityTokens
    curve: list[dict[str, float]]
    attention_before: np.ndarray
    attention_after: np.ndarray
    outside_before: float
    outside_after: float
    seconds: float
    slots: int
    restarted: str = ""


@dataclass(frozen=True)
class SlotFailure:
    """A person whose training failed; the others are not affected."""

    name: str
    reason: str
    step: int


def personalize(
    base: BaseModel,
    photos: Sequence[TrainingPhoto],
    method: Method,
    *,
    slots: int = 8,
    samples_at_once: int = 0,
    seed: int = 0,
    progress: ProgressCallback | None = None,
    checkpoint: Mapping[str, bytes] | None = None,
    checkpoint_seconds: float = 0.0,
    prior: NamePrior | None = None,
) -> Iterator[PersonalizeResult | SlotFailure | Checkpoint]:
    """Learn every person's tokens; yields each as it finishes, and checkpoints on the way.

    A person's result depends on base, method, slots, seed and photo only: not on the others in the pass, nor on
    the order of arrival. Empty slots are filled with dummies, so the shape of the work never changes. When the
    device's memory runs out, training goes on with half the slots, and no step is lost.

    Args:
        slots: people who share each pass through the network.
        samples_at_once: noised samples in one call of the network, to bound the memory; the step is the same but for
            rounding, and takes a third longer. 0: all of a step.
        seed: of every random draw.
        progress: called with (name, steps done, steps in all) after each step of each person.
        checkpoint: name -> the checkpoint that an interrupted training of the same person left; it goes on from there to
            the same tokens. One that cannot be used is logged, and the person begins again.
        checkpoint_seconds: yield a checkpoint of every person this often; 0 never does.
        prior: of the base model's known names; a method with `needs_prior` takes it.

    Raises:
        ConfigurationError: boundaries or template do not fit the base model.
    """
    trainer = _Trainer(base, method, seed, samples_at_once, prior)
    waiting, parked = deque(photos), deque()  # not begun yet; begun, and without a slot since memory ran out
    active: list[Slot | None] = [None] * slots
    checkpoints, written = dict(checkpoint or {}), time.monotonic()
    while waiting or parked or any(active):
        for index in (index for index, slot in enumerate(active) if slot is None):
            if parked:
                active[index] = parked.popleft()
            elif waiting:
                photo = waiting.popleft()
                active[index] = trainer.admit(photo, checkpoints.pop(photo.name, None))
        faults = trainer.step_if_it_fits(active)
        if faults is None:
            parked.extend(slot for slot in _halve(active) if slot)
            continue
        for index, slot in enumerate(active):
            if slot is None:
                continue
            if progress and index not in faults:
                progress(slot.photo.name, slot.step, method.steps)
            active[index], result = trainer.settle(slot, faults.get(index), len(active))
            if result:
                yield result
        if checkpoint_seconds and time.monotonic() - written >= checkpoint_seconds:
            yield from (write_checkpoint(slot) for slot in [*active, *parked] if slot and slot.step)
            written = time.monotonic()


def _halve(active: list[Slot | None]) -> list[Slot | None]:
    """Remove the second half of the slots, for the memory ran out; returns the removed ones."""
    half = len(active) // 2
    log.warning("out of memory with %d slots; going on with %d", len(active), half)
    removed = active[half:]
    del active[half:]
    torch.cuda.empty_cache()
    return removed


class _Trainer:
    """Opens, steps and closes slots."""

    def __init__(
        self,
        base: BaseModel,
        method: Method,
        seed: int,
        samples_at_once: int = 0,
        prior: NamePrior | None = None,
    ):
        self.base, self.method, self.seed = base, method, seed
        self.prior = prior.to(base.device) if prior and method.needs_prior else None
        self.objective = Objective(base, method, seed, samples_at_once, self.prior)
        self.vocabulary = {name: vocabulary_of(tower) for name, tower in base.towers.items()}
        self.longest_words = {name: each.longest for name, each in self.vocabulary.items()}
        self.longest_words[MIXTURE] = 1.0  # a known name has one weight of 1

    def admit(self, photo: TrainingPhoto, checkpoint: bytes | None = None) -> Slot:
        """Open a slot where a checkpoint left off, or at the first step."""
        slot = self._open(photo)
        if checkpoint is not None:
            try:
                resume(slot, checkpoint, self.method.steps)
            except UnusableCheckpoint as error:
                log.warning("%s: %s", photo.name, error)
        return slot

    def step_if_it_fits(self, active: Sequence[Slot | None]) -> dict[int, str] | None:
        """Do a step; None if the memory ran out and there are fewer slots to try with.

        The caller goes on after the exception is gone, whose traceback holds the activations.
        """
        try:
            return self.step(active)
        except torch.OutOfMemoryError:
            if len(active) == 1:
                raise
            return None

    def settle(
        self, slot: Slot, fault: str | None, slots: int
    ) -> tuple[Slot | None, PersonalizeResult | SlotFailure | None]:
        """After a step: what goes on in the slot's place, and the person's result if it has come to an end.

        Args:
            slot: The slot that made the step.
            fault: Why its step could not be taken.
            slots: How many slots share the pass.
        """
        result = None
        if fault is None:
            if not self.finished(slot):
                return slot, None
            result = self.finish(slot, slots)
            fault = attention_fault(result.attention_before, result.attention_after)
        if fault is None:
            return None, result
        if slot.attempt == 1:
            return self.restart(slot, fault), None
        return None, SlotFailure(slot.photo.name, f"{slot.first_fault}; and again: {fault}", slot.step)

    def restart(self, slot: Slot, fault: str) -> Slot:
        """The person's second attempt: from the first step, at a smaller learning rate."""
        log.warning("%s: step %d: %s; begun again at a smaller rate", slot.photo.name, slot.step, fault)
        again = self._open(slot.photo)
        again.attempt, again.first_fault = slot.attempt + 1, fault
        again.seconds += slot.seconds
        return again

    def _open(self, photo: TrainingPhoto) -> Slot:
        """A slot at the first step: the photo is encoded once."""
        began = time.perf_counter()
        method, base = self.method, self.base
        mirrored = np.ascontiguousarray(photo.image[:, ::-1])
        # [2, c, side, side]; one by one: the encoder's arithmetic must not depend on a batch.
        latents = torch.cat([base.encode_images([image]) for image in (photo.image, mirrored)])
        initial = {
            name: self._initial(tower, photo.class_word)  # [vectors, width]
            for name, tower in base.towers.items()
        }
        learned = self._learned(latents, initial)
        side = base.description.latent_side
        slot = Slot(
            photo=photo,
            latents=latents,
            weights=loss_weights(photo, side, method.masked_loss).to(base.device),
            masks=with_mirror(resized_area(photo.mask, side)).to(base.device),
            initial=initial,
            learned=learned,
            reference=self.objective.reference(photo.class_word, initial),
            optimizer=make_optimizer(learned, method),
            attention_before=torch.empty(0),
        )
        slot.attention_before = self.objective.photo_attention(slot)
        slot.seconds = time.perf_counter() - began
        return slot

    def _initial(self, tower: TextTower, class_word: str) -> torch.Tensor:
        """One text encoder's initial embedding, float32 [vectors, width]; of a mixture its names' mean."""
        if self.prior is not None:
            return name_word_embeddings(tower, self.prior.names).mean(dim=0)
        return initial_embeddings(self.base, tower, class_word, self.method)

    def _learned(
        self, latents: torch.Tensor, initial: Mapping[str, torch.Tensor]
    ) -> Mapping[str, Parametrization]:
        """What is learned of a person: one mixture of known names, or vectors for each text encoder."""
        method, base = self.method, self.base
        if method.needs_prior:
            assert self.prior is not None, "the caller gives the prior that the method needs"
            return {MIXTURE: mixture_parametrization(self.prior, latents, method)}
        return {
            name: make_parametrization(base, tower, initial[name], method, self.seed, self.vocabulary[name])
            for name, tower in base.towers.items()
        }

    def step(self, slots: Slots) -> dict[int, str]:
        """One optimizer step of every occupied slot.

        Returns:
            Slot index -> what is wrong, for those whose attempt cannot go on.
        """
        began = time.perf_counter()
        method = self.method
        # A slot may have all its steps already: it took the last one before the memory ran out in another's update.
        taken = {index: slot for index, slot in enumerate(slots) if slot and slot.step < method.steps}
        if not taken:
            return {}
        leaves = self.objective.leaves(slots)  # text encoder -> [slots, stages, kv, vectors, width]
        loss_diffusion, loss_attention = self.objective.losses(slots, leaves)  # [slots], [slots]
        total = loss_diffusion + method.attention_weight * loss_attention  # L: [slots]
        scale = _HALF_SCALE if self.base.dtype == torch.float16 else 1.0
        # A sum, not a mean: a person's gradient must not depend on how many others there are.
        summed = scale * total[list(taken)].sum()
        gradients_of_all = dict(zip(leaves, torch.autograd.grad(summed, list(leaves.values())), strict=True))
        losses = torch.stack([loss_diffusion, loss_attention]).detach().tolist()

        faults = {}
        for index, slot in taken.items():
            l_diffusion, l_attention = losses[0][index], losses[1][index]
            gradients = {name: each[index] / scale for name, each in gradients_of_all.items()}
            if fault := step_fault(l_diffusion, l_attention, gradients):
                faults[index] = fault
                continue
            self._update(slot, gradients)
            slot.curve.append(
                {
                    "step": slot.step,
                    "loss_diffusion": l_diffusion,
                    "loss_attention": l_attention,
                    "attention_ratio": method.attention_weight * l_attention / max(l_diffusion, 1e-12),
                }
            )
            if fault := loss_fault(slot.curve) or vector_fault(slot.vectors(), self.longest_words):
                faults[index] = fault
        share = (time.perf_counter() - began) / len(taken)
        for slot in taken.values():
            slot.seconds += share
            if slot.curve:
                slot.curve[-1]["seconds"] = slot.seconds
        return faults

    def _update(self, slot: Slot, gradients: dict[str, torch.Tensor]) -> None:
        """Move one person's parameters.

        Args:
            gradients: of L, text encoder -> [stages, kv, vectors, width].
        """
        slot.optimizer.zero_grad()
        # Penalties' gradients are added here: they need no pass through the network.
        for name, learned in slot.learned.items():
            vectors = learned.vectors()
            gradient, present = gradients[name], vectors.detach()
            if name in slot.initial:  # of w * |v - initial|^2
                initial = slot.initial[name]
                gradient_of_penalty = 2 * self.method.initial_embedding_penalty * (present - initial)
                if self.method.direction_prior:
                    # Only where a sample reached a vector: a step of one length would else follow the prior alone.
                    reached = gradient.ne(0).any(dim=-1, keepdim=True)  # [stages, kv, vectors, 1]
                    toward = self.method.direction_prior * reached * prior_gradient(present, initial)
                    gradient_of_penalty = gradient_of_penalty + toward
                gradient = gradient + gradient_of_penalty
            vectors.backward(gradient)
            if (penalty := learned.penalty()) is not None:
                penalty.backward()
        if self.method.gradient_clip > 0:
            parameters = [each for group in slot.optimizer.param_groups for each in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.method.gradient_clip)
        for group in slot.optimizer.param_groups:
            rate = learning_rate(self.method, slot.step) * (_RESTART_RATE if slot.attempt > 1 else 1.0)
            group["lr"] = rate * group["rate_ratio"]
        slot.optimizer.step()
        slot.step += 1

    def finished(self, slot: Slot) -> bool:
        """Whether a person has had all steps, or its own loss has stopped falling."""
        method = self.method
        if slot.step >= method.steps:
            return True
        if not method.patience or slot.step % _PLATEAU_EVERY:
            return False
        began = time.perf_counter()
        loss = self.objective.photo_loss(slot)
        slot.seconds += time.perf_counter() - began
        return slot.plateau.reached(
            loss, slot.step, patience=method.patience, tolerance=method.patience_tolerance
        )

    def finish(self, slot: Slot, slots: int) -> PersonalizeResult:
        """Close a slot, one of `slots`: the tokens, and the attention on them now."""
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
            names=self.prior.names if self.prior else (),
        )
        before, after = slot.attention_before, self.objective.photo_attention(slot)  # [s, s]
        mask = resized_area(slot.photo.mask, len(before))
        return PersonalizeResult(
            name=slot.photo.name,
            tokens=tokens,
            curve=slot.curve,
            attention_before=before.numpy(),
            attention_after=after.numpy(),
            outside_before=outside_share(before, mask),
            outside_after=outside_share(after, mask),
            seconds=slot.seconds + time.perf_counter() - began,
            slots=slots,
            restarted=slot.first_fault,
        )


def measured_slots(
    base: BaseModel, method: Method, samples_at_once: int = 0, prior: NamePrior | None = None
) -> int:
    """Slots for this device: on CUDA as many as its free memory holds, a power of two; elsewhere eight.

    Two trainings of one step, with one and with two made-up people, give what the first and each further one take.
    """
    if base.device.type != "cuda":
        return _CPU_SLOTS
    # Memory that PyTorch holds and does not use is free too.
    kept_unused = torch.cuda.memory_reserved(base.device) - torch.cuda.memory_allocated(base.device)
    free = torch.cuda.mem_get_info(base.device)[0] + kept_unused
    found = fitting_slots(lambda count: _peak_bytes(base, method, count, samples_at_once, prior), free)
    torch.cuda.empty_cache()
    log.info("%d slots fit into %.1f GB of free memory", found, free / 1e9)
    return found


def fitting_slots(bytes_with: Callable[[int], int], free_bytes: int) -> int:
    """The largest power of two of people, at most `MOST_SLOTS`, that fits; at least one.

    Args:
        bytes_with: number of people -> bytes that a step with them takes at its peak.
        free_bytes: memory that is free.
    """
    first = bytes_with(1)
    further = max(1, bytes_with(2) - first)
    room = int(free_bytes * _MEMORY_SHARE) - first
    fits = 1 + max(0, room) // further
    return min(MOST_SLOTS, 1 << (fits.bit_length() - 1))


def _peak_bytes(
    base: BaseModel, method: Method, count: int, samples_at_once: int, prior: NamePrior | None
) -> int:
    side = base.description.resolution
    gray, whole = np.full((side, side, 3), 127, np.uint8), np.ones((side, side), np.float32)
    photos = [
        TrainingPhoto(f"made-up-{number}", "0" * 64, gray, whole, whole > 0, "person")
        for number in range(count)
    ]
    torch.cuda.reset_peak_memory_stats(base.device)
    held = torch.cuda.memory_allocated(base.device)
    step = method.model_copy(update={"steps": 1})
    for _ in personalize(base, photos, step, slots=count, samples_at_once=samples_at_once, prior=prior):
        pass
    return torch.cuda.max_memory_allocated(base.device) - held
