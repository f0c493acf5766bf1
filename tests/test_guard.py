"""Numbers that are not finite: the update is masked, the step is named, and the run ends."""

import numpy as np
import pytest
import torch
from torch import nn

from kddcup.checkpoint import RunConfig
from kddcup.config import PretrainSettings, parse_settings
from kddcup.errors import UserError
from kddcup.guard import FinitenessGuard
from kddcup.loader import Batch
from kddcup.training import Process, Trainer
from tests import small

CPU = torch.device("cpu")


class Poisoned(nn.Module):
    """Its loss is its weight times what it is told; infinite numbers give infinite gradients."""

    def __init__(self, factors: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.factors = iter(factors)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"loss": (self.weight * next(self.factors)).sum()}


def trainer(module: nn.Module, *flags: str) -> Trainer:
    settings = parse_settings(PretrainSettings, None, "multilabel", lambda _: "small", list(flags))
    groups = [{"params": module.parameters(), "lr": 0.1}]
    return Trainer(Process(0, 1, CPU), module, groups, {}, settings, RunConfig())


def batch(*products: int) -> list[Batch]:
    one = small.batch()
    one.products = np.array(products)
    return [one]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_the_step_after_names_a_step_that_was_not_finite_and_nothing_has_changed(wrong):
    run = trainer(Poisoned([1.0, wrong, 1.0]))
    run.step(batch(1), "epoch 0, step 0")
    before = run.module.weight.clone()
    state = {key: value.clone() for key, value in run.optimizer.state[run.module.weight].items()}
    run.step(batch(7, 5, 7), "epoch 0, step 1")
    assert torch.equal(run.module.weight, before)
    assert all(
        torch.equal(value, state[key]) for key, value in run.optimizer.state[run.module.weight].items()
    )
    with pytest.raises(UserError, match=r"^epoch 0, step 1: a loss is not finite on rank 0.* products 5, 7;"):
        run.step(batch(2), "epoch 0, step 2")
    assert torch.equal(run.module.weight, before)


def test_the_last_step_of_an_epoch_is_looked_at_too():
    run = trainer(Poisoned([1.0, float("nan")]))
    with pytest.raises(UserError, match="epoch 3, step 1: a loss is not finite"):
        run.steps(3, [batch(1), batch(2)], 2)


def test_a_gradient_that_is_not_finite_under_a_finite_loss():
    guard = FinitenessGuard(0, 1, CPU)
    found = guard.flag("step 4", [torch.tensor(1.0)], [torch.tensor([1.0, float("inf")])], np.arange(20))
    assert found > 0
    with pytest.raises(UserError, match="step 4: a gradient is not finite; rank 0 had products 0, 1, .*, …"):
        guard.check()
    guard.check()


def test_finite_steps_pass():
    guard = FinitenessGuard(0, 1, CPU)
    for step in range(3):
        found = guard.flag(f"step {step}", [torch.tensor(1.0)], [torch.ones(3)], np.arange(2))
        assert found == 0
    guard.check()
