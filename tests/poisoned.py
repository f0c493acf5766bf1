"""Steps of given losses: as a program, ``poisoned.py OUT``, rank 1 of two meets one that is not finite."""

import sys

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam

from kddcup.config import TrainSettings
from kddcup.data.batch import Batch
from kddcup.io.errors import UserError, run_script
from kddcup.train.checkpoint import RunConfig
from kddcup.train.launch import launch
from kddcup.train.processes import Process
from kddcup.train.trainer import Trainer
from tests import small


class Poisoned(nn.Module):
    """Its loss is its weight times the factor of the step; infinite factors give infinite gradients."""

    def __init__(self, factors: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.factors = iter(factors)

    def forward(self, batch: Batch) -> Tensor:
        return (self.weight * next(self.factors)).sum()


def trainer(
    model: Poisoned, settings: TrainSettings, process: Process = small.ALONE, kind: type[Adam] = Adam
) -> Trainer:
    optimizer = kind(model.parameters(), lr=0.1, weight_decay=0.1, fused=True)
    return Trainer(
        process,
        small.MULTILABEL,
        model,
        lambda loss, batch: {"loss": loss},
        optimizer,
        lambda epoch: 1.0,
        settings,
        RunConfig(),
    )


def batch(*products: int) -> list[Batch]:
    poisoned = small.batch()
    poisoned.products = np.array(products)
    return [poisoned]


def main() -> None:
    settings = small.settings("--checkpoints_dir", sys.argv[1])
    with launch(settings) as process:
        run = trainer(Poisoned([1.0, float("nan") if process.rank else 1.0, 1.0]), settings, process)
        batches = small.Batches([batch(10 * process.rank, 10 * process.rank + 1)] * 3)
        weights = []
        try:
            for micro_batches in run.batches(batches, 0):
                weights.append(run.model.weight.clone())
                run.step(micro_batches)
        except UserError:
            unchanged = torch.equal(run.model.weight, weights[1])
            print(f"rank {process.rank} is as it was: {unchanged}", flush=True)
            raise


if __name__ == "__main__":
    run_script(main)
