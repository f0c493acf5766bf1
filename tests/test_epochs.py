"""What an epoch ends with: the averages of its weights are scored and saved, and the best epoch is found."""

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import kddcup.train.trainer
from kddcup.io.errors import UserError
from kddcup.nn.words import list_trainable
from kddcup.train.checkpoint import Checkpoint, RunConfig
from kddcup.train.folder import STEP, checkpoint_path, find_checkpoint, list_checkpoints
from kddcup.train.trainer import Trainer
from tests import small

BEST = ("--use_epoch", "best", "--stop_at_use_epoch")


def make_trainer(folder: Path, *flags: str, keep_start: bool = False) -> Trainer:
    """Trains a small model, always from the same start."""
    settings = small.settings(*flags, "--checkpoints_dir", str(folder))
    torch.manual_seed(0)
    model = small.MULTILABEL.build(small.CONFIG)
    config = RunConfig("small", small.CONFIG, training=asdict(settings))
    return small.trainer(model, settings, config=config, keep_start=keep_start)


def run(trainer: Trainer, valid: list[float], steps: int = 1) -> list[int]:
    """Train epochs of so many steps, scored by these figures; gives those that were trained."""
    done = []
    for epoch in trainer.epochs():
        small.train(trainer, small.Batches([[small.batch()]] * steps), epoch)
        trainer.finish(epoch, lambda epoch=epoch: valid[epoch])
        done.append(epoch)
    return done


def find_epoch(folder: Path, epoch: int | None = None) -> str:
    return find_checkpoint(small.MULTILABEL, str(folder), epoch).path.name


@pytest.mark.parametrize(
    ("valid", "flags", "count", "best"),
    [
        ([0.5, 0.7, 0.6, 0.7, 0.9], (), 4, 1),  # of equals the first
        ([0.5, 0.7, 0.6, 0.8, 0.1, 0.2, 0.9], (), 6, 3),
        ([0.9, 0.8, 0.7, 0.6], (), 3, 0),
        ([0.1, 0.2, 0.3, 0.4], ("--epochs", "3"), 3, 2),
        ([0.5, 0.7, 0.6, 0.7, 0.9, 0.1], ("--patience", "3", "--epochs", "6"), 6, 4),
    ],
)
def test_a_run_ends_when_valid_has_known_no_better_epoch_for_long(tmp_path, valid, flags, count, best):
    flags = (*BEST, "--patience", "2", "--epochs", "7", *flags)
    # Told to end after the second epoch, and gone on with.
    assert run(make_trainer(tmp_path, *flags, "--max_steps", "2"), valid) == [0, 1]
    assert find_epoch(tmp_path) == f"model-epoch{valid[:2].index(max(valid[:2]))}.pth"
    assert run(make_trainer(tmp_path, *flags, "--resume"), valid) == list(range(2, count))
    assert run(make_trainer(tmp_path, *flags, "--resume"), valid) == []
    newest = Checkpoint.read(checkpoint_path(tmp_path, count - 1), "train")
    assert newest.config.valid == valid[:count]
    assert find_epoch(tmp_path) == f"model-epoch{best}.pth"
    # The others are of no use, and large.
    assert set(list_checkpoints(tmp_path)) == {best, count - 1}
    # Alone, as in a release, the best epoch knows itself as the best.
    (tmp_path / "ckpt").mkdir()
    shutil.copy(checkpoint_path(tmp_path, best), tmp_path / "ckpt")
    assert find_epoch(tmp_path / "ckpt") == f"model-epoch{best}.pth"


def test_all_epochs_are_trained_where_the_run_is_not_to_stop(tmp_path):
    flags = ("--use_epoch", "best", "--patience", "1", "--epochs", "4")
    assert run(make_trainer(tmp_path, *flags), [0.5, 0.4, 0.3, 0.6]) == [0, 1, 2, 3]
    assert find_epoch(tmp_path) == "model-epoch3.pth"


def test_a_named_epoch_wins_over_the_best(tmp_path):
    assert run(make_trainer(tmp_path, "--use_epoch", "1", "--stop_at_use_epoch"), [0.9, 0.1]) == [0, 1]
    assert find_epoch(tmp_path) == "model-epoch1.pth"


def test_the_best_epoch_is_not_taken_of_an_earlier_run(tmp_path):
    flags = (*BEST, "--patience", "1")
    run(make_trainer(tmp_path, *flags), [0.1, 0.9, 0.2])
    # Another run has begun in the folder, and then ended its first epoch.
    later = make_trainer(tmp_path, *flags)
    steps = later.batches(small.Batches([[small.batch()]]), 0)
    later.step(next(steps))
    with pytest.raises(UserError, match=r"model-epoch1\.pth is of an earlier run"):
        find_epoch(tmp_path)
    next(steps, None)
    later.finish(0, lambda: 0.05)
    assert find_epoch(tmp_path) == "model-epoch0.pth"


def test_an_epoch_that_max_steps_cuts_short_is_scored_anew_once_it_has_ended(tmp_path):
    cut = make_trainer(tmp_path, *BEST, "--epochs", "2", "--max_steps", "3")
    assert run(cut, [0.7, 0.8], steps=2) == [0, 1]
    assert Checkpoint.read(checkpoint_path(tmp_path, 1), "train").config.valid == [0.7, 0.8]
    assert run(make_trainer(tmp_path, *BEST, "--epochs", "2", "--resume"), [0.7, 0.6], steps=2) == [1]
    assert Checkpoint.read(checkpoint_path(tmp_path, 1), "train").config.valid == [0.7, 0.6]
    assert find_epoch(tmp_path) == "model-epoch0.pth"  # which the better figure of a while has left there


def test_a_kept_start_is_an_epoch_without_steps_that_may_be_the_best(tmp_path, capsys):
    trainer = make_trainer(tmp_path, *BEST, "--patience", "2", keep_start=True)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert run(trainer, [0.9, 0.5, 0.6, 0.7]) == [0, 1, 2]
    assert find_epoch(tmp_path) == "model-epoch0.pth"
    torch.testing.assert_close(
        Checkpoint.read(checkpoint_path(tmp_path, 0), "train").parts["model"], before, rtol=0, atol=0
    )
    assert "epoch 0: the start  valid NDCG@5 0.9000" in capsys.readouterr().out
    # It is not trained in a run that goes on from there either.
    cut = tmp_path / "cut"
    assert run(make_trainer(cut, *BEST, "--max_steps", "1", keep_start=True), [0.9, 0.5]) == [0, 1]
    assert run(make_trainer(cut, *BEST, "--patience", "2", "--resume", keep_start=True), [0, 0, 0.6]) == [2]


def average(values: list[torch.Tensor], decay: float) -> torch.Tensor:
    found = values[0]
    for value in values[1:]:
        found = decay * found + (1 - decay) * value
    return found


def test_averages_are_scored_and_saved_while_the_weights_themselves_are_trained(tmp_path):
    trainer = make_trainer(tmp_path, "--average", "0.6")
    weights = list_trainable(trainer.model)
    course = [[weight.detach().clone() for weight in weights]]
    for batch in trainer.batches(small.Batches([[small.batch()]] * 3), 0):
        trainer.step(batch)
        course.append([weight.detach().clone() for weight in weights])
    expected = [average(list(values), 0.6) for values in zip(*course, strict=True)]
    scored = []
    trainer.finish(0, lambda: scored.extend(weight.detach().clone() for weight in weights) or 0.5)
    torch.testing.assert_close(scored, expected)
    torch.testing.assert_close([weight.detach() for weight in weights], course[-1], rtol=0, atol=0)
    saved = torch.load(checkpoint_path(tmp_path, 0), weights_only=True)
    names = [name for name, weight in trainer.model.named_parameters() if weight.requires_grad]
    torch.testing.assert_close([saved["model"][name] for name in names], expected)
    torch.testing.assert_close(saved["state"]["raw"], course[-1], rtol=0, atol=0)


@pytest.mark.parametrize("flag", ["0", "0.5"])
def test_a_run_goes_on_from_the_weights_and_not_from_their_averages(tmp_path, flag):
    def read(folder: Path) -> dict:
        return torch.load(checkpoint_path(folder, 1), weights_only=True)

    flags = ("--average", flag, "--epochs", "2", "--use_epoch", "1")
    run(make_trainer(tmp_path / "whole", *flags), [0.5, 0.6], steps=2)
    run(make_trainer(tmp_path / "parts", *flags, "--max_steps", "3"), [0.5, 0.6], steps=2)
    run(make_trainer(tmp_path / "parts", *flags, "--resume"), [0.5, 0.6], steps=2)
    whole, parts = read(tmp_path / "whole"), read(tmp_path / "parts")
    assert ("raw" in whole["state"]) == (flag != "0")
    for name in ("model", "optimizer", "state"):
        torch.testing.assert_close(parts[name], whole[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    "raw", [{}, [torch.zeros(3)], "as many", "not finite"], ids=["no list", "too few", "shapes", "not finite"]
)
def test_weights_that_are_not_the_models_are_refused(tmp_path, raw):
    run(make_trainer(tmp_path, "--average", "0.5", "--epochs", "1", "--use_epoch", "0"), [0.5])
    path = checkpoint_path(tmp_path, 0)
    content = torch.load(path, weights_only=True)
    if raw == "as many":
        raw = [torch.zeros(1)] * len(content["state"]["raw"])
    elif raw == "not finite":
        raw = [value * float("nan") for value in content["state"]["raw"]]
    content["state"]["raw"] = raw
    torch.save(content, path)
    with pytest.raises(UserError, match="cannot be resumed"):
        make_trainer(tmp_path, "--average", "0.5", "--resume")


def test_a_long_epoch_is_saved_before_it_is_scored(tmp_path, monkeypatch):
    def fail() -> float:
        raise MemoryError

    def train_and_fail(folder: Path) -> Trainer:
        trainer = make_trainer(folder, *BEST, "--epochs", "1")
        small.train(trainer, small.Batches([[small.batch()]] * 2))
        with pytest.raises(MemoryError):
            trainer.finish(0, fail)
        return trainer

    train_and_fail(tmp_path / "short")
    assert not (tmp_path / "short" / STEP).exists()
    monkeypatch.setattr(kddcup.train.trainer, "LONG_SECONDS", 0.0)
    train_and_fail(tmp_path)
    assert (tmp_path / STEP).exists()
    monkeypatch.undo()
    trainer = make_trainer(tmp_path, *BEST, "--epochs", "1", "--resume")
    assert run(trainer, [0.5], steps=2) == [0]
    assert not (tmp_path / STEP).exists()
    run(make_trainer(tmp_path / "whole", *BEST, "--epochs", "1"), [0.5], steps=2)
    parts, whole = (
        torch.load(checkpoint_path(folder, 0), weights_only=True) for folder in (tmp_path, tmp_path / "whole")
    )
    for name in ("model", "optimizer", "state"):
        torch.testing.assert_close(parts[name], whole[name], rtol=0, atol=0)
    assert parts["config"]["valid"] == whole["config"]["valid"] == [0.5]
