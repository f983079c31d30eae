"""Conditioning: turns a prompt and a person's vectors into contexts, by substituting token embeddings.

The placeholder takes `vectors` token positions. At those positions the frozen text encoder's token embedding
is replaced by the person's vectors, so that gradients reach them and nothing of the model changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from faceid_core.diffusion.base import TextTower
from faceid_core.errors import ConfigurationError

from .contexts import Contexts, blended, side_by_side
from .control import WHOLE, IdentityUse
from .prompts import fill, split_prompt, split_several
from .tokens import IdentityTokens


class TextSide(Protocol):
    """What encoding asks of a base model: its text encoders, and where it computes."""

    towers: Mapping[str, TextTower]
    device: torch.device


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt as token ids with places for a person.

    Attributes:
        ids: int64 [length]; at `positions` they are placeholders that the vectors replace.
        positions: int64 [vectors], the person's places in the context.
    """

    ids: torch.Tensor
    positions: torch.Tensor


def tokenize(tower: TextTower, prompt: str, vectors: int) -> TokenizedPrompt:
    """Tokenize a prompt whose `V*` takes a number of token positions.

    Raises:
        ConfigurationError: the prompt is too long for the model, or has not exactly one placeholder.
    """
    before, after = (_word_ids(tower, text) for text in split_prompt(prompt))
    held = [_held_id(tower)] * vectors
    start = 1 + len(before)
    ids = _framed(tower, [*before, *held, *after], prompt)
    return TokenizedPrompt(ids, torch.arange(start, start + vectors))


def tokenize_plain(tower: TextTower, prompt: str, text: str) -> TokenizedPrompt:
    """Tokenize a prompt whose `V*` is replaced by a plain text; its positions are those of that text.

    Raises:
        ConfigurationError: as `tokenize`.
    """
    before, after = (_word_ids(tower, part) for part in split_prompt(prompt))
    held = _word_ids(tower, text)
    start = 1 + len(before)
    ids = _framed(tower, [*before, *held, *after], fill(prompt, text))
    return TokenizedPrompt(ids, torch.arange(start, start + len(held)))


def start_vectors(tower: TextTower, class_word: str, vectors: int) -> torch.Tensor:
    """The vectors from which training starts and which the reference prompt keeps: the class word's.

    A class word of fewer tokens than vectors repeats its last token; of a longer one the last vector is the
    mean of the tokens left over. With as many tokens as vectors the result is the ordinary prompt's, bit by
    bit.

    Returns:
        float32 [vectors, width].

    Raises:
        ConfigurationError: the class word is empty.

    Source: class-word start, Gal et al. 2022 and relatives; uneven token counts, reconstruction.
    """
    ids = _word_ids(tower, class_word)
    if not ids:
        raise ConfigurationError(f"the class word {class_word!r} has no token; use a word such as 'person'")
    embedded = tower.token_embedding.weight[ids].float()  # [tokens, width]
    if len(ids) > vectors:
        rest = embedded[vectors - 1 :].mean(dim=0, keepdim=True)
        return torch.cat([embedded[: vectors - 1], rest])
    return torch.cat([embedded, embedded[-1:].expand(vectors - len(ids), -1)])


def encode(tower: TextTower, tokenized: TokenizedPrompt, vectors: torch.Tensor) -> Contexts:
    """Run the text encoder with vectors in the person's places.

    Args:
        vectors: float32 [n, vectors, width], one set for each context.

    Returns:
        n contexts, [n, length, width]; the gradient reaches the vectors only.
    """
    device = tower.token_embedding.weight.device
    count = len(vectors)
    ids = tokenized.ids.to(device).expand(count, -1)  # [n, length]
    first, last = int(tokenized.positions[0]), int(tokenized.positions[-1]) + 1
    with _substituted(tower, vectors.to(device), first, last):
        return Contexts(*tower.read(ids))


def encode_plain(base: TextSide, prompt: str) -> Contexts:
    """The context of an ordinary prompt, [1, length, context width].

    Raises:
        ConfigurationError: the prompt is too long for the model.
    """
    contexts = []
    for tower in base.towers.values():
        ids = _framed(tower, _word_ids(tower, prompt), prompt)[None].to(base.device)  # [1, length]
        contexts.append(Contexts(*tower.read(ids)))
    return side_by_side(contexts)


def encode_vectors(
    base: TextSide, prompts: Mapping[str, TokenizedPrompt], vectors: Mapping[str, torch.Tensor]
) -> Contexts:
    """Contexts of one prompt with many sets of vectors, over all text encoders.

    Args:
        prompts: text encoder -> the tokenized prompt.
        vectors: text encoder -> float32 [n, vectors, width].

    Returns:
        n contexts, [n, length, context width].
    """
    return side_by_side([encode(tower, prompts[name], vectors[name]) for name, tower in base.towers.items()])


def person_positions(prompts: Mapping[str, TokenizedPrompt]) -> torch.Tensor:
    """The person's positions, int64 [vectors], which must be the same for every text encoder of a model.

    Raises:
        ConfigurationError: the tokenizers cut the prompt differently.
    """
    first, *others = [prompt.positions for prompt in prompts.values()]
    if not all(torch.equal(first, each) for each in others):
        raise ConfigurationError(
            f"the model's tokenizers ({', '.join(prompts)}) cut the prompt differently, so the person has no common "
            "place in it; use a model whose text encoders share a vocabulary"
        )
    return first


def identity_contexts(
    base: TextSide, prompt: str, tokens: IdentityTokens, use: IdentityUse = WHOLE
) -> tuple[Contexts, torch.Tensor]:
    """The contexts of a prompt for a learned person, for every stage.

    Where `use` leaves the person out, the class word's vectors stand in the same positions. Its strength blends
    contexts, not vectors: keys and values are linear in contexts, so the dial is even at every layer and its two
    ends are exact, while the text encoder normalizes vectors, so that half-way vectors are no half-way person.

    Returns:
        Contexts, [stages, 2 (K, V), length, context width], and the person's positions, int64 [vectors].

    Raises:
        ConfigurationError: the prompt cannot be used, or `use` names a stage that the tokens do not have.
    """
    prompts = {name: tokenize(tower, prompt, tokens.vectors) for name, tower in base.towers.items()}
    flat = {
        name: tensor.flatten(0, 1) for name, tensor in tokens.tensors.items()
    }  # [stages * 2, vectors, width]
    contexts = encode_vectors(base, prompts, flat).unflatten(tokens.stages, 2)
    if not use.is_whole:
        word = {
            name: start_vectors(tower, tokens.class_word, tokens.vectors)[None]
            for name, tower in base.towers.items()
        }
        # [stages, 2]
        shares = torch.tensor(use.uses(tokens.stages), device=contexts.states.device) * use.strength
        contexts = blended(encode_vectors(base, prompts, word), contexts, shares)
    return contexts, person_positions(prompts)


def plain_contexts(base: TextSide, prompt: str, text: str) -> tuple[Contexts, torch.Tensor]:
    """The contexts of a prompt whose `V*` is a plain text: one stage, the same for K and V.

    Returns:
        Contexts, [1, 2, length, context width], and the text's positions, int64 [tokens].
    """
    context = encode_plain(base, fill(prompt, text))  # [1, length, context width]
    positions = tokenize_plain(next(iter(base.towers.values())), prompt, text).positions
    return both_sides(context), positions


def both_sides(contexts: Contexts) -> Contexts:
    """Contexts [n, ...] as those of keys and values alike, [n, 2, ...]."""
    return contexts.map(lambda each: each[:, None].expand(-1, 2, *each.shape[1:]))


def tokenize_several(
    tower: TextTower, prompt: str, counts: Sequence[int]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Tokenize a prompt whose `V1*`, `V2*`, ... take numbers of token positions.

    Returns:
        Token ids, int64 [length], and each person's positions, int64 [count], in the order of the counts.

    Raises:
        ConfigurationError: the prompt is too long for the model, or its placeholders are not the people's.
    """
    pieces, order = split_several(prompt, len(counts))
    words, positions = _word_ids(tower, pieces[0]), {}
    for piece, person in zip(pieces[1:], order, strict=True):
        start = 1 + len(words)
        positions[person] = torch.arange(start, start + counts[person])
        words += [_held_id(tower)] * counts[person] + _word_ids(tower, piece)
    return _framed(tower, words, prompt), [positions[person] for person in range(len(counts))]


def encode_several(
    tower: TextTower, ids: torch.Tensor, positions: Sequence[torch.Tensor], vectors: Sequence[torch.Tensor]
) -> Contexts:
    """Run the text encoder with each person's vectors in that person's places.

    Args:
        ids: int64 [length].
        positions: each person's, int64 [vectors].
        vectors: each person's, float32 [n, vectors, width], one set for each context.

    Returns:
        n contexts, [n, length, width].
    """
    device = tower.token_embedding.weight.device
    with ExitStack() as stack:
        for places, each in zip(positions, vectors, strict=True):
            first, last = int(places[0]), int(places[-1]) + 1
            stack.enter_context(_substituted(tower, each.to(device), first, last))
        return Contexts(*tower.read(ids.to(device).expand(len(vectors[0]), -1)))


def word_vectors(tower: TextTower, text: str) -> torch.Tensor:
    """The token embeddings of a plain text, float32 [tokens, width].

    Raises:
        ConfigurationError: the text is empty.
    """
    return start_vectors(tower, text, max(1, len(_word_ids(tower, text))))


@contextmanager
def _substituted(tower: TextTower, vectors: torch.Tensor, first: int, last: int) -> Iterator[None]:
    """While it lasts, the token embedding gives the vectors at positions first to last - 1."""

    def substitute(_module: torch.nn.Module, _inputs: tuple, embedded: torch.Tensor) -> torch.Tensor:
        # embedded: [n, length, width]
        return torch.cat([embedded[:, :first], vectors.to(embedded.dtype), embedded[:, last:]], dim=1)

    handle = tower.token_embedding.register_forward_hook(substitute)
    try:
        yield
    finally:
        handle.remove()


def _held_id(tower: TextTower) -> int:
    """The id that holds a vector's place. The encoder pools at the first or highest end-of-text id: not that one."""
    return tower.tokenizer.bos_token_id


def _word_ids(tower: TextTower, text: str) -> list[int]:
    text = text.strip()
    return list(tower.tokenizer(text, add_special_tokens=False).input_ids) if text else []


def _framed(tower: TextTower, words: list[int], prompt: str) -> torch.Tensor:
    """Token ids with start, end and padding, int64 [length]."""
    tokenizer = tower.tokenizer
    if len(words) > tower.length - 2:
        raise ConfigurationError(
            f"the prompt {prompt!r} takes {len(words)} tokens, the model reads {tower.length - 2}; shorten it"
        )
    ids = [tokenizer.bos_token_id, *words, tokenizer.eos_token_id]
    return torch.tensor(ids + [tokenizer.pad_token_id] * (tower.length - len(ids)))
