"""The reporting set's networks: patches, depthwise and attention blocks, without the selection set's trunk."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 4  # side of a patch, pixels
COARSE = 8  # cells a side at the coarse level


class DepthwiseBlock(nn.Module):
    """A 7 x 7 depthwise convolution and a widened layer per cell, added to the input.

    Source: Liu et al., "A ConvNet for the 2020s" (ConvNeXt), without the learned scale.
    """

    def __init__(self, channels: int, expansion: int = 3):
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, expansion * channels)
        self.narrow = nn.Linear(expansion * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Cells [n, h, w, c] to the same."""
        y = self.spatial(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # channels last in memory throughout
        return x + self.narrow(F.gelu(self.widen(self.norm(y)), approximate="tanh"))


class AttentionBlock(nn.Module):
    """Self-attention over all cells and a widened layer per cell, both added to the input.

    The products are explicit, because fused attention in half precision on a CPU is many times slower.
    """

    def __init__(self, channels: int, heads: int = 4, expansion: int = 3):
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.project = nn.Linear(channels, 3 * channels)
        self.join = nn.Linear(channels, channels)
        self.widen = nn.Linear(channels, expansion * channels)
        self.narrow = nn.Linear(expansion * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Cells [n, h, w, c] to the same."""
        n, h, w, c = x.shape
        parts = self.project(self.first(x)).reshape(n, h * w, 3, self.heads, c // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # each [n, heads, h w, c / heads]
        shares = (q @ k.transpose(-1, -2) * (c // self.heads) ** -0.5).softmax(-1)  # [n, heads, h w, h w]
        x = x + self.join((shares @ v).transpose(1, 2).reshape(n, h, w, c))
        return x + self.narrow(F.gelu(self.widen(self.second(x)), approximate="tanh"))


def unfold(x: Tensor, side: int) -> Tensor:
    """Squares of cells as channels: [n, h, w, c] to [n, h / side, w / side, side side c]."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // side, side, w // side, side, c).transpose(2, 3)
    return x.reshape(n, h // side, w // side, side * side * c)


def fold(x: Tensor, side: int) -> Tensor:
    """The inverse of `unfold`: [n, h, w, side side c] to [n, h side, w side, c]."""
    n, h, w, c = x.shape
    c = c // side**2
    x = x.reshape(n, h, w, side, side, c).transpose(2, 3)
    return x.reshape(n, h * side, w * side, c)


class PatchTrunk(nn.Module):
    """Features of 4 x 4 patches at 16 cells a side, and at 8 cells a side with position embeddings.

    Args:
        fine, coarse: channels at the two levels.
        local: depthwise blocks at 16 cells.
        blocks: at 8 cells, in order: "d" depthwise, "a" attention.
    """

    def __init__(self, *, fine: int = 64, coarse: int = 128, local: int = 1, blocks: str = "dada"):
        super().__init__()
        self.patches = nn.Sequential(nn.Linear(3 * PATCH**2, fine), nn.LayerNorm(fine))
        self.local = nn.Sequential(*[DepthwiseBlock(fine) for _ in range(local)])
        self.merge = nn.Sequential(nn.LayerNorm(4 * fine), nn.Linear(4 * fine, coarse))
        self.place = nn.Parameter(torch.randn(COARSE, COARSE, coarse) * 0.02)
        kinds = {"d": DepthwiseBlock, "a": AttentionBlock}
        self.blocks = nn.Sequential(*[kinds[kind](coarse) for kind in blocks], nn.LayerNorm(coarse))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures [n, 3, 64, 64] to patches [n, 16, 16, 48] and features [n, 16, 16, fine], [n, 8, 8, coarse]."""
        patches = unfold(x.permute(0, 2, 3, 1), PATCH)
        fine = self.local(self.patches(patches))
        return patches, fine, self.blocks(self.merge(unfold(fine, 2)) + self.place)


class ReportingRecognizerNetwork(nn.Module):
    """Embeds an aligned crop; in training also estimates the person's parameters.

    Args:
        trunk: arguments of `PatchTrunk`.
        dimensions: length of the embedding.
        traits: identity parameters that an auxiliary head reads from the embedding.
    """

    def __init__(self, *, trunk: dict, dimensions: int = 128, traits: int = 0):
        super().__init__()
        self.trunk = PatchTrunk(**trunk)
        self.narrow = nn.Linear(trunk["coarse"], 16)
        self.embed = nn.Sequential(nn.LayerNorm(16 * COARSE**2), nn.Linear(16 * COARSE**2, dimensions))
        self.traits = nn.Linear(dimensions, traits) if traits else None

    def forward(self, x: Tensor) -> Tensor:
        """Crops [n, 3, 64, 64] to unit vectors [n, dimensions]."""
        cells = self.narrow(self.trunk(x)[2])  # [n, 8, 8, 16]
        return F.normalize(self.embed(cells.flatten(1)).float(), dim=-1)

    def read_traits(self, embedding: Tensor) -> Tensor:
        """The person's parameters [n, traits] from embeddings [n, dimensions]."""
        if self.traits is None:
            raise ValueError("this recognizer was built without a head for traits")
        return self.traits(embedding * embedding.shape[1] ** 0.5)


class ConceptHead(nn.Module):
    """Attention pooling over the cells, then the answers.

    Args:
        channels: of the cells.
        answers: how many there are to choose from.
        glances: weighted means that are taken.
        hidden: width of the layer between the glances and the answers.
    """

    def __init__(self, channels: int, answers: int, glances: int = 4, hidden: int = 64):
        super().__init__()
        self.look = nn.Linear(channels, glances)
        self.place = nn.Parameter(torch.zeros(COARSE**2, glances))
        self.answer = nn.Sequential(
            nn.Linear(glances * channels, hidden), nn.GELU(), nn.Linear(hidden, answers)
        )

    def forward(self, cells: Tensor) -> Tensor:
        """Cells [n, 64, c] to logits [n, answers]."""
        shares = (self.look(cells) + self.place).softmax(1)  # [n, 64, glances]
        return self.answer((shares.transpose(1, 2) @ cells).flatten(1))


class ConceptNetwork(nn.Module):
    """Classifies a picture with one head for each kind of concept.

    Args:
        trunk: arguments of `PatchTrunk`.
        heads: number of answers of each head by its name.
    """

    def __init__(self, *, trunk: dict, heads: dict[str, int]):
        super().__init__()
        self.trunk = PatchTrunk(**trunk)
        self.heads = nn.ModuleDict(
            {name: ConceptHead(trunk["coarse"], answers) for name, answers in heads.items()}
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Pictures [n, 3, 64, 64] to logits [n, answers] by head."""
        cells = self.trunk(x)[2].flatten(1, 2)  # [n, 64, c]
        return {name: head(cells).float() for name, head in self.heads.items()}


class _Finer(nn.Module):
    """Upsamples coarse features to 16 cells a side and mixes them with the fine ones."""

    def __init__(self, fine: int, coarse: int):
        super().__init__()
        self.spread = nn.Linear(coarse, 4 * fine)
        self.mix = DepthwiseBlock(fine)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        return self.mix(fine + fold(self.spread(coarse), 2))


class ReportingDetectorNetwork(nn.Module):
    """Maps a picture to a 16 x 16 grid of faces, coded as `scorer_networks.DetectorNetwork` says.

    Args:
        trunk: arguments of `PatchTrunk`.
    """

    def __init__(self, *, trunk: dict):
        super().__init__()
        self.trunk = PatchTrunk(**trunk)
        self.finer = _Finer(trunk["fine"], trunk["coarse"])
        logits = nn.Linear(trunk["fine"], 9)
        self.head = nn.Sequential(nn.LayerNorm(trunk["fine"]), logits)
        nn.init.constant_(logits.bias[:1], -4.0)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [n, 3, 64, 64] to the grid [n, 9, 16, 16]."""
        _, fine, coarse = self.trunk(x)
        return self.head(self.finer(fine, coarse)).permute(0, 3, 1, 2).float()


class ReportingParserNetwork(nn.Module):
    """Maps a picture to logits of the face classes; each patch classifies its own 16 pixels.

    Args:
        trunk: arguments of `PatchTrunk`.
        classes: number of classes.
        hidden: width of the layer that joins a patch's features with its pixels.
    """

    def __init__(self, *, trunk: dict, classes: int, hidden: int = 192):
        super().__init__()
        self.trunk = PatchTrunk(**trunk)
        self.finer = _Finer(trunk["fine"], trunk["coarse"])
        self.join = nn.Linear(trunk["fine"] + 3 * PATCH**2, hidden)
        self.name = nn.Linear(hidden, PATCH**2 * classes)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [n, 3, 64, 64] to logits [n, classes, 64, 64]."""
        patches, fine, coarse = self.trunk(x)
        cells = torch.cat([self.finer(fine, coarse), patches], -1)
        named = self.name(F.gelu(self.join(cells), approximate="tanh"))
        return fold(named, PATCH).permute(0, 3, 1, 2).float()
