"""The text encoder that learns by contrast, and the measures of what a base model's words do."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from faceid_core.diffusion.base import load_base_model
from faceid_core.evaluate.generation import Drawn
from faceid_core.evaluate.scorers import load_scorers
from faceid_core.geometry.protocols import Face
from faceid_core.miniature.captions import HALF
from faceid_core.miniature.people import NAMED_SEEDS, name_of
from faceid_core.miniature_training import names, schedules, text_encoder, unet
from faceid_core.miniature_training.autoencoder import LATENT_CHANNELS
from faceid_core.miniature_training.measure_pairs import pairs_drawn
from faceid_core.miniature_training.measure_words import _box_mask, own_share, words_moved
from faceid_core.miniature_training.names import NamePositions, teach_names, token_ids
from faceid_core.miniature_training.pipeline_folder import load_pipeline, new_text_encoder, new_unet
from faceid_core.miniature_training.schedules import WORK, keep_checkpoint
from faceid_core.miniature_training.text_encoder import (
    Matcher,
    contrastive_loss,
    names_explained,
    train_text_encoder,
    trained_text_encoder,
)
from faceid_core.miniature_training.unet import Denoiser, train_unet, without_ends


class Steps:
    """A budget of steps in place of one of minutes."""

    elapsed_seconds = 0.0

    def __init__(self, minutes: float):
        self.left = minutes

    @property
    def progress(self) -> float:
        self.left -= 0.5  # asked twice a step
        return 1.0 if self.left <= 0 else 0.5


def test_the_loss_is_the_mean_cross_entropy_of_both_directions_without_equal_captions():
    likeness = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    found = contrastive_loss(likeness, ["a", "b", "c", "d"])
    table = likeness.double().numpy()
    rows = [np.log(np.exp(table[i]).sum()) - table[i, i] for i in range(4)]
    columns = [np.log(np.exp(table[:, i]).sum()) - table[i, i] for i in range(4)]
    assert found.item() == pytest.approx((np.mean(rows) + np.mean(columns)) / 2, abs=1e-6)
    twins = contrastive_loss(likeness, ["a", "b", "a", "d"])
    kept = [[0, 1, 3], [0, 1, 2, 3], [1, 2, 3], [0, 1, 2, 3]]  # the answers of each picture, and of each caption
    rows = [np.log(np.exp(table[i, kept[i]]).sum()) - table[i, i] for i in range(4)]
    columns = [np.log(np.exp(table[kept[i], i]).sum()) - table[i, i] for i in range(4)]
    assert twins.item() == pytest.approx((np.mean(rows) + np.mean(columns)) / 2, abs=1e-6)


def test_a_short_training_finds_more_captions_than_chance_and_goes_on_later(tmp_path, monkeypatch, tokenizer, capsys):
    monkeypatch.chdir(tmp_path)
    for module in (text_encoder, names):
        monkeypatch.setattr(module, "Budget", Steps)
    monkeypatch.setattr(text_encoder, "LAYERS", 2)
    monkeypatch.setattr(text_encoder, "_REPORT_SECONDS", 0.0)
    torch.manual_seed(0)
    train_text_encoder(minutes=25, resume=False, pictures=512, batch=24, name_minutes=1)
    told = capsys.readouterr().out.splitlines()
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in told if "loss" in line]
    assert np.mean(losses[-6:]) < np.mean(losses[:6]) - 0.1
    encoder = trained_text_encoder(tokenizer)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert names_explained(encoder, tokenizer).end < 0.1, "names take thousands of pictures"
    assert min(names_explained(load_pipeline().text_encoder, tokenizer)) > 0.3, "the shipped model was taught them"
    monkeypatch.setattr(schedules, "KEPT", tmp_path / "kept")
    kept = keep_checkpoint("text_encoder")
    assert all(value.dtype == torch.float16 for value in load_file(kept).values())
    (tmp_path / WORK / "text_encoder.safetensors").unlink()
    train_text_encoder(minutes=2, resume=True, pictures=512, batch=24, name_minutes=1)


def test_a_u_net_learns_on_it_with_and_without_the_captions_ends(tmp_path, monkeypatch, tokenizer):
    monkeypatch.chdir(tmp_path)
    for module in (text_encoder, names, unet):
        monkeypatch.setattr(module, "Budget", Steps)
    monkeypatch.setattr(text_encoder, "LAYERS", 2)
    for module in (text_encoder, unet):
        monkeypatch.setattr(module, "_CHUNK", 32)
    train_text_encoder(minutes=2, resume=False, pictures=64, batch=8, name_minutes=1)
    train_unet(minutes=5, resume=True, pictures=64, batch=6, frozen_text=True)
    frozen = trained_text_encoder(tokenizer).state_dict()
    pipeline = load_pipeline(WORK / "pipeline")
    kept = pipeline.text_encoder.state_dict()
    assert all(torch.allclose(kept[name].float(), value, atol=2e-3) for name, value in frozen.items())
    before, after = load_pipeline().unet.state_dict(), pipeline.unet.state_dict()
    assert any(not torch.equal(before[name], value) for name, value in after.items())


def test_of_two_people_in_a_caption_each_name_is_taught_its_own(monkeypatch, tokenizer):
    monkeypatch.setattr(names, "Budget", Steps)
    monkeypatch.setattr(names, "NAMED_SEEDS", NAMED_SEEDS[:8])
    monkeypatch.setattr(names, "_TRAITS_FLOOR", 0.5)
    torch.manual_seed(0)
    encoder = new_text_encoder(tokenizer)
    before = copy.deepcopy(encoder)
    teach_names(encoder, tokenizer, minutes=150, batch=32, said=HALF, pairs=0.5)
    couples = [(first, second) for first in NAMED_SEEDS[:8] for second in NAMED_SEEDS[:8] if first != second]
    tokens = token_ids(tokenizer, [f"a photo of {name_of(one)} and {name_of(other)}" for one, other in couples])
    is_last, _ = NamePositions(tokenizer)(tokens)
    with torch.no_grad():
        states, untaught = (each(tokens).last_hidden_state for each in (encoder, before))
    of_people = states[is_last].unflatten(0, (-1, 2))  # [couples, 2, width]
    means = torch.stack([of_people[[c[0] == seed for c in couples], 0].mean(0) for seed in NAMED_SEEDS[:8]])
    nearest = torch.cdist(of_people[:, 1], means).argmin(dim=1)
    assert (nearest == torch.tensor([seed - NAMED_SEEDS.start for _, seed in couples])).float().mean() > 0.9
    others = ~is_last & ~torch.roll(is_last, -1, dims=1)
    moved = (states - untaught)[others].norm(dim=-1) / untaught[others].norm(dim=-1)
    assert moved.mean() < 0.2, "the other words, and the end of a caption about two, stay"


def test_without_its_end_a_caption_keeps_its_words_and_has_the_empty_captions_end(tokenizer):
    model = Denoiser(new_text_encoder(tokenizer), new_unet(LATENT_CHANNELS)).eval()
    texts = ["a photo of lena abara on the beach", "a photo of person"]
    tokens, empty = (
        tokenizer(each, padding="max_length", return_tensors="pt").input_ids for each in (texts, [""])
    )
    has_end = torch.tensor([False, True])
    with torch.no_grad():
        whole, of_empty = (model.text_encoder(each).last_hidden_state for each in (tokens, empty))
        found = without_ends(whole, model._empty_context(tokens), tokens, has_end)
        noisy, times = torch.randn(2, LATENT_CHANNELS, 16, 16), torch.tensor([500, 500])
        drawn = model(noisy, times, tokens, has_end)
        expected = model.unet(noisy, times, found, return_dict=False)[0]
    words = len(tokenizer(texts[0]).input_ids) - 1  # the beginning's, too
    assert torch.equal(found[1], whole[1]) and torch.equal(found[0, :words], whole[0, :words])
    assert torch.allclose(found[0, words:], of_empty[0, words:], atol=1e-5)
    assert torch.allclose(drawn, expected, atol=1e-5)


def test_pictures_of_any_width_and_captions_cut_at_the_longest_give_the_same_likeness(tokenizer):
    model = Matcher(new_text_encoder(tokenizer)).eval()
    texts = ["a photo of person", "a photo of lena abara and person on the beach, smiling"]
    short, full = (
        tokenizer(texts, padding=padding, return_tensors="pt").input_ids for padding in ("longest", "max_length")
    )
    assert short.shape[1] < full.shape[1]
    pixels = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(model(pixels, short), model(pixels, full), atol=1e-4)


def test_a_random_word_moves_later_words_of_the_shipped_model_little():
    moved = words_moved(load_base_model())
    assert 0.02 < moved.later_words < 0.05 and moved.end > 0.2
    assert own_share(load_base_model(), captions=4) > 0.9, "its words are mostly about themselves"


def test_words_are_taught_to_say_which_they_are(tokenizer, monkeypatch):
    monkeypatch.setattr(names, "Budget", Steps)
    torch.manual_seed(0)
    encoder = new_text_encoder(tokenizer)
    with torch.no_grad():
        for layer in encoder.encoder.layers:  # attention that drowns what a word brings along
            layer.self_attn.out_proj.weight.mul_(30)
    phrases = ("red sweater", "blue shirt", "black suit", "white coat")
    around = [f"a photo of {name_of(seed)} wearing a" for seed in NAMED_SEEDS[:16]]

    def share() -> float:
        tokens = [token_ids(tokenizer, [f"{each} {phrase}" for each in around]) for phrase in phrases]
        end = (tokens[0][0] == tokenizer.eos_token_id).nonzero()[0]
        with torch.no_grad():
            states = torch.stack([encoder(each).last_hidden_state[:, int(end) - 1] for each in tokens])
        spread = states - states.mean(dim=(0, 1))
        return float(spread.mean(dim=1).square().sum(dim=1).mean() / spread.square().sum(dim=2).mean())

    before = share()
    teach_names(encoder, tokenizer, minutes=60, batch=32, said=HALF, words_hold_themselves=True)
    assert share() > before + 0.2, (before, share())


def test_of_two_named_people_the_shipped_model_draws_a_mixture_twice():
    names = {seed: name_of(seed) for seed in (1, 2, 3)}
    found = pairs_drawn(load_base_model(), load_scorers("miniature-selection"), names, pairs=2)
    assert found["both found"] > 0.5 > found["each nearer to its own"]


def test_cells_of_a_face_are_those_whose_centers_lie_in_its_box():
    picture = Drawn(np.zeros((64, 96, 3), np.uint8), np.zeros((16, 24), np.float16))
    inside = _box_mask(Face((32.0, 16.0, 48.0, 40.0), (36, 24), (44, 24), 1.0), picture)
    expected = np.zeros((16, 24), bool)
    expected[4:10, 8:12] = True
    assert np.array_equal(inside, expected)
