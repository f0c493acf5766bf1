"""Networks that make of a picture a map of features, and how each wants its pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kddcup.io.errors import UserError, explain_error
from kddcup.io.files import read_json
from kddcup.pictures import lite
from kddcup.pictures.weights import find_folder, list_weights, load_network, sum_files

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Precision = Literal["float32", "bf16"]
SHORT_SIDE = 256
STRIDE = 32
"""Pixels that sides are a multiple of, so that all of a picture is in the map, and many are of one size."""
LONGEST = 4
"""The most times that a picture is longer than its short side; a longer one is squeezed to that."""


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


def load_backbone(name: str, precision: Precision) -> Backbone:
    """A network of transformers that makes a map: a convolutional one, or the picture tower of a transformer.

    A convolutional network sees pictures with the short side that its processor says, by default 256 pixels.
    A transformer sees squares of the size that it was trained with, since it has learned its patches' places.

    Args:
        name: a folder, or a name on the hub.
        precision: of its layers.

    Raises:
        UserError: it cannot be loaded, or makes no map.
    """
    from transformers import AutoModel

    folder = find_folder(name)
    network = load_network(AutoModel, folder)
    network = getattr(network, "vision_model", network)  # of CLIP and SigLIP, which also have one for text
    side = getattr(network.config, "image_size", None)
    side = side if isinstance(side, int) else SHORT_SIDE
    try:
        with torch.inference_mode():
            blank = torch.zeros(1, 3, side, side)
            is_square = network(pixel_values=blank).last_hidden_state.ndim == 3
            dim = read_map(network, blank).shape[1]
    except Exception as error:  # of networks that look at text, say
        raise UserError(
            f"{name} makes no map of a picture ({explain_error(error)}): name a convolutional network, or a "
            "ViT, CLIP, SigLIP or DINOv2"
        ) from None
    pixels = _read_pixels(folder, side if is_square else None)
    return Backbone(name, sum_files(list_weights(folder)), pixels, network, read_map, dim, precision)


def read_map(network: nn.Module, pixels: Tensor) -> Tensor:
    """[B, D, rows, columns]: a convolutional network's last map, or a transformer's patch tokens as one."""
    found = network(pixel_values=pixels).last_hidden_state
    if found.ndim == 4:
        return found
    rows, columns = count_patches(network, pixels)
    before = found.shape[1] - rows * columns  # a token of the class, and in some networks registers
    if before < 0:
        raise ValueError(f"it has {found.shape[1]} tokens for {rows * columns} patches")
    return lay_out(found[:, before:], rows, columns)


def count_patches(network: nn.Module, pixels: Tensor) -> tuple[int, int]:
    """The rows and columns of a transformer's patches."""
    size = network.config.patch_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return pixels.shape[2] // height, pixels.shape[3] // width


def lay_out(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """[B, rows · columns, D] tokens, row after row, as a map [B, D, rows, columns]."""
    return tokens.transpose(1, 2).unflatten(2, (rows, columns))


def _read_pixels(folder: Path, square: int | None) -> Pixels:
    """How a network wants its pixels, by its processor's settings; squares where it has learned places."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return Pixels(square or SHORT_SIDE, square is not None)
    given = read_json(path, "get it again")
    try:
        side = square or int(given.get("size", {}).get("shortest_edge", SHORT_SIDE))
        mean, deviation = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if given.get("do_normalize", True):
            mean = tuple(float(value) for value in given.get("image_mean", IMAGENET_MEAN))
            deviation = tuple(float(value) for value in given.get("image_std", IMAGENET_DEVIATION))
        return Pixels(side, square is not None, mean, deviation)
    except (AttributeError, TypeError, ValueError):
        raise UserError(f"{path} has no sizes and means as processors have them: get it again") from None
