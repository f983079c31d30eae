"""The trainer: many people learned together by one frozen network, in slots of a fixed shape."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from faceid_core.diffusion.base import BaseModel

from .guards import attention_fault, loss_fault, step_fault, vector_fault
from .journal import JournalEntry, UnusableEntry, resume, write_entry
from .losses import outside_share
from .method import Method
from .objective import Objective
from .parametrization import make_parametrization
from .probe import photo_attention
from .slots import Slot, TrainingPhoto, at_side, learning_rate, loss_weights, make_optimizer, with_mirror
from .starts import first_vectors
from .tokens import IdentityTokens

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
_PLATEAU_EVERY = 10  # steps between two looks at the photo's own loss
# In float16 the gradient of a mean over a picture's latents is below the smallest normal number; a power of two, so
# that nothing else is rounded otherwise. Constant, not GradScaler's: nobody's steps may depend on who shares the pass.
_HALF_SCALE = 2.0**12
_RESTART_RATE = 0.3  # learning rate of a second attempt, as a share of the method's


@dataclass(frozen=True)
class PersonalizeResult:
    """What was learned of a person.

    Attributes:
        curve: a row for each step: step, loss_diffusion, loss_attention, attention_ratio
            (lambda * L_attention / L_diffusion) and seconds, the person's share of the time up to then.
        attention_before, attention_after: float32 [h, w], attention on the person's tokens over the photo.
        outside_before, outside_after: the share of it outside the face mask.
        seconds: the person's share of the time.
        slots: how many there were in the end: fewer than asked for after the memory ran out.
        restarted: what ended a first attempt, or empty; then the learning rate was `_RESTART_RATE` of the method's.
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
    samples_at_once: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
    journal: Mapping[str, bytes] | None = None,
    journal_seconds: float = 0.0,
) -> Iterator[PersonalizeResult | SlotFailure | JournalEntry]:
    """Learn every person's tokens; yields each as it finishes, and journal entries on the way.

    A person's result depends on base, method, slots, seed and photo only: not on who shares the pass, nor on
    the order of arrival. Empty slots are filled with dummies, so the shape of the work never changes, until the
    device's memory runs out: then half the slots go on, and no step is lost.

    Args:
        slots: people who share each pass through the network.
        samples_at_once: noised samples in one call of it, to bound the memory; the step is the same but for rounding,
            and takes a third longer. 0: all of a step.
        seed: of every random draw.
        progress: called with (name, steps done, steps in all) after each step of each person.
        journal: name -> an entry that an interrupted training of the same person left; it goes on from there to the
            same tokens. One that cannot be used is logged, and the person begins anew.
        journal_seconds: yield a `JournalEntry` of everybody this often; 0 never does.

    Raises:
        ConfigurationError: boundaries or template do not fit the base model.
    """
    trainer = _Trainer(base, method, seed, samples_at_once)
    waiting, parked, seats = deque(photos), deque(), [None] * slots
    entries, written = dict(journal or {}), time.monotonic()
    while waiting or parked or any(seats):
        for place, slot in enumerate(seats):
            if slot is None and parked:
                seats[place] = parked.popleft()
            elif slot is None and waiting:
                photo = waiting.popleft()
                seats[place] = trainer.admit(photo, entries.pop(photo.name, None))
        faults = None
        try:
            faults = trainer.step(seats)
        except torch.OutOfMemoryError:
            if len(seats) == 1:
                raise
        if faults is None:  # told after the exception is gone, whose traceback holds the activations
            half = len(seats) // 2
            log.warning("out of memory with %d slots; going on with %d", len(seats), half)
            # Those without a seat keep what they have learned, and go on when one is free.
            parked.extend(slot for slot in seats[half:] if slot)
            del seats[half:]
            torch.cuda.empty_cache()
            continue
        for place, slot in enumerate(seats):
            if slot is None:
                continue
            if progress and place not in faults:
                progress(slot.photo.name, slot.step, method.steps)
            result = None
            if place not in faults and trainer.finished(slot):
                result = trainer.finish(slot, len(seats))
                if fault := attention_fault(result.attention_before, result.attention_after):
                    faults[place] = fault
            if place in faults:
                if slot.attempt == 1:
                    seats[place] = trainer.restart(slot, faults[place])
                    continue
                result = SlotFailure(slot.photo.name, f"{slot.why}; and again: {faults[place]}", slot.step)
            if result:
                seats[place] = None
                yield result
        if journal_seconds and time.monotonic() - written >= journal_seconds:
            yield from (write_entry(slot) for slot in [*seats, *parked] if slot and slot.step)
            written = time.monotonic()


class _Trainer:
    """Opens, steps and closes slots."""

    def __init__(self, base: BaseModel, method: Method, seed: int, samples_at_once: int = 0):
        self.base, self.method, self.seed = base, method, seed
        self.objective = Objective(base, method, seed, samples_at_once)
        # text encoder -> length of the longest embedding of its vocabulary
        self.vocabulary = {
            name: float(tower.token_embedding.weight.norm(dim=-1).max())
            for name, tower in base.towers.items()
        }

    def admit(self, photo: TrainingPhoto, entry: bytes | None = None) -> Slot:
        """Open a slot where a journal entry left off, or at the start."""
        slot = self._open(photo)
        if entry is not None:
            try:
                resume(slot, entry, self.method.steps)
            except UnusableEntry as error:
                log.warning("%s: %s", photo.name, error)
        return slot

    def restart(self, slot: Slot, fault: str) -> Slot:
        """The person's second attempt: from the start, at a smaller learning rate."""
        log.warning("%s: step %d: %s; begun again at a smaller rate", slot.photo.name, slot.step, fault)
        again = self._open(slot.photo)
        again.attempt, again.why, again.seconds = slot.attempt + 1, fault, again.seconds + slot.seconds
        return again

    def _open(self, photo: TrainingPhoto) -> Slot:
        """A slot at the start: the photo is encoded once."""
        began = time.perf_counter()
        method, base = self.method, self.base
        mirrored = np.ascontiguousarray(photo.image[:, ::-1])
        # One by one: the encoder's arithmetic must not depend on a batch.
        latents = torch.cat([base.encode_images([image]) for image in (photo.image, mirrored)])
        starts = {
            name: first_vectors(base, tower, photo.class_word, method) for name, tower in base.towers.items()
        }
        learned = {
            name: make_parametrization(base, tower, starts[name], method, self.seed)
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
        """One optimizer step of every occupied seat.

        Returns:
            Seat -> what is wrong, for those whose attempt cannot go on.
        """
        began = time.perf_counter()
        method = self.method
        # Whoever has all steps already had the last one before the memory ran out for somebody else's.
        taken = [place for place, slot in enumerate(seats) if slot and slot.step < method.steps]
        if not taken:
            return {}
        leaves = self.objective.leaves(seats)
        loss_diffusion, loss_attention = self.objective.losses(seats, leaves)  # [slots], [slots]
        # A sum, not a mean: a person's gradient must not depend on how many others there are.
        total = loss_diffusion + method.attention_weight * loss_attention
        scale = _HALF_SCALE if self.base.dtype == torch.float16 else 1.0
        (scale * total[taken].sum()).backward()
        losses = torch.stack([loss_diffusion, loss_attention]).detach().tolist()

        failures = {}
        for place in taken:
            slot = seats[place]
            gradients = {name: leaf.grad[place] / scale for name, leaf in leaves.items()}
            reason = step_fault(losses[0][place], losses[1][place], gradients)
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
            if fault := loss_fault(slot.curve) or vector_fault(slot.vectors(), self.vocabulary):
                failures[place] = fault
        share = (time.perf_counter() - began) / len(taken)
        for place in taken:
            seats[place].seconds += share
            if seats[place].curve:
                seats[place].curve[-1]["seconds"] = seats[place].seconds
        return failures

    def finish(self, slot: Slot, slots: int) -> PersonalizeResult:
        """Close one of so many slots: the tokens, and where they look now."""
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
            slots=slots,
            restarted=slot.why,
        )

    @torch.no_grad()
    def _attention(self, slot: Slot) -> torch.Tensor:
        """The attention on the slot's present vectors over its photo, float32 [s, s]."""
        objective = self.objective
        contexts = objective.contexts(slot.vectors())  # [stages, sides, length, context width]
        return photo_attention(
            self.base,
            objective.staged,
            contexts,
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
            rate = learning_rate(self.method, slot.step) * (_RESTART_RATE if slot.attempt > 1 else 1.0)
            group["lr"] = rate * group["share"]
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
