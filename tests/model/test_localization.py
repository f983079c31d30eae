"""Attention on words is held to what they name while a base model is trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from faceid_core.miniature.people import person_from_seed
from faceid_core.miniature.renderer import render, sample_shot
from faceid_core.miniature_training.autoencoder import LATENT_CHANNELS
from faceid_core.miniature_training.localization import (
    LEAST_INSIDE,
    RATIO,
    REGIONS,
    Localization,
    PlacedWords,
    located_loss,
    regions_of,
    shares_of_cells,
)
from faceid_core.miniature_training.pipeline_folder import new_unet


def shown(tokenizer, words, row) -> list[str]:
    ids = row.nonzero().flatten()
    return [tokenizer.decode([words[int(index)]]).strip() for index in ids]


def test_the_words_of_each_region_are_found(tokenizer):
    texts = [
        "a photo of lena abara and a man wearing a red sweater on the beach",
        "the face of woman lena abara, holding a glass of wine, wearing a hat",
        "a photo in the forest",
        "",
    ]
    tokens = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    words = PlacedWords(tokenizer)(tokens)  # [texts, REGIONS, length]
    found = [[shown(tokenizer, tokens[i], words[i, p]) for p in range(REGIONS)] for i in range(len(texts))]
    assert found == [
        [["lena", "abara"], ["man"], ["sweater"], []],
        [["woman", "lena", "abara"], [], [], ["wine"]],
        [[], [], [], []],
        [[], [], [], []],
    ]
    assert words.sum(dim=2).tolist() == [[1, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_of_two_people_each_has_the_half_in_which_the_face_is():
    shares = torch.ones(2, 3, 2, 4) * torch.tensor([1.0, 0.5, 0.25])[:, None, None]
    words = torch.ones(2, REGIONS, 1)
    words[1, 1] = 0  # a pair, and a person alone
    pair, alone = regions_of(shares, words)
    assert pair[0].tolist() == [[1, 1, 0, 0]] * 2 and pair[1].tolist() == [[0, 0, 1, 1]] * 2
    assert alone[0].tolist() == [[1, 1, 1, 1]] * 2 and not alone[1].any()
    assert (pair[2] == 0.5).all() and (alone[3] == 0.25).all()


def test_a_rendered_picture_says_which_cells_are_face_clothes_and_object():
    shot = replace(sample_shot(np.random.default_rng(0), framing="half"), held="basketball")
    labels = render(person_from_seed(1), shot).labels
    face, clothes, held = shares_of_cells(labels[None])[0]
    assert face.shape == (16, 16) and face.sum() > 10 and clothes.sum() > 10 and held.sum() > 3
    assert float((face + clothes + held).max()) <= 1
    rows = torch.arange(16)[:, None]
    assert (face * rows).sum() / face.sum() < (clothes * rows).sum() / clothes.sum(), "a face is above clothes"


def test_the_loss_is_what_is_lacking_to_the_ratio():
    regions = torch.zeros(1, 2, 2, 2)
    regions[0, 0, 0] = 1.0  # the upper row; there is no second person
    words = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
    maps = torch.tensor([[[0.7, 0.3], [0.7, 0.3], [0.9, 0.1], [0.9, 0.1]]])
    assert located_loss(maps, regions, words).item() == pytest.approx(RATIO * 0.1 - 0.3)
    maps[..., 1] = torch.tensor([0.5, 0.5, 0.1, 0.1])
    assert located_loss(maps, regions, words).item() == 0
    maps[..., 1] = torch.tensor([0.05, 0.05, 0.0, 0.0])
    assert located_loss(maps, regions, words).item() == pytest.approx(LEAST_INSIDE - 0.05), "looked at nowhere"
    assert located_loss(maps, torch.zeros_like(regions), words).item() == 0, "no region, nothing is lacking"


def test_a_word_that_is_looked_at_in_another_region_lacks_even_if_the_rest_of_the_picture_is_wide():
    regions = torch.zeros(1, 2, 4, 8)
    regions[0, 0, 0, 0] = regions[0, 1, 0, 7] = 1.0
    words = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    maps = torch.zeros(1, 32, 3)
    maps[0, 0] = maps[0, 7] = torch.tensor([0.4, 0.4, 0.2])  # either face looks at both names, and nothing else does
    assert located_loss(maps, regions, words).item() == pytest.approx(RATIO * 0.4 - 0.4)
    maps[0, 0], maps[0, 7] = torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.1, 0.8, 0.1])
    assert located_loss(maps, regions, words).item() == 0


def test_a_layer_computes_what_diffusers_computes_and_the_loss_reaches_its_words(tokenizer):
    torch.manual_seed(0)
    unet = new_unet(LATENT_CHANNELS)
    noisy, times, context = torch.randn(2, LATENT_CHANNELS, 16, 24), torch.tensor([9, 700]), torch.randn(2, 32, 128)
    unet.set_attn_processor(AttnProcessor())
    with torch.no_grad():
        expected = unet(noisy, times, context, return_dict=False)[0]
    attention = Localization(unet, tokenizer)
    texts = ["a photo of lena abara and a man", "a photo of person"]
    tokens = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    attention.expect(torch.rand(2, 3, 16, 24) / 3, tokens)
    found = unet(noisy, times, context, return_dict=False)[0]
    assert torch.allclose(found, expected, atol=1e-5)
    attention.loss().backward()
    moved = [name for name, value in unet.named_parameters() if value.grad is not None and value.grad.any()]
    assert any("attn2.to_k" in name for name in moved)
