"""Initial embeddings, at which a person's vectors begin, and the principal components of known names."""

from __future__ import annotations

import torch

from faceid_core.config.method import Method
from faceid_core.diffusion.base import BaseModel, TextTower

from .conditioning import class_word_embeddings, encode, tokenize
from .known_names import known_names, require_names
from .prompts import training_prompt

# Components shorter than this share of the longest are rounding: names share words, so they span fewer directions.
_SHORTEST = 1e-5


@torch.no_grad()
def initial_embeddings(base: BaseModel, tower: TextTower, class_word: str, method: Method) -> torch.Tensor:
    """One text encoder's initial embedding, float32 [vectors, width].

    `class_word`: the class word's embeddings. `mean_name`: for each position the mean of what known names have there.
    `encoder_output`: the text encoder's output at the person's positions of the training prompt, with the mean name.

    Raises:
        ConfigurationError: the class word is empty, or too few names are known.

    Source: class word, Gal et al. 2022; mean name, Celeb-Basis; encoder output, Cross Initialization section 3.2.
    """
    if method.initial_embedding == "class_word":
        return class_word_embeddings(tower, class_word, method.vectors)
    mean = name_embeddings(base, tower, method).mean(dim=0)  # [vectors, width]
    if method.initial_embedding == "mean_name":
        return mean
    prompt = tokenize(tower, training_prompt(method.template), method.vectors)
    return encode(tower, prompt, mean[None]).states[0, prompt.positions].float()


@torch.no_grad()
def name_basis(base: BaseModel, tower: TextTower, method: Method) -> torch.Tensor:
    """Principal components of the known names' embeddings, each as long as its standard deviation.

    A coefficient of 1 is then a typical difference between names, at every position and for every component.

    Returns:
        float32 [vectors, components, width]; fewer components than `basis_size` where the names differ in fewer.

    Raises:
        ConfigurationError: too few names are known.

    Source: Celeb-Basis section 3.2 (PCA of names' embeddings, first and last word apart); the lengths are a
    reconstruction.
    """
    names = name_embeddings(base, tower, method)  # [names, vectors, width]
    centered = (names - names.mean(dim=0)).transpose(0, 1)  # [vectors, names, width]
    _, lengths, components = torch.linalg.svd(centered, full_matrices=False)
    spanned = int((lengths > _SHORTEST * lengths[:, :1]).sum(dim=1).max())
    size = min(method.basis_size, spanned)
    deviations = lengths[:, :size, None] / (names.shape[0] - 1) ** 0.5
    return components[:, :size] * deviations


def name_embeddings(base: BaseModel, tower: TextTower, method: Method) -> torch.Tensor:
    """Token embeddings of all known names whose two words are one token each.

    With one vector, a name is the mean of its two words; with more than two the last word is repeated.

    Returns:
        float32 [names, vectors, width].

    Raises:
        ConfigurationError: too few such names.
    """
    ids = [
        found
        for name in known_names(method.known_names, base.description.name)
        if len(found := tower.tokenizer(name, add_special_tokens=False).input_ids) == 2
    ]
    require_names(len(ids), method.known_names, tower.name)
    words = tower.token_embedding.weight[torch.tensor(ids)].float()  # [names, 2, width]
    if method.vectors == 1:
        return words.mean(dim=1, keepdim=True)
    return torch.cat([words, words[:, -1:].expand(-1, method.vectors - 2, -1)], dim=1)
