"""Numbers that are not finite: the update is masked, the step is named, and the run ends."""

import numpy as np
import pytest
import torch
from torch.optim import Adam, AdamW

from kddcup.io.errors import UserError
from kddcup.train.guard import FinitenessGuard
from tests import small
from tests.conftest import run_script
from tests.poisoned import Poisoned, batch, trainer

CPU = torch.device("cpu")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_the_step_after_names_a_step_that_was_not_finite_and_nothing_has_changed(tmp_path, wrong, kind):
    settings = small.settings("--checkpoints_dir", str(tmp_path))
    run = trainer(Poisoned([1.0, wrong, 1.0]), settings, kind=kind)
    steps = run.batches(small.Batches([batch(1), batch(7, 5, 7), batch(2)]), 0)
    run.step(next(steps))
    before = run.model.weight.clone()
    state = {key: value.clone() for key, value in run.optimizer.state[run.model.weight].items()}
    run.step(next(steps))
    assert torch.equal(run.model.weight, before)
    torch.testing.assert_close(run.optimizer.state[run.model.weight], state, rtol=0, atol=0)
    with pytest.raises(UserError, match=r"^epoch 0, step 1: a loss is not finite on rank 0.* products 5, 7;"):
        run.step(next(steps))
    assert torch.equal(run.model.weight, before)


def test_the_last_step_of_an_epoch_is_looked_at_too(tmp_path):
    run = trainer(Poisoned([1.0, float("nan")]), small.settings("--checkpoints_dir", str(tmp_path)))
    with pytest.raises(UserError, match="epoch 0, step 1: a loss is not finite"):
        small.train(run, small.Batches([batch(1), batch(2)]))


def test_a_gradient_that_is_not_finite_under_a_finite_loss():
    guard = FinitenessGuard(0, 1, CPU)
    gradients = [torch.tensor([1.0, float("inf")])]
    found, norm = guard.flag("step 4", [torch.tensor(1.0)], gradients, np.arange(20), False)
    assert found > 0
    assert norm == float("inf")
    with pytest.raises(
        UserError, match="step 4: a gradient is not finite; rank 0 had products 0, 1, .*, 18, 19;"
    ):
        guard.check()
    guard.check()


def test_a_process_that_ends_in_the_midst_of_its_group_ends_with_its_own_code(tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    done = run_script(".", *launcher, "-m", "tests.two_ranks", "leave", tmp_path)
    assert "terminate called" not in done.stderr
    assert done.returncode == 0, done.stderr


def test_all_ranks_end_at_the_same_step_and_say_which_rank_it_was(tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    done = run_script(".", *launcher, "-m", "tests.poisoned", tmp_path)
    assert done.returncode != 0
    for rank, products in ((0, "0, 1"), (1, "10, 11")):
        assert f"step 1: a loss is not finite on rank 1; rank {rank} had products {products};" in done.stderr
        assert f"rank {rank} is as it was: True" in done.stdout
