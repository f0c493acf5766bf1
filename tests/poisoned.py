"""Steps whose losses are told: as a program, rank 1 of two meets one that is not finite."""

import numpy as np
import torch
from torch import nn

from kddcup.cli import parse_settings
from kddcup.config import PretrainSettings
from kddcup.data.batch import Batch
from kddcup.io.errors import UserError, run_script
from kddcup.train.checkpoint import RunConfig
from kddcup.train.processes import Process, launch
from kddcup.train.trainer import Trainer
from tests import small


class Poisoned(nn.Module):
    """Its loss is its weight times what it is told; infinite numbers give infinite gradients."""

    def __init__(self, factors: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.factors = iter(factors)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"loss": (self.weight * next(self.factors)).sum()}


def settings() -> PretrainSettings:
    return parse_settings(PretrainSettings, None, "multilabel", lambda _: "small", [])


def trainer(module: nn.Module, process: Process) -> Trainer:
    groups = [{"params": module.parameters(), "lr": 0.1}]
    return Trainer(process, module, groups, {}, settings(), RunConfig())


def batch(*products: int) -> list[Batch]:
    one = small.batch()
    one.products = np.array(products)
    return [one]


def main() -> None:
    with launch(settings()) as process:
        run = trainer(Poisoned([1.0, float("nan") if process.rank else 1.0, 1.0]), process)
        products = 10 * process.rank, 10 * process.rank + 1
        run.step(batch(*products), "step 0")
        before = run.module.weight.clone()
        run.step(batch(*products), "step 1")
        try:
            run.step(batch(*products), "step 2")
        except UserError:
            print(f"rank {process.rank} is as it was: {torch.equal(run.module.weight, before)}", flush=True)
            raise


if __name__ == "__main__":
    run_script(main)
