"""What flows through the models: ragged regions, padded words, and a batch of both."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kddcup.io.ragged import Ragged, find_rows


@dataclass
class TokenBatch:
    """The words of B queries: ``ids`` [B, T] int64, padded with 0; ``lengths`` [B] int64, in CPU memory."""

    ids: torch.Tensor
    lengths: torch.Tensor

    def __len__(self) -> int:
        """B."""
        return len(self.lengths)

    @classmethod
    def from_ragged(cls, tokens: Ragged, indices: np.ndarray) -> "TokenBatch":
        """The queries ``indices`` [B] of packed token ids."""
        rows, lengths = find_rows(tokens.offsets, indices)
        ids = np.zeros((len(lengths), max(1, lengths.max(initial=0))), np.int64)
        ids[np.arange(ids.shape[1]) < lengths[:, None]] = tokens.values[rows]
        return cls(torch.from_numpy(ids), torch.from_numpy(lengths))

    @classmethod
    def cat(cls, parts: Sequence["TokenBatch"]) -> "TokenBatch":
        """Several batches as one, padded to the longest query of all."""
        width = max(part.ids.shape[1] for part in parts)
        ids = [torch.nn.functional.pad(part.ids, (0, width - part.ids.shape[1])) for part in parts]
        return cls(torch.cat(ids), torch.cat([part.lengths for part in parts]))

    def take(self, index: torch.Tensor) -> "TokenBatch":
        """The queries at the places ``index`` [C], repeats allowed, padded as before."""
        return TokenBatch(self.ids[index], self.lengths[index.cpu()])

    @property
    def mask(self) -> torch.Tensor:
        """[B, T] bool on the device of ``ids``, true where there is a word."""
        return self.ids != 0

    def to(self, device: torch.device) -> "TokenBatch":
        """On ``device``; the copy does not block where the memory is pinned."""
        return TokenBatch(self.ids.to(device, non_blocking=True), self.lengths)

    def pin_memory(self) -> "TokenBatch":
        """In page-locked memory, for copies to a GPU."""
        return TokenBatch(self.ids.pin_memory(), self.lengths)


BOX_COLUMNS = 5


def place_words(lengths: torch.Tensor, width: int) -> torch.Tensor:
    """[W] where the words of queries of ``lengths`` [B], padded to ``width``, stand in the flat [B·width].

    Of lengths in CPU memory, so that no device is asked.
    """
    return (torch.arange(width) < lengths[:, None]).flatten().nonzero()[:, 0]


def scale_boxes(boxes: np.ndarray, height: int | np.ndarray, width: int | np.ndarray) -> np.ndarray:
    """Boxes relative to their image.

    Args:
        boxes: [n, 4] top, left, bottom, right in pixels.
        height: of the image, in pixels; or [n], of the image of each box.
        width: likewise.

    Returns:
        [n, 5] float32: top/h, left/w, bottom/h, right/w, and the area of the scaled box.
    """
    scale = np.stack([height, width, height, width], axis=-1).astype(np.float32)
    top, left, bottom, right = (boxes / scale).T
    return np.stack([top, left, bottom, right, (bottom - top) * (right - left)], axis=1).astype(np.float32)


@dataclass
class RegionBatch:
    """The regions of B images, image after image, R in all.

    ``features`` [R, D] float32, ``boxes`` [R, 5] float32 as :func:`scale_boxes` gives them, ``lengths`` [B]
    int64 regions per image. ``lengths`` stays in the CPU's memory, where it is read to lay out the batch.
    """

    features: torch.Tensor
    boxes: torch.Tensor
    lengths: torch.Tensor

    def __len__(self) -> int:
        """B."""
        return len(self.lengths)

    @classmethod
    def from_images(cls, images: Iterable[tuple[np.ndarray, np.ndarray]]) -> "RegionBatch":
        """From one (features [n, D], scaled boxes [n, 5]) per image."""
        features, boxes = zip(*images, strict=True)
        return cls(
            torch.from_numpy(np.concatenate(features)),
            torch.from_numpy(np.concatenate(boxes)),
            torch.tensor(list(map(len, boxes))),
        )

    @classmethod
    def cat(cls, parts: Sequence["RegionBatch"]) -> "RegionBatch":
        """Several batches as one."""
        return cls(
            torch.cat([part.features for part in parts]),
            torch.cat([part.boxes for part in parts]),
            torch.cat([part.lengths for part in parts]),
        )

    def to(self, device: torch.device) -> "RegionBatch":
        """On ``device``; the copy does not block where the memory is pinned."""
        return RegionBatch(
            self.features.to(device, non_blocking=True),
            self.boxes.to(device, non_blocking=True),
            self.lengths,
        )

    def pin_memory(self) -> "RegionBatch":
        """In page-locked memory, for copies to a GPU."""
        return RegionBatch(self.features.pin_memory(), self.boxes.pin_memory(), self.lengths)


@dataclass
class Batch:
    """B queries with their images and, where a stage wants them, a negative query and image for each.

    ``products`` are the ids of the images' products, those of the negative images behind, in CPU memory.
    ``labels`` are the words of an image where they are not those of its query.
    ``matches`` [B, B] bool, where a stage asks for it, is true where an image matches a query by words, as
    :class:`kddcup.data.sampling.Matches` says.
    """

    queries: TokenBatch
    images: RegionBatch
    products: np.ndarray
    negative_queries: TokenBatch | None = None
    negative_images: RegionBatch | None = None
    labels: TokenBatch | None = None
    matches: torch.Tensor | None = None

    def __len__(self) -> int:
        """B."""
        return len(self.queries)

    def to(self, device: torch.device) -> "Batch":
        """On ``device``."""
        return self._map(lambda part: part.to(device))

    def pin_memory(self) -> "Batch":
        """In page-locked memory, for copies to a GPU."""
        return self._map(lambda part: part.pin_memory())

    def _map(self, move: Callable) -> "Batch":
        parts = {
            name: None if part is None else move(part)
            for name, part in vars(self).items()
            if name != "products"
        }
        return Batch(products=self.products, **parts)
