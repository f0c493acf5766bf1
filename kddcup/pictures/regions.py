"""Regions of a picture: where they lie, and what a map of features has inside them.

Boxes are top, left, bottom, right as shares of the picture's sides, from 0 to 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CROPS = np.array(
    [
        [0.0, 0.0, 1.0, 1.0],
        [0.2, 0.2, 0.8, 0.8],
        [0.0, 0.0, 0.6, 0.6],
        [0.0, 0.4, 0.6, 1.0],
        [0.4, 0.0, 1.0, 0.6],
        [0.4, 0.4, 1.0, 1.0],
    ],
    np.float32,
)
"""[6, 4] The picture, its middle and its four corners."""
WHOLE_PICTURE = CROPS[:1]
SAMPLES = 14
"""Points along each side of a box, as RoIAlign takes them: two in each of seven bins."""

Weigh = Callable[[Tensor, Tensor, int], Tensor]
"""A function of starts [n], ends [n] and a number of cells; gives weights [n, cells] of a side's cells."""


@dataclass
class Regions:
    """The regions of a picture.

    ``boxes`` [n, 4] float32, ``features`` [n, D] float32, ``labels`` [n] int64.
    """

    boxes: np.ndarray
    features: np.ndarray
    labels: np.ndarray


def cut_grid(sides: int) -> np.ndarray:
    """[sides², 4] float32 boxes that tile the picture, row after row."""
    edges = np.linspace(0, 1, sides + 1, dtype=np.float32)
    top, left = np.divmod(np.arange(sides * sides), sides)
    return np.stack([edges[top], edges[left], edges[top + 1], edges[left + 1]], 1)


def weigh_cells(starts: Tensor, ends: Tensor, cells: int) -> Tensor:
    """[n, cells] equal weights of the cells whose centre lies inside; of the nearest where there is none."""
    centres = (torch.arange(cells, device=starts.device) + 0.5) / cells
    inside = (centres >= starts[:, None]) & (centres <= ends[:, None])
    middle = (starts + ends)[:, None] / 2
    nearest = torch.nn.functional.one_hot((centres - middle).abs().argmin(1), cells).bool()
    inside = torch.where(inside.any(1, keepdim=True), inside, nearest).float()
    return inside / inside.sum(1, keepdim=True)


def weigh_samples(starts: Tensor, ends: Tensor, cells: int) -> Tensor:
    """[n, cells] weights of the mean of linear interpolation at :data:`SAMPLES` equally distant points.

    A cell's value stands at its centre, and is continued beyond the first and the last centre. Since the
    points of a box are a grid, two of these are RoIAlign's bilinear sampling (He et al., 2017).
    """
    steps = (torch.arange(SAMPLES, device=starts.device) + 0.5) / SAMPLES
    points = starts[:, None] + steps * (ends - starts)[:, None]  # [n, samples]
    distances = (points * cells - 0.5).clamp(0, cells - 1)[:, :, None] - torch.arange(
        cells, device=starts.device
    )
    return (1 - distances.abs()).clamp(min=0).mean(1)


def pool_boxes(feature_map: Tensor, boxes: Tensor, weigh: Weigh) -> Tensor:
    """Pool a map inside boxes.

    Args:
        feature_map: [..., D, height, width].
        boxes: [n, 4].
        weigh: :func:`weigh_cells` or :func:`weigh_samples`.

    Returns:
        [..., n, D].
    """
    rows = weigh(boxes[:, 0], boxes[:, 2], feature_map.shape[-2])
    columns = weigh(boxes[:, 1], boxes[:, 3], feature_map.shape[-1])
    return torch.einsum("...dhw,nh,nw->...nd", feature_map, rows, columns)
