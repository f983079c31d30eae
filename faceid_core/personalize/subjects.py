"""Subjects: whom a prompt is about, and the contexts that follow: a learned person, a plain text, or several of them.

Of several people each one's vectors stand at their own positions, in stages that serve all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from faceid_core.config.control import WHOLE, IdentityUse
from faceid_core.config.method import stage_of
from faceid_core.diffusion.base import TextTower
from faceid_core.errors import BaseMismatch, ConfigurationError

from .conditioning import (
    Contexts,
    TextEncoders,
    class_word_embeddings,
    concatenated,
    encode_plain,
    encode_several,
    encode_vectors,
    expand_kv,
    join_encoders,
    mixed,
    name_contexts,
    name_word_embeddings,
    person_positions,
    tokenize,
    tokenize_plain,
    tokenize_several,
    word_vectors,
)
from .prompts import fill
from .sphere import adjusted
from .tokens import MIXTURE, IdentityTokens

Person = IdentityTokens | str
Subject = Person | tuple[Person, ...]


def subject_contexts(
    base: TextEncoders, prompt: str, subject: Subject, use: IdentityUse = WHOLE
) -> tuple[Contexts, torch.Tensor]:
    """The contexts of a prompt for its subject, for every stage.

    Args:
        prompt: with `V*` once, or with `V1*`, `V2*`, ... for a tuple of people.
        subject: a person's tokens, a plain text that replaces `V*`, or several of them.
        use: how much of each person is used; a plain text is always used whole.

    Returns:
        Contexts, [stages, 2 (K, V), length, context width], and the subject's positions, int64 [n].

    Raises:
        BaseMismatch, ConfigurationError: the prompt, the use or the people together cannot be used.
    """
    if isinstance(subject, tuple):
        return several_contexts(base, prompt, subject, use)
    if isinstance(subject, IdentityTokens):
        return identity_contexts(base, prompt, subject, use)
    return plain_contexts(base, prompt, subject)


def people_of(subject: Subject) -> tuple[Person, ...]:
    """The people of a subject, one or several."""
    return subject if isinstance(subject, tuple) else (subject,)


def identity_contexts(
    base: TextEncoders, prompt: str, tokens: IdentityTokens, use: IdentityUse = WHOLE
) -> tuple[Contexts, torch.Tensor]:
    """The contexts of a prompt for a learned person, for every stage.

    Where `use` leaves the person out, the class word's vectors stand in the same positions. Its adjustments bring vectors
    nearer to the class word's before they are encoded. Its strength interpolates contexts, not vectors: keys and values
    are linear in contexts, so the strength is even at every layer and exact at both ends, while the text encoder
    normalizes vectors, so that half-way vectors do not give a half-way person.

    Returns:
        Contexts, [stages, 2 (K, V), length, context width], and the person's positions, int64 [vectors].

    Raises:
        ConfigurationError: the prompt cannot be used, or `use` names a stage that the tokens do not have.
    """
    prompts = {name: tokenize(tower, prompt, tokens.vectors) for name, tower in base.towers.items()}
    word = {
        name: class_word_embeddings(tower, tokens.class_word, tokens.vectors)[None]
        for name, tower in base.towers.items()
    }
    if tokens.is_mixture:
        _require_unadjusted(use)
        contexts = mixed(name_contexts(base, prompt, tokens.names), tokens.tensors[MIXTURE][:, :, 0])
    else:
        flat = {  # text encoder -> [stages * 2, vectors, width]
            name: _adjusted(tensor.flatten(0, 1), word[name], use) for name, tensor in tokens.tensors.items()
        }
        contexts = encode_vectors(base, prompts, flat).unflatten(tokens.stages, 2)
    if not use.is_whole:
        # [stages, 2]
        shares = torch.tensor(use.uses(tokens.stages), device=contexts.states.device) * use.strength
        contexts = _blended(encode_vectors(base, prompts, word), contexts, shares)
    return contexts, person_positions(prompts)


def plain_contexts(base: TextEncoders, prompt: str, text: str) -> tuple[Contexts, torch.Tensor]:
    """The contexts of a prompt whose `V*` is a plain text: one stage, the same for K and V.

    Returns:
        Contexts, [1, 2, length, context width], and the text's positions, int64 [tokens].
    """
    context = encode_plain(base, fill(prompt, text))  # [1, length, context width]
    positions = tokenize_plain(next(iter(base.towers.values())), prompt, text).positions
    return expand_kv(context), positions


def require_together(people: Sequence[Person]) -> None:
    """Refuse people who cannot stand in one prompt.

    Raises:
        BaseMismatch: they were learned on different base models.
        ConfigurationError: there are none.
    """
    if not people:
        raise ConfigurationError("no person or word is given to draw; name at least one")
    learned = [each for each in people if isinstance(each, IdentityTokens)]
    bases = sorted({(each.base_digest, each.training_timesteps) for each in learned})
    if len(bases) > 1:
        models = ", ".join(f"{digest[:12] or '(unnamed)'} with {steps} timesteps" for digest, steps in bases)
        raise BaseMismatch(
            f"the people of one prompt were learned on different base models ({models}); "
            "personalize them on the same one"
        )


def common_boundaries(people: Sequence[Person]) -> tuple[int, ...]:
    """The union of all stage boundaries: within each of the common stages no person's vectors change."""
    return tuple(sorted({b for each in people if isinstance(each, IdentityTokens) for b in each.boundaries}))


def several_contexts(
    base: TextEncoders, prompt: str, people: Sequence[Person], use: IdentityUse = WHOLE
) -> tuple[Contexts, torch.Tensor]:
    """The contexts of a prompt with `V1*`, `V2*`, ... for several people or plain words, for every common stage.

    A mixture of known names enters to first order: what its names change of the prompt in which class words stand is
    added. Exact would be every combination of names, their number to the power of
    the people. (Reconstruction: the paper has one person.)

    Args:
        use: how much of each person is used; its stages are each person's own. Plain words are used whole.

    Returns:
        Contexts, [common stages, 2 (K, V), length, context width], and the positions of all people, int64 [n].

    Raises:
        BaseMismatch, ConfigurationError: as `require_together`, `tokenize_several` and `IdentityUse.within`.
    """
    require_together(people)
    begins = (0, *common_boundaries(people))  # the first timestep of each common stage
    contexts, plain, where = [], [], torch.empty(0, dtype=torch.int64)
    added: list[list[Contexts]] = [[] for _ in people]  # of each mixture, its part for each text encoder
    for number, (name, tower) in enumerate(base.towers.items()):
        words = [_plain_vectors(tower, each) for each in people]  # of each person's class word, [vectors, width]
        used = [  # of each person, [common stages * 2, vectors, width]
            _used_vectors(each, name, word, begins, use) for each, word in zip(people, words, strict=True)
        ]
        ids, positions = tokenize_several(tower, prompt, [len(word) for word in words])
        contexts.append(encode_several(tower, ids, positions, used))
        for parts, person, at in zip(added, people, range(len(people)), strict=True):
            if isinstance(person, IdentityTokens) and person.is_mixture:
                weights = _used_weights(person, begins, use)
                parts.append(_mixture_part(tower, ids, positions, words, at, person, weights))
        if use.strength < 1:
            plain.append(encode_several(tower, ids, positions, [word[None] for word in words]))
        if number == 0:
            where = torch.cat(positions)
    found = join_encoders(contexts)
    for parts in filter(None, added):
        found = found.plus(join_encoders(parts))
    found = found.unflatten(len(begins), 2)
    if use.strength < 1:
        shares = torch.full((len(begins), 2), use.strength, device=found.states.device)
        found = _blended(join_encoders(plain), found, shares)
    return found, where


def _used_vectors(
    person: Person, tower: str, word: torch.Tensor, begins: Sequence[int], use: IdentityUse
) -> torch.Tensor:
    """A person's vectors for K and V of every common stage, the class word's where they are not used.

    Returns:
        float32 [common stages * 2, vectors, width].
    """
    if isinstance(person, str):
        return word.expand(len(begins) * 2, -1, -1)
    own = [stage_of(begin, person.boundaries) for begin in begins]
    used = torch.tensor(use.uses(person.stages))[own].to(word.device)  # bool [common stages, 2]
    if person.is_mixture:
        _require_unadjusted(use)
        return word.expand(len(begins) * 2, -1, -1)  # the mixture's part is added to the contexts
    # [common stages, 2, vectors, width]
    vectors = _adjusted(person.tensors[tower][own].to(word.device), word, use)
    return torch.where(used[:, :, None, None], vectors, word).flatten(0, 1)


def _require_unadjusted(use: IdentityUse) -> None:
    """Raises ConfigurationError if a use adjusts vectors, of which a mixture of known names has none."""
    if use.adjusts:
        raise ConfigurationError(
            "the person is a mixture of known names and has no vectors whose length or direction could be adjusted; "
            "leave generate.adjust_length and generate.adjust_direction at 0, or use generate.use_strength"
        )


def _plain_vectors(tower: TextTower, person: Person) -> torch.Tensor:
    """The vectors [vectors, width] that stand for a person who is left out: the class word's, or the text's own."""
    if isinstance(person, str):
        return word_vectors(tower, person)
    return class_word_embeddings(tower, person.class_word, person.vectors)


def _used_weights(person: IdentityTokens, begins: Sequence[int], use: IdentityUse) -> torch.Tensor:
    """A mixture's weights in the common stages, float32 [common stages * 2, names]; zeros where it is not used."""
    own = [stage_of(begin, person.boundaries) for begin in begins]
    used = torch.tensor(use.uses(person.stages))[own]  # bool [common stages, 2]
    weights = person.tensors[MIXTURE][own][:, :, 0]  # [common stages, 2, names]
    return torch.where(used[:, :, None], weights, torch.zeros(())).flatten(0, 1)


def _mixture_part(
    tower: TextTower,
    ids: torch.Tensor,
    positions: Sequence[torch.Tensor],
    words: Sequence[torch.Tensor],
    at: int,
    person: IdentityTokens,
    weights: torch.Tensor,
) -> Contexts:
    """What a mixture adds to one text encoder's contexts in which its class word stands.

    Args:
        ids, positions: of the prompt, as `tokenize_several` has them.
        words: each person's plain vectors.
        at: the mixture's place among the people.
        weights: float32 [n, names]; rows of zeros add nothing.

    Returns:
        [n, length, width].
    """
    names = name_word_embeddings(tower, person.names)  # [names, 2, width]
    placed = [word.expand(len(names), -1, -1) for word in words]
    placed[at] = names
    each = encode_several(tower, ids, positions, placed)
    word = encode_several(tower, ids, positions, [word[None] for word in words])
    return mixed(concatenated([each, word]), torch.cat([weights, -weights.sum(dim=1, keepdim=True)], dim=1))


def _adjusted(vectors: torch.Tensor, word: torch.Tensor, use: IdentityUse) -> torch.Tensor:
    """Learned vectors [..., vectors, width], nearer to the class word's as `use` says; bitwise as they are by default."""
    if not use.adjusts:
        return vectors
    return adjusted(vectors.to(word.device), word, use.adjust_length, use.adjust_direction)


def _blended(plain: Contexts, contexts: Contexts, shares: torch.Tensor) -> Contexts:
    """Interpolate from the class word's contexts to the person's; exact at both ends.

    Args:
        plain: [1, ...] of the class word.
        contexts: [stages, 2, ...] of the person.
        shares: float [stages, 2], 0 (the class word) to 1 (the person).
    """

    def blend(word: torch.Tensor, person: torch.Tensor) -> torch.Tensor:
        weight = shares.to(person.dtype).reshape(*shares.shape, *[1] * (person.ndim - 2)).expand_as(person)
        return torch.lerp(word.expand_as(person), person, weight)

    pooled = None
    if plain.pooled is not None and contexts.pooled is not None:
        pooled = blend(plain.pooled, contexts.pooled)
    return Contexts(blend(plain.states, contexts.states), pooled)
