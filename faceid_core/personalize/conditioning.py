"""Conditioning: turns a prompt and a person's vectors into contexts, by substituting token embeddings.

The placeholder takes `vectors` token positions. At those positions the person's vectors replace the frozen text
encoder's token embedding, so that gradients reach the vectors and nothing of the model changes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

import torch

from faceid_core.diffusion.base import BaseModel, TextTower
from faceid_core.errors import ConfigurationError

from .prompts import fill, split_prompt, split_several

_NAMES_AT_ONCE = 64  # names in one call of a text encoder, to bound its memory
_NAME_CONTEXTS_BYTES = 512 << 20  # what the contexts of known names that are kept may take
# U-Net of a base model -> (prompt, names) -> the names' contexts, the latest last.
_NAME_CONTEXTS: WeakKeyDictionary[torch.nn.Module, OrderedDict[tuple[str, tuple[str, ...]], Contexts]] = (
    WeakKeyDictionary()
)


class TextEncoders(Protocol):
    """What encoding needs of a base model: its text encoders, and the device on which it computes."""

    @property
    def towers(self) -> Mapping[str, TextTower]:
        """Text encoder's name -> the encoder with its tokenizer."""
        ...

    @property
    def device(self) -> torch.device:
        """Where contexts are computed."""
        ...


@dataclass(frozen=True)
class Contexts:
    """What the text encoders make of prompts, with the pooled embeddings; both have the same leading dimensions.

    Attributes:
        states: [..., length, context width], one vector for each token.
        pooled: [..., pooled width], one vector for the whole prompt, where the U-Net reads it (SDXL); else None.
    """

    states: torch.Tensor
    pooled: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Contexts:
        """The same change of leading dimensions for both tensors."""
        return Contexts(change(self.states), None if self.pooled is None else change(self.pooled))

    def __getitem__(self, index) -> Contexts:
        return self.map(lambda each: each[index])

    def unflatten(self, *shape: int) -> Contexts:
        """The first dimension split into several."""
        return self.map(lambda each: each.unflatten(0, shape))

    def plus(self, other: Contexts) -> Contexts:
        """The sum with contexts of the same shapes."""
        pooled = None if self.pooled is None or other.pooled is None else self.pooled + other.pooled
        return Contexts(self.states + other.states, pooled)

    def zeros(self) -> Contexts:
        """Zeros of the same shapes."""
        return self.map(torch.zeros_like)


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt as token ids with positions for a person.

    Attributes:
        ids: int64 [length]; at `positions` they are placeholders that the vectors replace.
        positions: int64 [vectors], the person's positions in the context.
    """

    ids: torch.Tensor
    positions: torch.Tensor


def tokenize(tower: TextTower, prompt: str, vectors: int) -> TokenizedPrompt:
    """Tokenize a prompt whose `V*` takes a number of token positions.

    Raises:
        ConfigurationError: the prompt is too long for the model, or has not exactly one placeholder.
    """
    before, after = (_word_ids(tower, text) for text in split_prompt(prompt))
    placeholders = [_placeholder_id(tower)] * vectors
    first = 1 + len(before)
    ids = _framed(tower, [*before, *placeholders, *after], prompt)
    return TokenizedPrompt(ids, torch.arange(first, first + vectors))


def tokenize_plain(tower: TextTower, prompt: str, text: str) -> TokenizedPrompt:
    """Tokenize a prompt whose `V*` is replaced by a plain text; its positions are those of that text.

    Raises:
        ConfigurationError: as `tokenize`.
    """
    before, after = (_word_ids(tower, part) for part in split_prompt(prompt))
    words = _word_ids(tower, text)
    first = 1 + len(before)
    ids = _framed(tower, [*before, *words, *after], fill(prompt, text))
    return TokenizedPrompt(ids, torch.arange(first, first + len(words)))


def class_word_embeddings(tower: TextTower, class_word: str, vectors: int) -> torch.Tensor:
    """The class word's token embeddings: an initial embedding, and what stands in the reference prompt.

    A class word of fewer tokens than vectors repeats its last token; of a longer one the last vector is the
    mean of the tokens left over. With as many tokens as vectors the result is the ordinary prompt's, bit by
    bit.

    Returns:
        float32 [vectors, width].

    Raises:
        ConfigurationError: the class word is empty.

    Source: initial embedding, Gal et al. 2022 and relatives; uneven token counts, reconstruction.
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
    """Run the text encoder with vectors at the person's positions.

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


def encode_plain(base: TextEncoders, prompt: str) -> Contexts:
    """The context of an ordinary prompt, [1, length, context width].

    Raises:
        ConfigurationError: the prompt is too long for the model.
    """
    contexts = []
    for tower in base.towers.values():
        ids = _framed(tower, _word_ids(tower, prompt), prompt)[None].to(base.device)  # [1, length]
        contexts.append(Contexts(*tower.read(ids)))
    return join_encoders(contexts)


def encode_vectors(
    base: TextEncoders, prompts: Mapping[str, TokenizedPrompt], vectors: Mapping[str, torch.Tensor]
) -> Contexts:
    """Contexts of one prompt with many sets of vectors, over all text encoders.

    Args:
        prompts: text encoder -> the tokenized prompt.
        vectors: text encoder -> float32 [n, vectors, width].

    Returns:
        n contexts, [n, length, context width].
    """
    return join_encoders([encode(tower, prompts[name], vectors[name]) for name, tower in base.towers.items()])


@torch.no_grad()
def name_contexts(base: TextEncoders, prompt: str, names: Sequence[str]) -> Contexts:
    """Contexts of one prompt with each of many known names of two words in place of `V*`.

    Of a base model, whose weights never change, the latest are kept: all people of a run have the same prompts and names.

    Returns:
        One context a name, [names, length, context width].

    Raises:
        ConfigurationError: a name is not two tokens long, or the prompt cannot be used.
    """
    if not isinstance(base, BaseModel):
        return _encoded_names(base, prompt, names)
    kept = _NAME_CONTEXTS.setdefault(base.unet, OrderedDict())
    question = prompt, tuple(names)
    if question not in kept:
        kept[question] = _encoded_names(base, prompt, names)
    kept.move_to_end(question)
    while len(kept) > 1 and len(kept) * kept[question].states.nbytes > _NAME_CONTEXTS_BYTES:
        kept.popitem(last=False)
    return kept[question]


def _encoded_names(base: TextEncoders, prompt: str, names: Sequence[str]) -> Contexts:
    encoded = []
    for tower in base.towers.values():
        tokenized = tokenize(tower, prompt, 2)
        vectors = name_word_embeddings(tower, names)  # [names, 2, width]
        parts = [encode(tower, tokenized, part) for part in vectors.split(_NAMES_AT_ONCE)]
        encoded.append(concatenated(parts))
    return join_encoders(encoded)


def name_word_embeddings(tower: TextTower, names: Sequence[str]) -> torch.Tensor:
    """The token embeddings of names of two tokens, float32 [names, 2, width].

    Raises:
        ConfigurationError: a name is not two tokens long.
    """
    ids = [_word_ids(tower, name) for name in names]
    odd = [name for name, words in zip(names, ids, strict=True) if len(words) != 2]
    if odd:
        raise ConfigurationError(
            f"{len(odd)} known names are not two tokens long for {tower.name} (the first is {odd[0]!r}); leave them out"
        )
    device = tower.token_embedding.weight.device
    return tower.token_embedding.weight[torch.tensor(ids, device=device)].float()


def two_token_names(towers: Iterable[TextTower], names: Sequence[str]) -> list[str]:
    """The names that are two tokens long for every text encoder, in their order."""
    encoders = list(towers)
    return [name for name in names if all(len(_word_ids(tower, name)) == 2 for tower in encoders)]


def mixed(contexts: Contexts, weights: torch.Tensor) -> Contexts:
    """Affine combinations of contexts, computed in float32.

    Args:
        contexts: n contexts, [n, ...].
        weights: float32 [..., n]; each row sums to 1, or to 0 for a difference.

    Returns:
        [..., length, context width] in the contexts' precision; the gradient reaches the weights.
    """

    def combine(each: torch.Tensor) -> torch.Tensor:
        return torch.tensordot(weights.to(each.device), each.float(), dims=1).to(each.dtype)

    return contexts.map(combine)


def person_positions(prompts: Mapping[str, TokenizedPrompt]) -> torch.Tensor:
    """The person's positions, int64 [vectors], which must be the same for every text encoder of a model.

    Raises:
        ConfigurationError: the tokenizers cut the prompt differently.
    """
    first, *others = [prompt.positions for prompt in prompts.values()]
    if not all(torch.equal(first, each) for each in others):
        raise ConfigurationError(
            f"the model's tokenizers ({', '.join(prompts)}) cut the prompt differently, so the person has no common "
            "position in it; use a model whose text encoders share a vocabulary"
        )
    return first


def expand_kv(contexts: Contexts) -> Contexts:
    """Contexts [n, ...] used for both K and V, [n, 2, ...]."""
    return contexts.map(lambda each: each[:, None].expand(-1, 2, *each.shape[1:]))


def tokenize_several(
    tower: TextTower, prompt: str, counts: Sequence[int]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Tokenize a prompt whose `V1*`, `V2*`, ... take numbers of token positions.

    Returns:
        Token ids, int64 [length], and each person's positions, int64 [count], in the order of the counts.

    Raises:
        ConfigurationError: the prompt is too long for the model, or its placeholders do not fit the people.
    """
    pieces, order = split_several(prompt, len(counts))
    words, positions = _word_ids(tower, pieces[0]), {}
    for piece, person in zip(pieces[1:], order, strict=True):
        first = 1 + len(words)
        positions[person] = torch.arange(first, first + counts[person])
        words += [_placeholder_id(tower)] * counts[person] + _word_ids(tower, piece)
    return _framed(tower, words, prompt), [positions[person] for person in range(len(counts))]


def encode_several(
    tower: TextTower, ids: torch.Tensor, positions: Sequence[torch.Tensor], vectors: Sequence[torch.Tensor]
) -> Contexts:
    """Run the text encoder with each person's vectors at that person's positions.

    Args:
        ids: int64 [length].
        positions: each person's, int64 [vectors].
        vectors: each person's, float32 [n, vectors, width], one set for each context.

    Returns:
        n contexts, [n, length, width].
    """
    device = tower.token_embedding.weight.device
    with ExitStack() as stack:
        for where, each in zip(positions, vectors, strict=True):
            first, last = int(where[0]), int(where[-1]) + 1
            stack.enter_context(_substituted(tower, each.to(device), first, last))
        return Contexts(*tower.read(ids.to(device).expand(len(vectors[0]), -1)))


def word_vectors(tower: TextTower, text: str) -> torch.Tensor:
    """The token embeddings of a plain text, float32 [tokens, width].

    Raises:
        ConfigurationError: the text is empty.
    """
    return class_word_embeddings(tower, text, max(1, len(_word_ids(tower, text))))


def join_encoders(encoded: Sequence[Contexts]) -> Contexts:
    """The contexts of several text encoders, concatenated along the width; the pooled embedding is the last one's."""
    return Contexts(torch.cat([each.states for each in encoded], dim=-1), encoded[-1].pooled)


def stacked(contexts: Sequence[Contexts]) -> Contexts:
    """Several contexts along a new first dimension."""
    pooled = [each.pooled for each in contexts if each.pooled is not None]
    return Contexts(torch.stack([each.states for each in contexts]), torch.stack(pooled) if pooled else None)


def concatenated(contexts: Sequence[Contexts]) -> Contexts:
    """Several contexts along their first dimension."""
    pooled = [each.pooled for each in contexts if each.pooled is not None]
    return Contexts(torch.cat([each.states for each in contexts]), torch.cat(pooled) if pooled else None)


@contextmanager
def _substituted(tower: TextTower, vectors: torch.Tensor, first: int, last: int) -> Generator[None]:
    """While it lasts, the token embedding gives the vectors at positions first to last - 1."""

    def substitute(_module: torch.nn.Module, _inputs: tuple, embedded: torch.Tensor) -> torch.Tensor:
        # embedded: [n, length, width]
        return torch.cat([embedded[:, :first], vectors.to(embedded.dtype), embedded[:, last:]], dim=1)

    handle = tower.token_embedding.register_forward_hook(substitute)
    try:
        yield
    finally:
        handle.remove()


def _placeholder_id(tower: TextTower) -> int:
    """The id at a vector's position. Not the end-of-text id: the encoder pools at the first or highest of those."""
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
