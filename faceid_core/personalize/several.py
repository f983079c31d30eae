"""Several people in one prompt: each person's vectors stand in their own places, in stages that serve them all."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from faceid_core.errors import BaseMismatch, ConfigurationError

from .conditioning import TextSide, encode_several, start_vectors, tokenize_several, word_vectors
from .contexts import Contexts, blended, side_by_side
from .control import WHOLE, IdentityUse
from .stages import stage_of
from .tokens import IdentityTokens

Person = IdentityTokens | str


def require_together(people: Sequence[Person]) -> None:
    """Refuse people who cannot stand in one prompt.

    Raises:
        BaseMismatch: they were learned on different base models.
        ConfigurationError: nobody is given.
    """
    if not people:
        raise ConfigurationError("nobody is given to draw; name at least one person or word")
    learned = [each for each in people if isinstance(each, IdentityTokens)]
    bases = sorted({(each.base_digest, each.training_timesteps) for each in learned})
    if len(bases) > 1:
        told = ", ".join(f"{digest[:12] or '(unnamed)'} with {steps} timesteps" for digest, steps in bases)
        raise BaseMismatch(
            f"the people of one prompt were learned on different base models ({told}); "
            "personalize them on the same one"
        )


def common_boundaries(people: Sequence[Person]) -> tuple[int, ...]:
    """The union of everybody's stage boundaries: within each of its stages nobody changes vectors."""
    return tuple(sorted({b for each in people if isinstance(each, IdentityTokens) for b in each.boundaries}))


def several_contexts(
    base: TextSide, prompt: str, people: Sequence[Person], use: IdentityUse = WHOLE
) -> tuple[Contexts, torch.Tensor]:
    """The contexts of a prompt with `V1*`, `V2*`, ... for several people or plain words, for every common stage.

    Args:
        use: how much of each person is used; its stages are each person's own. Plain words are used whole.

    Returns:
        Contexts, [common stages, 2 (K, V), length, context width], and everybody's positions, int64 [n].

    Raises:
        BaseMismatch, ConfigurationError: as `require_together`, `tokenize_several` and `IdentityUse.within`.
    """
    require_together(people)
    begins = (0, *common_boundaries(people))  # the first timestep of each common stage
    contexts, plain, where = [], [], torch.empty(0, dtype=torch.int64)
    for place, (name, tower) in enumerate(base.towers.items()):
        # Of each person [stages * 2, vectors, width] as used, and [1, vectors, width] of the class word.
        words = [
            word_vectors(tower, each)
            if isinstance(each, str)
            else start_vectors(tower, each.class_word, each.vectors)
            for each in people
        ]
        used = [
            _used_vectors(each, name, word, begins, use) for each, word in zip(people, words, strict=True)
        ]
        ids, positions = tokenize_several(tower, prompt, [len(word) for word in words])
        contexts.append(encode_several(tower, ids, positions, used))
        if use.strength < 1:
            plain.append(encode_several(tower, ids, positions, [word[None] for word in words]))
        if place == 0:
            where = torch.cat(positions)
    found = side_by_side(contexts).unflatten(len(begins), 2)
    if use.strength < 1:
        shares = torch.full((len(begins), 2), use.strength, device=found.states.device)
        found = blended(side_by_side(plain), found, shares)
    return found, where


def _used_vectors(
    person: Person, tower: str, word: torch.Tensor, begins: Sequence[int], use: IdentityUse
) -> torch.Tensor:
    """A person's vectors in every common stage and side, the class word's where they are not used.

    Returns:
        float32 [common stages * 2, vectors, width].
    """
    if isinstance(person, str):
        return word.expand(len(begins) * 2, -1, -1)
    own = [stage_of(begin, person.boundaries) for begin in begins]
    sides = torch.tensor(use.uses(person.stages))[own].to(word.device)  # [common stages, 2]
    vectors = person.tensors[tower][own].to(word.device)  # [common stages, 2, vectors, width]
    return torch.where(sides[:, :, None, None], vectors, word).flatten(0, 1)
