"""The four scorers' networks: small convolutional models of 64 x 64 pictures, for one CPU core."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 64  # side of every picture that enters a network, pixels


def as_tensor(images: np.ndarray) -> Tensor:
    """Pictures uint8 [n, h, w, 3] as float32 [n, 3, h, w] in -1..1, channels last in memory."""
    pictures = torch.as_tensor(images).permute(0, 3, 1, 2)  # a view: already channels last
    return pictures.float().div_(127.5).sub_(1.0)


def _block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


class Residual(nn.Module):
    """One 3 x 3 convolution added to its own input."""

    def __init__(self, channels: int):
        super().__init__()
        self.block = _block(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, h, w] to the same shape."""
        return x + self.block(x)


class Trunk(nn.Module):
    """A pyramid of features at 32, 16, 8 and 4 cells a side.

    Args:
        widths: channels at the four levels.
    """

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        a, b, c, d = widths
        # Folding 2 x 2 pixels into channels keeps a pupil that is one pixel wide, at a quarter of the cost.
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), _block(12, a))
        self.level16 = nn.Sequential(_block(a, b, 2), Residual(b))
        self.level8 = nn.Sequential(_block(b, c, 2), Residual(c), Residual(c))
        self.level4 = nn.Sequential(_block(c, d, 2), Residual(d))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pictures [n, 3, 64, 64] to features [n, a, 32, 32], [n, b, 16, 16], [n, c, 8, 8], [n, d, 4, 4]."""
        x32 = self.stem(x)
        x16 = self.level16(x32)
        x8 = self.level8(x16)
        return x32, x16, x8, self.level4(x8)


class RecognizerNetwork(nn.Module):
    """Embeds an aligned crop; in training also estimates the person's parameters.

    Args:
        widths: channels of the trunk.
        dimensions: length of the embedding.
        traits: identity parameters that an auxiliary head reads from the embedding.
    """

    def __init__(self, *, widths: Sequence[int] = (24, 48, 96, 160), dimensions: int = 128, traits: int = 0):
        super().__init__()
        self.trunk = Trunk(widths)
        self.embed = nn.Sequential(
            nn.Flatten(), nn.Linear(widths[3] * 16, dimensions), nn.BatchNorm1d(dimensions)
        )
        self.traits = nn.Linear(dimensions, traits) if traits else None

    def forward(self, x: Tensor) -> Tensor:
        """Crops [n, 3, 64, 64] to unit vectors [n, dimensions]."""
        return F.normalize(self.embed(self.trunk(x)[3]), dim=-1)

    def read_traits(self, embedding: Tensor) -> Tensor:
        """Unit vectors [n, dimensions] to trait estimates [n, traits]."""
        # A unit vector's components are small; the factor gives the head inputs of unit scale.
        if self.traits is None:
            raise ValueError("this recognizer was built without a head for traits")
        return self.traits(embedding * embedding.shape[1] ** 0.5)


class TextTower(nn.Module):
    """Embeds a text: word embeddings, one convolution over neighbors, pooling.

    Args:
        words: size of the vocabulary; 0 is padding and 1 an unknown word.
        width: channels of a word.
        dimensions: length of the result.
    """

    def __init__(self, words: int, width: int, dimensions: int):
        super().__init__()
        self.words = nn.Embedding(words, width, padding_idx=0)
        self.mix = nn.Conv1d(width, 2 * width, 3, padding=1)
        self.project = nn.Sequential(
            nn.Linear(4 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, dimensions)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Word ids [n, length] to unit vectors [n, dimensions]."""
        present = (tokens > 0).unsqueeze(1)  # [n, 1, length]
        x = F.relu(self.mix(self.words(tokens).transpose(1, 2))) * present  # [n, 2 width, length]
        mean = x.sum(2) / present.sum(2).clamp(min=1)
        return F.normalize(self.project(torch.cat([x.amax(2), mean], 1)), dim=-1)


class ImageTextNetwork(nn.Module):
    """Embeds a picture and a text, close if the text is true of the picture; heads classify the concepts.

    Args:
        widths: channels of the trunk.
        dimensions: length of both embeddings.
        words: size of the vocabulary.
        word_width: channels of a word.
        heads: number of answers of each head by its name.
    """

    def __init__(
        self,
        *,
        heads: dict[str, int],
        words: int,
        widths: Sequence[int] = (32, 48, 96, 160),
        dimensions: int = 128,
        word_width: int = 64,
    ):
        super().__init__()
        self.trunk = Trunk(widths)
        self.features = nn.Sequential(
            nn.Flatten(), nn.Linear(widths[3] * 16, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU()
        )
        self.heads = nn.ModuleDict({name: nn.Linear(256, answers) for name, answers in heads.items()})
        self.image = nn.Linear(256, dimensions)
        self.text = TextTower(words, word_width, dimensions)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.bias = nn.Parameter(torch.tensor(-3.0))

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Pictures [n, 3, 64, 64] to unit vectors [n, dimensions] and logits [n, answers] by head."""
        features = self.features(self.trunk(x)[3])
        return F.normalize(self.image(features), dim=-1), {
            name: head(features) for name, head in self.heads.items()
        }

    def agreement(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [n, m] that each text [m, dimensions] is true of each picture [n, dimensions]."""
        return image @ text.T * self.scale.exp() + self.bias


class _Upward(nn.Module):
    """Upsamples coarse features to the next finer level and mixes them with it."""

    def __init__(self, coarse: int, fine: int, channels_out: int):
        super().__init__()
        self.narrow = nn.Conv2d(coarse, fine, 1)
        self.mix = _block(fine, channels_out)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        return self.mix(fine + F.interpolate(self.narrow(coarse), scale_factor=2, mode="nearest"))


class DetectorNetwork(nn.Module):
    """Maps a picture to a 16 x 16 grid of faces: confidence, box and eye centers for each cell.

    Channels of the result: 0 the logit that a face's center lies in the cell; 1 to 4 the box's sides
    (x0, y0, x1, y1) and 5 to 8 the eyes (left x, y, right x, y), relative to the cell's center in
    units of `REACH` pixels.
    """

    CHANNELS = 9
    CELLS = 16
    REACH = 16.0

    def __init__(self, *, widths: Sequence[int] = (24, 48, 80, 96)):
        super().__init__()
        _, b, c, d = widths
        self.trunk = Trunk(widths)
        self.up8, self.up16 = _Upward(d, c, c), _Upward(c, b, 64)
        residual, logits = Residual(64), nn.Conv2d(64, self.CHANNELS, 1)
        self.head = nn.Sequential(residual, logits)
        if logits.bias is not None:
            nn.init.constant_(logits.bias[:1], -4.0)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [n, 3, 64, 64] to the grid [n, 9, 16, 16]."""
        _, x16, x8, x4 = self.trunk(x)
        return self.head(self.up16(self.up8(x4, x8), x16))


class ParserNetwork(nn.Module):
    """A small U-Net: maps a picture to logits of the face classes for each pixel.

    Args:
        classes: number of classes.
        widths: channels of the trunk.
    """

    def __init__(self, *, classes: int, widths: Sequence[int] = (32, 48, 80, 96)):
        super().__init__()
        a, b, c, d = widths
        self.trunk = Trunk(widths)
        self.up8, self.up16, self.up32 = _Upward(d, c, c), _Upward(c, b, b), _Upward(b, a, 48)
        self.head = nn.Sequential(nn.Conv2d(48, 4 * classes, 1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [n, 3, 64, 64] to logits [n, classes, 64, 64]."""
        x32, x16, x8, x4 = self.trunk(x)
        return self.head(self.up32(self.up16(self.up8(x4, x8), x16), x32))
