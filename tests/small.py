"""Small models, batches and trainers for tests of what models compute and of how they are trained."""

import importlib

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam

from kddcup import stages
from kddcup.cli import parse_settings
from kddcup.config import ModelConfig, TrainSettings
from kddcup.data.batch import Batch, RegionBatch, TokenBatch
from kddcup.io.ragged import Ragged
from kddcup.nn.words import list_trainable
from kddcup.train.checkpoint import RunConfig
from kddcup.train.processes import Process
from kddcup.train.trainer import Trainer

CONFIG = ModelConfig(region_dim=8, width=8, vocabulary=20, ff=16, dropout=0.0, start=2, end=3)
ALONE = Process(0, 1, torch.device("cpu"))
MULTILABEL = stages.find("multilabel")


class Batches(list):
    """Batches of every epoch; stands in for a loader."""

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
    return Batch(
        queries([4, 5], [6], [7, 8, 9]),
        images(1, 4, 2),
        np.arange(6),
        queries([10], [11, 4, 12], [5, 6]),
        images(3, 1, 5, seed=1),
    )


def losses(stage: str, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """A stage's losses of a batch."""
    return importlib.import_module(f"{stage}.criterion").compute_losses(model(batch), batch)


def settings(*flags: str) -> TrainSettings:
    return parse_settings(TrainSettings, None, MULTILABEL.recipes, lambda _: "small", list(flags))


def trainer(
    model: nn.Module,
    settings: TrainSettings,
    process: Process = ALONE,
    config: RunConfig | None = None,
    stage: stages.Stage = MULTILABEL,
    keep_start: bool = False,
) -> Trainer:
    """Trains a model by a stage's losses at the rate 0.1, the same in all epochs."""
    compute_losses = importlib.import_module(f"{stage.name}.criterion").compute_losses
    optimizer = Adam(list_trainable(model), lr=0.1, fused=True)
    config = config or RunConfig()
    return Trainer(
        process, stage, model, compute_losses, optimizer, lambda _: 1.0, settings, config, keep_start
    )


def train(trainer: Trainer, batches: Batches, epoch: int = 0) -> None:
    """Train an epoch without its end."""
    for batch in trainer.batches(batches, epoch):
        trainer.step(batch)
