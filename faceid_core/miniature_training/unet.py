"""Trains the U-Net on the latents of rendered pictures, on a frozen text encoder or together with one."""

import random
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel, CLIPTokenizer

from faceid_core.miniature_training.autoencoder import LATENT_CHANNELS, to_tensor
from faceid_core.miniature_training.dataset import Pictures, render_pairs, render_pictures, render_varied
from faceid_core.miniature_training.localization import Localization, shares_of_cells
from faceid_core.miniature_training.more_names import teach_more_names
from faceid_core.miniature_training.names import teach_names
from faceid_core.miniature_training.pipeline_folder import (
    PIPELINE,
    load_pipeline,
    new_scheduler,
    new_text_encoder,
    new_unet,
    write_pipeline,
)
from faceid_core.miniature_training.schedules import (
    WORK,
    Average,
    Budget,
    autocast,
    load_checkpoint,
    rate_at,
    save_checkpoint,
    training_device,
)
from faceid_core.miniature_training.text_encoder import trained_text_encoder

EMPTY_CAPTIONS = 0.1
FROZEN_TEXT = "unet_frozen_text"  # the checkpoint of what was trained on a frozen text encoder
NAMED_SHARE = 0.6
# For that long, names are taught to the text encoder before the U-Net is trained.
NAME_MINUTES = 2.5
_CHUNK = 512
# The face is a quarter of the picture and carries the identity; weighting cells does not move the optimum.
_FACE_WEIGHT = 1.5
# An error of the velocity is one of the picture times (snr + 1); that factor counts up to this limit. Min-SNR
# weighting would give the noisiest third of the timesteps almost no weight, and clothes were then never learned.
_LEVEL_LIMIT = 5.0
_PEAK_RATE = 1e-3
_HOLD = 0.5
_SAVE_SECONDS = 5 * 60
# On a frozen text encoder, share of the captions whose words are read without the caption's end.
_WORDS_ALONE = 0.6
# ... and what counts that words are looked at elsewhere than in what they name.
_LOCALIZATION = 0.3
# Of the steps on a frozen text encoder: one in so many draws pairs, in wide pictures, and fewer of them at once.
_PAIR_EVERY, _PAIR_SHARE = 4, 2 / 3


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, images: np.ndarray, batch: int = 100) -> torch.Tensor:
    """Scaled latents [N, C, H / 4, W / 4] of bytes [N, H, W, 3]: the mean of the posterior.

    Its standard deviation is a few hundredths of the latents', so sampling would add nothing.
    """
    parts = []
    for start in range(0, len(images), batch):
        pixels = to_tensor(images[start : start + batch]).to(vae.device)
        with autocast(vae.device):
            parts.append(vae.encode(pixels).latent_dist.mean.float().cpu())
    return torch.cat(parts) * vae.config.scaling_factor


def face_weights(shares: torch.Tensor) -> torch.Tensor:
    """Loss weight of every latent cell, [N, 1, h, w], from the shares of cells [N, 3, h, w]."""
    return 1 + _FACE_WEIGHT * shares[:, :1]


def stratified_timesteps(batch: int, limit: int) -> torch.Tensor:
    """One timestep from each of `batch` equal parts of 0 .. limit - 1, for less variance than independent draws."""
    return ((torch.arange(batch) + torch.rand(batch)) * (limit / batch)).long().clamp(max=limit - 1)


class Denoiser(torch.nn.Module):
    """Text encoder and U-Net as one module: token ids and noisy latents to predicted velocities."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel):
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet
        self._empty: torch.Tensor | None = None

    def forward(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        tokens: torch.Tensor,
        has_end: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`noisy` [B, C, h, w], `timesteps` [B], `tokens` [B, 32] to velocities [B, C, h, w].

        Args:
            has_end: bool [B]; where False the states of the caption's end are the empty caption's.
        """
        context = self.text_encoder(tokens).last_hidden_state  # [B, 32, width]
        if has_end is not None:
            context = without_ends(context, self._empty_context(tokens), tokens, has_end)
        return self.unet(noisy, timesteps, context, return_dict=False)[0]

    def _empty_context(self, tokens: torch.Tensor) -> torch.Tensor:
        """The states of the empty caption, [1, 32, width], of a text encoder that does not learn.

        `tokens` are padded with the end, as CLIP's are.
        """
        if self._empty is None:
            beginning, end = tokens[:1, :1], tokens[:1, -1:]
            empty = torch.cat([beginning, end.expand(1, tokens.shape[1] - 1)], dim=1)
            self._empty = self.text_encoder(empty).last_hidden_state
        return self._empty


def without_ends(
    context: torch.Tensor, empty: torch.Tensor, tokens: torch.Tensor, has_end: torch.Tensor
) -> torch.Tensor:
    """Contexts whose end and padding are the empty caption's, where `has_end` is False.

    The end tells of the whole caption and fills most of the context. A U-Net of this size reads little else, and then a
    word is looked at nowhere in particular. Without the end it must find each word where its share of the picture is.

    Args:
        context: [B, 32, width]; empty: [1, 32, width]; tokens: [B, 32]; has_end: bool [B].
    """
    end = tokens[:, -1:]  # a caption is shorter than the context
    is_replaced = (tokens == end) & ~has_end[:, None]  # [B, 32]
    return torch.where(is_replaced[..., None], empty, context)


class _Batches:
    """Random batches of latents, shares of their cells and token ids, with a new caption each time.

    Pictures are rendered and encoded when they are first needed, so that training starts at once; from `limit` pictures
    on, existing ones are drawn at random. `render` takes a count and a seed.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        tokenizer: CLIPTokenizer,
        limit: int,
        seed: int,
        render: Callable[[int, int], Pictures],
    ):
        self.vae, self.tokenizer, self.limit, self.seed, self.render = vae, tokenizer, limit, seed, render
        self.chunks: list[Pictures] = []
        self.latents: list[torch.Tensor] = []
        self.shares: list[torch.Tensor] = []
        self.fresh: list[tuple[int, int]] = []  # (chunk, index in it), not yet used
        self.words = random.Random(seed)

    def _render(self) -> None:
        chunk = len(self.chunks)
        pictures = self.render(_CHUNK, self.seed * 10_000 + chunk)
        self.latents.append(encode_pictures(self.vae, pictures.images))
        self.shares.append(shares_of_cells(pictures.labels))
        # Only the captions are needed from here on.
        pictures.images, pictures.labels = pictures.images[:0], pictures.labels[:0]
        self.chunks.append(pictures)
        self.fresh += [(chunk, index) for index in range(_CHUNK)]

    def _pick(self) -> tuple[int, int]:
        if not self.fresh and len(self.chunks) * _CHUNK < self.limit:
            self._render()
        if self.fresh:
            return self.fresh.pop()
        return self.words.randrange(len(self.chunks)), self.words.randrange(_CHUNK)

    def next(self, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents [size, C, h, w], shares of cells [size, 3, h, w] and token ids [size, 32]."""
        chosen = [self._pick() for _ in range(size)]
        texts = [
            "" if self.words.random() < EMPTY_CAPTIONS else self.chunks[c].caption(i, self.words)
            for c, i in chosen
        ]
        encoded = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        latents = torch.stack([self.latents[c][i] for c, i in chosen])
        shares = torch.stack([self.shares[c][i] for c, i in chosen])
        return latents, shares, encoded.input_ids


def _supply(
    vae: AutoencoderKL, tokenizer: CLIPTokenizer, pictures: int, seed: int, *, frozen_text: bool
) -> Callable[[int, int], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """What gives the batch of a step, for the step's number and a number of square pictures."""
    if not frozen_text:
        plain = _Batches(
            vae, tokenizer, pictures, seed, lambda n, s: render_pictures(n, seed=s, named_share=NAMED_SHARE)
        )
        return lambda _, size: plain.next(size)
    alone = _Batches(vae, tokenizer, pictures, seed, lambda n, s: render_varied(n, seed=s))
    pairs = _Batches(vae, tokenizer, pictures // _PAIR_EVERY, seed + 1, lambda n, s: render_pairs(n, seed=s))

    def batch_of(step: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        is_of_pairs = step % _PAIR_EVERY == _PAIR_EVERY - 1
        return pairs.next(round(size * _PAIR_SHARE)) if is_of_pairs else alone.next(size)

    return batch_of


def _load_last(model: Denoiser) -> None:
    """Fill `model` with the checkpoint `unet`, or with the shipped weights without one."""
    try:
        model.load_state_dict(load_checkpoint("unet"))
    except FileNotFoundError:
        shipped = load_pipeline()
        model.text_encoder.load_state_dict(shipped.text_encoder.state_dict())
        model.unet.load_state_dict(shipped.unet.state_dict())


def extend_names(*, minutes: float, known: int) -> None:
    """Teach the names after the first `known` to the checkpoint's text encoder; `train_unet` continues from it."""
    tokenizer = CLIPTokenizer.from_pretrained(PIPELINE / "tokenizer")
    model = Denoiser(new_text_encoder(tokenizer), new_unet(LATENT_CHANNELS))
    _load_last(model)
    wrong = teach_more_names(model.text_encoder, tokenizer, known=known, minutes=minutes)
    path = save_checkpoint(model.state_dict(), "unet")
    print(f"names: {wrong:.3f} wrong, written to {path}", flush=True)


def _model(tokenizer: CLIPTokenizer, *, resume: bool, frozen_text: bool) -> Denoiser:
    """What training starts from."""
    if frozen_text:
        model = Denoiser(trained_text_encoder(tokenizer), new_unet(LATENT_CHANNELS))
        if resume:
            model.unet.load_state_dict(_last_unet())
        return model
    model = Denoiser(new_text_encoder(tokenizer), new_unet(LATENT_CHANNELS))
    if resume:
        _load_last(model)
    else:
        teach_names(model.text_encoder, tokenizer, minutes=NAME_MINUTES)
    return model


def _choose_attention(model: Denoiser, device: torch.device) -> None:
    """In bfloat16 on a CPU plain attention trains 1.7 times as fast as the fused one."""
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        model.unet.set_attn_processor(AttnProcessor())
        model.text_encoder.set_attn_implementation("eager")


def _last_unet() -> dict[str, torch.Tensor]:
    """The U-Net's state of the checkpoint `unet_frozen_text`, or of the shipped weights without one."""
    try:
        state = load_checkpoint(FROZEN_TEXT)
    except FileNotFoundError:
        return load_pipeline().unet.state_dict()
    return {name.removeprefix("unet."): value for name, value in state.items() if name.startswith("unet.")}


def _save(
    model: Denoiser, state: dict[str, torch.Tensor], tokenizer: CLIPTokenizer, *, frozen_text: bool
) -> None:
    """Write a `Denoiser`'s averaged state as a checkpoint and as part of a whole pipeline."""
    # Another text encoder is another architecture, which cannot be read in place of the other.
    save_checkpoint(state, FROZEN_TEXT if frozen_text else "unet")
    layers = model.text_encoder.config.num_hidden_layers
    copy = Denoiser(new_text_encoder(tokenizer, layers=layers), new_unet(LATENT_CHANNELS))
    copy.load_state_dict(state)
    # Loaded again, because writing converts it to half precision and the decoder may have been trained meanwhile.
    vae = AutoencoderKL.from_pretrained(PIPELINE / "vae")
    write_pipeline(tokenizer, copy.text_encoder, vae, copy.unet, WORK / "pipeline")


class _Noised(NamedTuple):
    """A batch as the U-Net reads it, with what it is to predict.

    Attributes:
        noisy, velocity: [B, C, h, w]; timesteps: [B]; tokens: [B, 32].
        shares: of each cell, [B, 3, h, w]; level: of each noise level, [B, 1, 1, 1].
    """

    noisy: torch.Tensor
    velocity: torch.Tensor
    timesteps: torch.Tensor
    tokens: torch.Tensor
    shares: torch.Tensor
    level: torch.Tensor


def _noised(
    clean: torch.Tensor, shares: torch.Tensor, tokens: torch.Tensor, scheduler: DDIMScheduler
) -> _Noised:
    """Latents [B, C, h, w] at random timesteps."""
    alphas = scheduler.alphas_cumprod  # [1000]
    noise = torch.randn_like(clean)
    timesteps = stratified_timesteps(len(clean), len(alphas))
    snr = alphas[timesteps] / (1 - alphas[timesteps])
    return _Noised(
        scheduler.add_noise(clean, noise, timesteps),
        scheduler.get_velocity(clean, noise, timesteps),
        timesteps,
        tokens,
        shares,
        # Full weight at high noise, where a picture's content is decided; less at low noise.
        (_LEVEL_LIMIT / (snr + 1)).clamp(max=1)[:, None, None, None],
    )


def _losses(
    model: Denoiser, batch: _Noised, device: torch.device, localization: Localization | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss to minimize, and the squared errors of the velocities [B, C, h, w]."""
    batch = _Noised(*(each.to(device) for each in batch))
    has_end = None
    if localization:
        has_end = torch.rand(len(batch.tokens), device=device) >= _WORDS_ALONE
        localization.expect(batch.shares, batch.tokens)
    with autocast(device):
        predicted = model(batch.noisy, batch.timesteps, batch.tokens, has_end)
    error = (predicted.float() - batch.velocity) ** 2  # [B, C, 16, 16 or 24]
    loss = (error * face_weights(batch.shares) * batch.level).mean()
    return (loss + _LOCALIZATION * localization.loss() if localization else loss), error


def train_unet(
    *,
    minutes: float,
    resume: bool,
    pictures: int = 40_000,
    batch: int = 32,
    seed: int = 21,
    rate: float = _PEAK_RATE,
    frozen_text: bool = False,
) -> None:
    """Train for a time; write the checkpoint `unet` and, every five minutes and at the end, a whole pipeline.

    The second half of the budget lowers the learning rate, so that a phase ends in usable weights.

    Args:
        minutes: wall-clock budget of the phase, the first step not counted.
        resume: start from the checkpoint, or from the shipped weights, with a fresh optimizer.
        pictures: how many are rendered and encoded during training and held in memory.
        rate: highest learning rate; a phase that continues from good weights should use a lower one.
        frozen_text: the text encoder is the checkpoint `text_encoder`, and stays as it is; pictures are varied, and some
            show pairs.
    """
    torch.manual_seed(seed)
    device = training_device()
    tokenizer = CLIPTokenizer.from_pretrained(PIPELINE / "tokenizer")
    model = _model(tokenizer, resume=resume, frozen_text=frozen_text).to(device)
    _choose_attention(model, device)
    if resume:
        seed += int(time.time()) % 100_000  # other pictures than the phase before
    vae = AutoencoderKL.from_pretrained(PIPELINE / "vae").eval().to(device, memory_format=torch.channels_last)
    supply = _supply(vae, tokenizer, pictures, seed, frozen_text=frozen_text)
    scheduler = new_scheduler()
    localization = Localization(model.unet, tokenizer) if frozen_text else None
    average = Average(model, 0.999)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=rate, betas=(0.9, 0.99), weight_decay=1e-2)
    budget, step, running = None, 0, []
    last_report = last_save = time.monotonic()

    while budget is None or budget.progress < 1:
        noised = _noised(*supply(step, batch), scheduler)
        progress = budget.progress if budget else 0.0
        now_rate = rate_at(progress, step, peak=rate, warm_up_steps=100, hold=_HOLD)
        for group in optimizer.param_groups:
            group["lr"] = now_rate
        loss, error = _losses(model, noised, device, localization)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(model)
        budget = budget or Budget(minutes)
        step += 1
        running.append(error.detach().mean().item())
        now = time.monotonic()
        if now - last_report > 30:
            print(
                f"{budget.elapsed_seconds / 60:5.1f} min, step {step}: velocity error {np.mean(running):.4f}, "
                f"rate {now_rate:.1e}, {len(running) * batch / (now - last_report):.0f} pictures/s",
                flush=True,
            )
            last_report, running = now, []
        if now - last_save > _SAVE_SECONDS:
            _save(model, average.state(model), tokenizer, frozen_text=frozen_text)
            last_save = time.monotonic()
    _save(model, average.state(model), tokenizer, frozen_text=frozen_text)
    print(f"unet: {step} steps of {batch} in {budget.elapsed_seconds / 60:.1f} min", flush=True)
