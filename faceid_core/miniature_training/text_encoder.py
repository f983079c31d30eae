"""Trains the text encoder by contrast, as CLIP's: a caption's end must find its picture among those of the batch.

A text encoder that learns together with a U-Net of this size becomes a bag of words. One that has to tell captions apart
by their ends lets words see each other, which is what the questions about entanglement need.

Source: Radford et al. 2021, section 2.3 (the symmetric loss, the learned temperature and its bound).
"""

from __future__ import annotations

import random
import time
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from faceid_core.miniature.captions import HALF
from faceid_core.miniature.people import NAMED_SEEDS, name_of
from faceid_core.miniature_training.dataset import Pictures, render_close_ups, render_pairs, render_varied
from faceid_core.miniature_training.names import NamePositions, named_traits, teach_names, token_ids
from faceid_core.miniature_training.pipeline_folder import PIPELINE, TEXT_WIDTH, new_text_encoder
from faceid_core.miniature_training.schedules import (
    Average,
    Budget,
    autocast,
    load_checkpoint,
    rate_at,
    save_checkpoint,
    training_device,
)

LAYERS = 6
CHECKPOINT = "text_encoder"
_CHUNK = 512
# What the batches of six steps in turn show. Beside scenes and clothes a name tells few pictures apart, and is learned
# from close-ups, which nothing else tells apart.
_KINDS = {"varied": render_varied, "pairs": render_pairs, "close-ups": render_close_ups}
_TURN = ("varied", "close-ups", "varied", "pairs", "close-ups", "varied")
_LARGEST_SCALE = 100.0
_PEAK_RATE = 1e-3
# Names are taught for so long after each phase, on captions of which such a share has two people.
NAME_MINUTES = 4.0
_PAIRS_IN_CAPTIONS = 0.4
_REPORT_SECONDS, _SAVE_SECONDS = 30.0, 300.0


class PictureEncoder(nn.Module):
    """Pictures [n, 3, H, W] in -1..1 to unit vectors [n, width]; any size, since the cells are pooled."""

    def __init__(self, width: int = TEXT_WIDTH):
        super().__init__()
        channels = (3, 32, 64, 128, 256)
        self.steps = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                nn.GroupNorm(8, after),
                nn.SiLU(),
                nn.Conv2d(after, after, 3, padding=1),
                nn.GroupNorm(8, after),
                nn.SiLU(),
            )
            for before, after in pairwise(channels)
        )
        self.out = nn.Linear(2 * channels[-1], width)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        cells = pixels
        for step in self.steps:
            cells = step(cells)
        pooled = torch.cat([cells.mean(dim=(2, 3)), cells.amax(dim=(2, 3))], dim=1)
        return F.normalize(self.out(pooled), dim=1)


class Matcher(nn.Module):
    """Text and picture encoder with the temperature of their likeness."""

    def __init__(self, text_encoder: CLIPTextModel):
        super().__init__()
        self.text_encoder, self.pictures = text_encoder, PictureEncoder()
        self.text_out = nn.Linear(TEXT_WIDTH, TEXT_WIDTH, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(np.log(1 / 0.07), dtype=torch.float32))

    def forward(self, pixels: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Likeness of each picture [n, 3, H, W] to each caption's token ids [n, length], scaled: [n, n]."""
        output = self.text_encoder(tokens)
        texts = F.normalize(self.text_out(output.pooler_output), dim=1)
        scale = self.log_scale.exp().clamp(max=_LARGEST_SCALE)
        return scale * self.pictures(pixels).float() @ texts.float().T


def contrastive_loss(likeness: torch.Tensor, captions: list[str]) -> torch.Tensor:
    """Mean cross-entropy of finding the caption of each picture and the picture of each caption.

    Args:
        likeness: [pictures, captions], scaled.
        captions: a picture whose caption is the same as another's is no wrong answer for it.
    """
    _, number = np.unique(captions, return_inverse=True)
    same = torch.from_numpy(number[:, None] == number[None, :]).to(likeness.device)
    same.fill_diagonal_(False)
    masked = likeness.masked_fill(same, -torch.inf)
    wanted = torch.arange(len(captions), device=likeness.device)
    return (F.cross_entropy(masked, wanted) + F.cross_entropy(masked.T, wanted)) / 2


class _Supply:
    """Random batches of pictures and captions; pictures are rendered when they are first needed, up to a limit."""

    def __init__(self, limit: int, seed: int):
        self.limit, self.words = limit, random.Random(seed)
        self._chunks: dict[str, list[Pictures]] = {kind: [] for kind in _KINDS}
        self._seed = seed * 10_000

    def next(self, size: int, kind: str) -> tuple[torch.Tensor, list[str]]:
        """Pixels float32 [size, 3, H, W] in -1..1, and captions, of a kind of `_KINDS`."""
        chunks = self._chunks[kind]
        if len(chunks) * _CHUNK < self.limit * _TURN.count(kind) // len(_TURN):
            self._seed += 1
            chunks.append(_KINDS[kind](_CHUNK, seed=self._seed))
        pictures = [(self.words.choice(chunks), self.words.randrange(_CHUNK)) for _ in range(size)]
        pixels = np.stack([chunk.images[index] for chunk, index in pictures])
        captions = [chunk.caption(index, self.words) for chunk, index in pictures]
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1, captions


def train_text_encoder(
    *,
    minutes: float,
    resume: bool,
    pictures: int = 30_000,
    batch: int = 128,
    seed: int = 51,
    rate: float = _PEAK_RATE,
    name_minutes: float = NAME_MINUTES,
) -> None:
    """Train for a time and write the checkpoint `text_encoder`, with the picture encoder for a later phase.

    Args:
        minutes: wall-clock budget of the phase, the first step not counted.
        resume: start from the checkpoint, with a fresh optimizer.
        pictures: how many are rendered during training and held in memory.
        rate: highest learning rate.
        name_minutes: wall-clock budget of teaching the names, after that of the phase.
    """
    torch.manual_seed(seed)
    device = training_device()
    tokenizer = CLIPTokenizer.from_pretrained(PIPELINE / "tokenizer")
    model = Matcher(new_text_encoder(tokenizer, layers=LAYERS))
    if resume:
        model.load_state_dict(load_checkpoint(CHECKPOINT))
        seed += int(time.time()) % 100_000  # other pictures than the phase before
    model.to(device)
    if device.type == "cpu":
        model.text_encoder.set_attn_implementation("eager")  # in bfloat16 the fused attention takes 2.7 times as long
    supply, average = _Supply(pictures, seed), Average(model, 0.998)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    budget, step = None, 0
    found: dict[str, list[float]] = {each: [] for each in _KINDS}
    losses: list[float] = []
    last_report = last_save = time.monotonic()
    while budget is None or budget.progress < 1:
        for group in optimizer.param_groups:
            progress = budget.progress if budget else 0.0
            group["lr"] = rate_at(progress, step, peak=rate, warm_up_steps=100, hold=0.3)
        kind = _TURN[step % len(_TURN)]
        pixels, captions = supply.next(batch, kind)
        # What follows a caption's end changes none of it.
        tokens = tokenizer(captions, padding="longest", return_tensors="pt").input_ids
        with autocast(device):
            likeness = model(pixels.to(device), tokens.to(device))
        loss = contrastive_loss(likeness, captions)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(model)
        budget, step = budget or Budget(minutes), step + 1
        right = (likeness.argmax(dim=0) == torch.arange(batch, device=device)).float().mean()
        found[kind].append(right.item())
        losses.append(loss.item())
        now = time.monotonic()
        if now - last_report > _REPORT_SECONDS:
            shares = ", ".join(f"{np.mean(each):.0%} of {name}" for name, each in found.items() if each)
            print(
                f"{budget.elapsed_seconds / 60:5.1f} min, step {step}: loss {np.mean(losses):.3f}, the picture is found "
                f"for {shares}; scale {model.log_scale.exp().item():.0f}",
                flush=True,
            )
            last_report, found, losses = now, {each: [] for each in _KINDS}, []
        if now - last_save > _SAVE_SECONDS:
            save_checkpoint(average.state(model), CHECKPOINT)
            last_save = now
    print(f"text encoder: {step} steps of {batch} in {budget.elapsed_seconds / 60:.1f} min", flush=True)
    model.load_state_dict(average.state(model))
    _report_names(model.text_encoder, tokenizer)
    # By contrast alone only the end learns who is named, and in a caption of two people nothing says which name is whose.
    teach_names(
        model.text_encoder.cpu(),
        tokenizer,
        minutes=name_minutes,
        said=HALF,
        pairs=_PAIRS_IN_CAPTIONS,
        words_hold_themselves=True,
    )
    save_checkpoint(model.state_dict(), CHECKPOINT)
    _report_names(trained_text_encoder(tokenizer), tokenizer)


def _report_names(encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
    shares = names_explained(encoder, tokenizer)
    print(
        f"names: {shares.last_word:.2f} of people's traits in their last words, {shares.end:.2f} in the end", flush=True
    )


def trained_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The checkpoint's text encoder, frozen.

    Raises:
        FileNotFoundError: none was trained here.
    """
    model = Matcher(new_text_encoder(tokenizer, layers=LAYERS))
    model.load_state_dict(load_checkpoint(CHECKPOINT))
    return model.text_encoder.eval().requires_grad_(False)


class NamesExplained(NamedTuple):
    """How much of the named people's traits a ridge regression reads, R2 of four folds of people.

    Attributes:
        last_word: in the states of the names' last words; end: in those of the end.
    """

    last_word: float
    end: float


@torch.no_grad()
def names_explained(encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> NamesExplained:
    """Whether the states of "a photo of NAME" hold who that is."""
    traits = named_traits().double()  # [names, T]
    tokens = token_ids(tokenizer, [f"a photo of {name_of(seed)}" for seed in NAMED_SEEDS])
    states = encoder(tokens).last_hidden_state.double()  # [names, 32, width]
    is_last, is_end = NamePositions(tokenizer)(tokens)
    is_first_end = is_end & (is_end.cumsum(dim=1) == 1)
    return NamesExplained(_explained(states[is_last], traits), _explained(states[is_first_end], traits))


def _explained(states: torch.Tensor, traits: torch.Tensor) -> float:
    """R2 of traits [names, T] from states [names, width]."""
    states = (states - states.mean(0)) / states.std(0).clamp(min=1e-6)
    held_out = torch.zeros_like(traits)
    for fold in range(4):
        rest = torch.arange(len(traits)) % 4 != fold
        x, y = states[rest], traits[rest]
        weights = torch.linalg.solve(x.T @ x + 10.0 * torch.eye(x.shape[1], dtype=x.dtype), x.T @ (y - y.mean(0)))
        held_out[~rest] = states[~rest] @ weights + y.mean(0)
    return float(1 - ((traits - held_out) ** 2).sum() / ((traits - traits.mean(0)) ** 2).sum())
