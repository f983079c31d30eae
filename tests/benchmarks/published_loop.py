"""diffusers' Textual Inversion training loop in this process: what a user of a GPU would run instead, person by person.

It follows `examples/textual_inversion/textual_inversion.py` and `textual_inversion_sdxl.py` of the diffusers sources
(Apache 2.0) operation for operation: for every sample the photo is opened, resized and encoded anew and the text
tokenized; the whole table of embeddings is trained and then put back but for the new row; the frozen networks are in the
place's precision, the first text encoder in float32 under autocast. Left out, to the loop's favor: accelerate's
bookkeeping, the progress bar, and the learning rate's schedule, which is constant.

It is here because the scripts (`published_script.py`) are no part of the diffusers package and start anew for each
length of training, for which a benchmark of minutes has no time. docs/benchmarks.md has its step beside the script's.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch.nn import functional as F

from faceid_core.diffusion.base import PRECISIONS
from faceid_core.weights.describe import ENCODERS

from .published_script import TOKEN
from .settings import Place

_RATE, _INITIALIZER = 5e-4, "person"


class PublishedLoop:
    """One person's training, ready for its steps.

    Args:
        pipeline: diffusers' pipeline on the device; its text encoders get the new token, so that it draws no more.
        photo: a folder with one picture and nothing else.
        resolution: side of the training pictures in pixels.
    """

    def __init__(self, pipeline: Any, place: Place, photo: Path, resolution: int):
        self.device, self.precision = place.device, PRECISIONS[place.precision]
        self.unet, self.vae = pipeline.unet.requires_grad_(False), pipeline.vae.requires_grad_(False)
        self.noise = DDPMScheduler.from_config(pipeline.scheduler.config)
        (self.photo,) = photo.iterdir()
        self.resolution = resolution
        names = [name for name in ENCODERS if getattr(pipeline, name, None) is not None]
        self.encoders = [getattr(pipeline, name).train().requires_grad_(False) for name in names]
        self.tokenizers = [getattr(pipeline, ENCODERS[name]) for name in names]
        # As in the scripts: only the second encoder of XL is cast to the place's precision.
        self.encoders[0].float()
        self.tables = []
        for encoder, tokenizer in zip(self.encoders, self.tokenizers, strict=True):
            tokenizer.add_tokens([TOKEN])
            # The new row is the initializer token's; the library's own start for it would take seconds.
            encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            table = encoder.get_input_embeddings().weight
            (initializer,) = tokenizer.encode(_INITIALIZER, add_special_tokens=False)
            table.data[tokenizer.convert_tokens_to_ids(TOKEN)] = table.data[initializer]
            self.tables.append(table.requires_grad_(True))
        self.before = [table.detach().clone() for table in self.tables]
        self.optimizer = torch.optim.AdamW(self.tables, lr=_RATE, weight_decay=1e-2)
        self.scaler = torch.amp.GradScaler(self.device, enabled=self.precision == torch.float16)

    def step(self, batch: int) -> float:
        """One step of `batch` samples; returns its loss."""
        pixels, ids = self._samples(batch)
        with torch.no_grad():
            latents = self.vae.encode(pixels.to(self.device, self.precision)).latent_dist.sample()
        latents = latents * self.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, self.noise.config.num_train_timesteps, (batch,), device=self.device)
        noisy = self.noise.add_noise(latents, noise, timesteps)
        states, added = self._contexts(ids, batch)
        prediction = self.unet(noisy, timesteps, states, added_cond_kwargs=added).sample
        target = noise
        if self.noise.config.prediction_type == "v_prediction":
            target = self.noise.get_velocity(latents, noise, timesteps)
        loss = F.mse_loss(prediction.float(), target.float())
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        for tokenizer, table, before in zip(self.tokenizers, self.tables, self.before, strict=True):
            others = torch.ones(len(tokenizer), dtype=torch.bool)
            others[tokenizer.convert_tokens_to_ids(TOKEN)] = False
            with torch.no_grad():
                table[others] = before[others]
        return loss.detach().item()

    def _samples(self, batch: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The photo's pixels [batch, 3, side, side] and each tokenizer's ids [batch, length], made anew as from files."""
        pixels, ids = [], [[] for _ in self.tokenizers]
        for _ in range(batch):
            for tokenizer, found in zip(self.tokenizers, ids, strict=True):
                length = tokenizer.model_max_length
                text = tokenizer(
                    f"a photo of a {TOKEN}",
                    padding="max_length",
                    truncation=True,
                    max_length=length,
                    return_tensors="pt",
                )
                found.append(text.input_ids[0])
            with Image.open(self.photo) as opened:
                image = opened.convert("RGB").resize((self.resolution,) * 2, Image.Resampling.BICUBIC)
            if random.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            scaled = (np.array(image).astype(np.uint8) / 127.5 - 1.0).astype(np.float32)
            pixels.append(torch.from_numpy(scaled).permute(2, 0, 1))
        return torch.stack(pixels), [torch.stack(found).to(self.device) for found in ids]

    def _contexts(self, ids: list[torch.Tensor], batch: int) -> tuple[torch.Tensor, dict | None]:
        """What the U-Net reads: contexts, and for XL the pooled embedding with the picture's sizes."""
        with torch.autocast(self.device, self.precision, enabled=self.precision != torch.float32):
            if len(self.encoders) == 1:
                return self.encoders[0](ids[0])[0].to(self.precision), None
            outputs = [
                encoder(each, output_hidden_states=True)
                for encoder, each in zip(self.encoders, ids, strict=True)
            ]
        states = [output.hidden_states[-2].to(self.precision) for output in outputs]
        side = self.resolution
        sizes = torch.tensor([side, side, 0, 0, side, side]).repeat(batch, 1).to(self.device, self.precision)
        pooled = outputs[-1].text_embeds.to(self.precision)
        return torch.cat(states, dim=-1), {"text_embeds": pooled, "time_ids": sizes}
