"""Generation: draws pictures of learned people, and of plain words, in batches of a fixed shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from faceid_core.config.control import WHOLE, IdentityUse
from faceid_core.config.method import stage_of
from faceid_core.diffusion.base import BaseModel
from faceid_core.errors import ConfigurationError
from faceid_core.personalize.attention import (
    AttentionRecorder,
    ProjectedContexts,
    StagedUNet,
    concatenate_projected,
)
from faceid_core.personalize.conditioning import encode_plain
from faceid_core.personalize.subjects import (
    Subject,
    common_boundaries,
    people_of,
    require_together,
    subject_contexts,
)
from faceid_core.personalize.tokens import IdentityTokens

from .sampling import denoise, make_scheduler


@dataclass(frozen=True, eq=False)
class DrawRequest:
    """One picture to draw.

    Attributes:
        subject: a person's tokens, or a plain text (class word, name) that replaces `V*`; or several of them,
            which replace `V1*`, `V2*`, ...
        prompt: with `V*` exactly once, or with the numbered placeholders of several people.
        seed: of the initial noise, which is the same for every subject and prompt.
        use: how much of the person is used; a plain text is always used whole.
    """

    subject: Subject
    prompt: str
    seed: int
    use: IdentityUse = WHOLE


@dataclass(frozen=True)
class Drawn:
    """A picture.

    Attributes:
        image: uint8 [height, width, 3] RGB.
        attention: float16 [h, w], attention on the subject's positions, averaged over heads, layers and steps
            at the size of the largest attention map; None if it was not recorded.
    """

    image: np.ndarray
    attention: np.ndarray | None


@dataclass(frozen=True)
class _PreparedSubject:
    """A (subject, prompt) pair ready for drawing: a projected row per stage, and the subject's positions."""

    projected: ProjectedContexts
    columns: torch.Tensor  # float32 [length], 1 at the subject's positions
    stages: int
    boundaries: tuple[int, ...]

    def stage_of(self, timestep: float) -> int:
        return stage_of(timestep, self.boundaries)


def draw(
    base: BaseModel,
    requests: Sequence[DrawRequest],
    *,
    sampler: str = "DPMSolverMultistepScheduler",
    steps: int = 25,
    guidance_scale: float = 5.0,
    batch: int = 16,
    size: tuple[int, int] | None = None,
    record_attention: bool = True,
    on_step: Callable[[], object] = lambda: None,
) -> Iterator[Drawn]:
    """Draw pictures, in the order of the requests.

    A picture depends on base model, tokens, prompt, seed, sampler, steps, guidance, size and batch only, not on its
    companions: the last batch is filled up, and contexts are encoded for each (subject, prompt) by itself.
    Requests that share subject and prompt should follow one another.

    Args:
        sampler: name of a diffusers scheduler.
        guidance_scale: of classifier-free guidance; 1 draws without guidance.
        batch: pictures drawn together.
        size: height and width in pixels; None for the base model's own.
        on_step: called after every sampling step of a batch; a batch may take minutes.

    Raises:
        BaseMismatch: tokens of another base model, or of several in one prompt.
        ConfigurationError: a prompt, a use, the sampler or the size cannot be used.
    """
    base.description.latent_shape_of(size)
    if batch < 1 or steps < 1:
        raise ConfigurationError(f"batch {batch} and steps {steps} must both be at least 1")
    for request in requests:
        people = people_of(request.subject)
        require_together(people)
        for person in people:
            if isinstance(person, IdentityTokens):
                person.require_base(base.description.digest)
                request.use.within(person.stages)
    make_scheduler(sampler, base.scheduler_config, steps)
    return _Drawing(base, sampler, steps, guidance_scale, batch, size, record_attention, on_step).run(requests)


class _Drawing:
    """One call of `draw`: what all its batches share."""

    def __init__(
        self,
        base: BaseModel,
        sampler: str,
        steps: int,
        guidance_scale: float,
        batch: int,
        size: tuple[int, int] | None,
        record: bool,
        on_step: Callable[[], object],
    ):
        self.base, self.sampler, self.steps, self.on_step = base, sampler, steps, on_step
        self.guidance_scale, self.batch, self.size, self.record = guidance_scale, batch, size, record
        self.staged = StagedUNet.of(base)
        with torch.no_grad():
            empty = encode_plain(base, "")  # [1, length, context width]
            if base.description.zero_unconditional:
                empty = empty.zeros()
            self.unconditional = self.staged.project(empty.states, empty.states, empty.pooled)
        self.known: dict[tuple, _PreparedSubject] = {}

    def run(self, requests: Sequence[DrawRequest]) -> Iterator[Drawn]:
        for first in range(0, len(requests), self.batch):
            wanted = requests[first : first + self.batch]
            yield from self._draw_batch(wanted)

    def _draw_batch(self, wanted: Sequence[DrawRequest]) -> list[Drawn]:
        # The shape never changes: a short batch repeats its first picture and drops the copies.
        filled = [*wanted, *([wanted[0]] * (self.batch - len(wanted)))]
        keys = [_key(request) for request in filled]
        self.known = {
            key: self.known.get(key) or self._prepare(request)
            for key, request in dict(zip(keys, filled, strict=True)).items()
        }
        first_row, total = {}, 1  # row 0 is the unconditional context
        for key, subject in self.known.items():
            first_row[key] = total
            total += subject.stages
        projected = concatenate_projected(
            [self.unconditional, *(subject.projected for subject in self.known.values())]
        )
        scheduler = make_scheduler(self.sampler, self.base.scheduler_config, self.steps)
        rows = {}
        for timestep in map(float, scheduler.timesteps):
            chosen = [first_row[key] + self.known[key].stage_of(timestep) for key in keys]
            unconditional = [0] * self.batch if self.guidance_scale > 1 else []
            rows[timestep] = torch.tensor(unconditional + chosen, device=self.base.device)
        recorder = None
        if self.record:
            columns = torch.stack([self.known[key].columns for key in keys])  # [batch, length]
            recorder = AttentionRecorder(columns, self.base.description.latent_shape_of(self.size)[1:])
        latents = denoise(
            self.base,
            self.staged,
            scheduler,
            projected,
            rows,
            [request.seed for request in filled],
            guidance_scale=self.guidance_scale,
            recorder=recorder,
            size=self.size,
            on_step=self.on_step,
        )
        images = self.base.decode_latents(latents)  # [batch, height, width, 3]
        maps = recorder.maps().to(torch.float16).cpu().numpy() if recorder else [None] * self.batch
        return [Drawn(images[index], maps[index]) for index in range(len(wanted))]

    @torch.no_grad()
    def _prepare(self, request: DrawRequest) -> _PreparedSubject:
        """Encode and project a (subject, prompt) pair; by itself, so that its bits depend on nothing else."""
        # contexts: [stages, 2 (K, V), length, context width]; positions: int64 [n]
        contexts, positions = subject_contexts(self.base, request.prompt, request.subject, request.use)
        columns = torch.zeros(contexts.states.shape[2], device=self.base.device)
        columns[positions] = 1
        return _PreparedSubject(
            projected=self.staged.project_kv(contexts),
            columns=columns,
            stages=len(contexts),
            boundaries=common_boundaries(people_of(request.subject)),
        )


def _key(request: DrawRequest) -> tuple:
    """What tells (subject, prompt, use) apart within a call: tokens by identity, texts by value."""
    people = tuple(each if isinstance(each, str) else id(each) for each in people_of(request.subject))
    # One person as a tuple has another placeholder than alone, so the prompt tells them apart.
    return people, request.prompt, request.use
