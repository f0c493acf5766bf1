"""Small models and batches for tests of what the models compute."""

import numpy as np
import torch

from kddcup.config import ModelConfig
from kddcup.data.batch import Batch, RegionBatch, TokenBatch
from kddcup.io.ragged import Ragged

CONFIG = ModelConfig(region_dim=8, width=8, vocabulary=20, ff=16, dropout=0.0)


class Batches(list):
    """Batches of every epoch."""

    def epoch(self, epoch: int, device: torch.device, first: int = 0) -> list:
        return self[first:]


def images(*lengths: int, seed: int = 0) -> RegionBatch:
    torch.manual_seed(seed)
    total = sum(lengths)
    return RegionBatch(
        torch.rand(total, CONFIG.region_dim), torch.rand(total, 5), torch.tensor(lengths, dtype=torch.int64)
    )


def queries(*lists: list[int]) -> TokenBatch:
    return TokenBatch.from_ragged(Ragged.from_lists(lists, np.int64), np.arange(len(lists)))


def batch() -> Batch:
    """Three rows with their negatives."""
    words = queries([4, 5], [6], [7, 8, 9], [10], [11, 4, 12], [5, 6])
    return Batch(words, images(1, 4, 2, 3, 1, 5), np.arange(6))
