"""Networks that make of a picture a map of features, and how each wants its pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kddcup.pictures import lite
from kddcup.pictures.weights import sum_files

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Precision = Literal["float32", "bf16"]
SHORT_SIDE = 256
STRIDE = 32
"""Pixels that sides are a multiple of, so that all of a picture is in the map, and many are of one size."""
LONGEST = 4
"""A picture that is longer than so many times its short side is squeezed to that."""


@dataclass(frozen=True)
class Pixels:
    """How a picture is scaled before a network sees it.

    Args:
        side: of the square that it is scaled to; or, if ``is_square`` is False, its short side.
        is_square: whether the sides become equal; else the long side follows the short one, to the next
            multiple of :data:`STRIDE`.
        mean: subtracted from each channel, which is from 0 to 1.
        deviation: divided by thereafter.
    """

    side: int = SHORT_SIDE
    is_square: bool = False
    mean: tuple[float, ...] = IMAGENET_MEAN
    deviation: tuple[float, ...] = IMAGENET_DEVIATION

    def __str__(self) -> str:
        """As the description of an extractor has it."""
        size = f"{self.side} x {self.side}" if self.is_square else f"short side {self.side}"
        mean, deviation = (
            " ".join(f"{value:g}" for value in values) for values in (self.mean, self.deviation)
        )
        return f"{size} less {mean} by {deviation}"

    def scale(self, image: Image.Image) -> np.ndarray:
        """[height, width, 3] uint8 of a picture in RGB."""
        short, long = sorted(image.size)
        cells = 1 if self.is_square else min(LONGEST, long / short)
        longer = self.side if self.is_square else max(self.side, round(self.side * cells / STRIDE) * STRIDE)
        size = (longer, self.side) if image.width > image.height else (self.side, longer)
        return np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3))

    def normalise(self, pictures: list[np.ndarray], device: torch.device) -> Tensor:
        """[B, 3, height, width] float32, channels last in memory, of scaled pictures of one size."""
        pixels = torch.from_numpy(np.stack(pictures)).to(device).float() / 255
        mean, deviation = (torch.tensor(values, device=device) for values in (self.mean, self.deviation))
        return ((pixels - mean) / deviation).permute(0, 3, 1, 2)


@dataclass
class Backbone:
    """A network with a map of features.

    Args:
        name: as the user named it.
        sha256: of its weights.
        pixels: how it wants its pictures.
        network: in eval mode.
        read_map: makes [B, D, height, width] of the network and the pixels.
        dim: D.
        precision: of its layers.
    """

    name: str
    sha256: str
    pixels: Pixels
    network: nn.Module
    read_map: Callable[[nn.Module, Tensor], Tensor]
    dim: int
    precision: Precision

    def __call__(self, pictures: list[np.ndarray], device: torch.device) -> Tensor:
        """[B, D, height, width] float32 of scaled pictures of one size."""
        pixels = self.pixels.normalise(pictures, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.read_map(self.network, pixels).float()


def load_default(precision: Precision) -> Backbone:
    """EfficientNet-Lite0, see :mod:`kddcup.pictures.lite`."""
    return Backbone(
        lite.NAME,
        sum_files([lite.find_weights()]),
        Pixels(),
        lite.load_lite(),
        lambda network, pixels: network(pixels).last_hidden_state,
        lite.DIM,
        precision,
    )
