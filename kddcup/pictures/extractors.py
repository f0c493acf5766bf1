"""From pixels to regions with their features: what a picture is scaled to, and what is taken from its map."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from kddcup.pictures.backbones import Backbone
from kddcup.pictures.regions import CROPS, Regions, cut_grid, pool_boxes, weigh_cells
from kddcup.table.extractor import Extractor

View = Callable[[Image.Image], np.ndarray]
"""A function that scales a picture in RGB for a network; runs in the processes that decode."""


class RegionExtractor(Protocol):
    """Finds the regions of pictures.

    Attributes:
        views: of a picture that it takes; pictures whose views have the same shapes make a batch.
        shortest: pixels of a picture's short side that the views need.
        most: regions that a picture has at most.
        labels: the names of the class labels.
        description: of the features.
    """

    views: tuple[View, ...]
    shortest: int
    most: int
    labels: list[str]
    description: Extractor

    def extract(self, pictures: list[tuple[np.ndarray, ...]], device: torch.device) -> list[Regions]:
        """The regions of each picture, given its views."""


class CropExtractor:
    """Takes the same crops of every picture: of the backbone's map, the mean of the cells inside each.

    Args:
        backbone: on the device.
        grid: N of N × N crops that tile the picture; 0 takes the picture, its middle and its four corners.
    """

    def __init__(self, backbone: Backbone, grid: int = 0) -> None:
        self._backbone = backbone
        self._boxes = cut_grid(grid) if grid else CROPS
        self.views = (backbone.pixels.scale,)
        self.shortest = backbone.pixels.side
        self.most = len(self._boxes)
        self.labels = ["picture"]
        self.description = Extractor(
            f"{grid} x {grid} crops" if grid else f"{len(CROPS)} crops",
            backbone.dim,
            str(backbone.pixels),
            backbone.name,
            backbone.sha256,
            precision=backbone.precision,
        )

    def extract(self, pictures: list[tuple[np.ndarray, ...]], device: torch.device) -> list[Regions]:
        """The regions of each picture, given its one view."""
        feature_map = self._backbone([view for (view,) in pictures], device)
        boxes = torch.from_numpy(self._boxes).to(device)
        features = pool_boxes(feature_map, boxes, weigh_cells).cpu().numpy()
        labels = np.zeros(len(boxes), np.int64)
        return [Regions(self._boxes, found, labels) for found in features]
