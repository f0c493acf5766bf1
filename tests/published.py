"""The parameters and inputs of which tests/figures/golden.json has the published code's results."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kddcup.data.batch import Batch, RegionBatch, TokenBatch, scale_boxes
from kddcup.io.ragged import Ragged

FIGURES = Path(__file__).parent / "figures"
GOLDEN = json.loads((FIGURES / "golden.json").read_text())
SHAPES = json.loads((FIGURES / "shapes.json").read_text())
REGIONS = (1, 2, 3, 5, 8, 1, 13, 4)
WORDS = (1, 3, 2, 6, 4, 8, 5, 2)


def parameter(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    noise = np.random.default_rng([zlib.crc32(name.encode()), 0]).standard_normal(shape, dtype=np.float32)
    if name.endswith("norm.weight"):
        values = 1 + np.float32(0.1) * noise
    elif shape == (1,) and not name.endswith("bias"):
        values = np.full(shape, 0.25, np.float32)
    elif name.endswith("embed.weight"):
        values = np.float32(0.05) * noise
    elif len(shape) >= 2:
        values = noise / np.float32(np.sqrt(shape[-1]))
    else:
        values = np.float32(0.02) * noise
    return torch.from_numpy(values)


def state(part: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter(name, tuple(value.shape)) for name, value in part.state_dict().items()}


def load(model: nn.Module) -> nn.Module:
    for part in model.children():
        part.load_state_dict(state(part))
    return model.eval()


def images(*seeds: int) -> RegionBatch:
    found = []
    for rng, n in ((rng, n) for rng in map(np.random.default_rng, seeds) for n in REGIONS):
        features = np.maximum(rng.standard_normal((n, 2048), dtype=np.float32), 0)
        height, width = rng.integers(200, 900, 2)
        top = rng.uniform(0, 0.5, n) * height
        left = rng.uniform(0, 0.5, n) * width
        bottom = top + rng.uniform(0.1, 0.5, n) * height
        right = left + rng.uniform(0.1, 0.5, n) * width
        boxes = np.stack([top, left, bottom, right], 1).astype(np.float32)
        found.append((features, scale_boxes(boxes, height, width)))
    return RegionBatch.from_images(found)


def queries(*seeds: int) -> TokenBatch:
    lists = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        lists += [rng.integers(1000, 30000, count) for count in WORDS]
    return TokenBatch.from_ragged(Ragged.from_lists(lists, np.int64), np.arange(len(lists)))


def batch() -> Batch:
    """The eight positive pairs and their negatives."""
    return Batch(queries(21), images(11), np.arange(16), queries(22), images(12))
