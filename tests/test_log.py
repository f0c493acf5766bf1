"""What a run tells of itself: the block at its start, a line after each epoch, TensorBoard's curves."""

import itertools
import re
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kddcup.train.checkpoint import RunConfig
from kddcup.train.log import FOLDER, EpochLog, Pace, named_rates, peak_memory
from kddcup.train.processes import Process
from kddcup.train.trainer import Trainer
from multilabel.model import MultiLabelClassifier
from tests import small
from tests.conftest import run_script
from tests.poisoned import settings

CPU = torch.device("cpu")
LINE = (
    r"epoch {epoch}: matching \d+\.\d{{4}}  valid NDCG@5 0\.\d{{4}}  rate item \S+, score \S+  "
    r"\d+ s, [\d,]+ samples/s, \d+\.\d% waiting for data  "
    r"peak memory \d+\.\d\d GB  \S+/model-epoch{epoch}\.pth"
)


def log(epoch: int, folder: Path, **others: object) -> EpochLog:
    pace = Pace(steps=30, seconds=12.0, waited=3.0)
    told = EpochLog(
        epoch,
        {"tagging": 1.5, "captioning": 0.25},
        0.71238,
        {"item": 5e-6, "query+score": 1e-4},
        pace,
        64,
        1_234_000_000,
        folder / f"model-epoch{epoch}.pth",
    )
    return replace(told, **others)


def curves(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / FOLDER))
    return found.Reload()


def steps(folder: Path, name: str) -> list[int]:
    return [event.step for event in curves(folder).Scalars(name)]


def test_a_line_worked_by_hand():
    assert log(3, Path("out")).line() == (
        "epoch 3: tagging 1.5000  captioning 0.2500  valid NDCG@5 0.7124  rate item 5e-06, "
        "query+score 0.0001  12 s, 160 samples/s, 25.0% waiting for data  peak memory 1.23 GB  "
        "out/model-epoch3.pth"
    )


def test_an_epoch_that_was_done_before_the_resume_has_no_speed(tmp_path):
    told = log(0, tmp_path, pace=Pace(0, 1e-6, 1e-6))
    assert "samples/s" not in told.line()
    assert "waiting" not in told.line()
    told.write()
    assert set(curves(tmp_path).Tags()["scalars"]) == {
        *("loss/tagging", "loss/captioning", "rate/item", "rate/query+score", "valid/NDCG@5")
    }


def test_curves_have_every_number_and_texts(tmp_path):
    log(2, tmp_path, texts={"product 5": "tags: red\n  caption: a dress"}).write()
    found = curves(tmp_path)
    values = {name: found.Scalars(name)[0].value for name in found.Tags()["scalars"]}
    assert values == pytest.approx(
        {
            "loss/tagging": 1.5,
            "loss/captioning": 0.25,
            "rate/item": 5e-6,
            "rate/query+score": 1e-4,
            "valid/NDCG@5": 0.71238,
            "speed/samples/s": 160,
            "speed/waiting for data": 0.25,
        }
    )
    (text,) = found.Tensors("product 5/text_summary")
    assert text.step == 2
    assert text.tensor_proto.string_val[0].decode() == "    tags: red\n      caption: a dress"


def test_epochs_trained_again_take_the_place_of_those_before(tmp_path):
    for epoch in (0, 1, 2, 1):
        log(epoch, tmp_path, ndcg=0.5 + epoch / 10).write()
    assert steps(tmp_path, "valid/NDCG@5") == [0, 1]
    log(0, tmp_path).write()
    assert steps(tmp_path, "valid/NDCG@5") == [0]


def test_peak_memory_is_the_kernels_figure_in_bytes():
    status = Path("/proc/self/status").read_text()
    assert peak_memory(CPU) == pytest.approx(1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]), rel=0.05)


def test_rates_are_named_by_the_parts_that_they_are_of():
    model = MultiLabelClassifier(small.CONFIG, 2, 3)
    groups = [
        {"params": list(model.item.parameters())},
        {"params": [*model.caption.parameters(), *model.rnn.parameters()]},
    ]
    assert named_rates(model, groups) == ["item", "caption+rnn"]


def test_the_speed_counts_only_what_this_process_did(tmp_path, monkeypatch, capsys):
    told = replace(settings(), checkpoints_dir=str(tmp_path), save_every=4, batch_size=100)

    def trainer(restarted: bool) -> Trainer:
        model = MultiLabelClassifier(small.CONFIG, 2, 3)
        groups = [{"params": [one for one in model.parameters() if one.requires_grad], "lr": 0.1}]
        config = RunConfig(training=asdict(told))
        return Trainer(Process(0, 1, CPU, restarted=restarted), model, groups, {"model": model}, told, config)

    batches = small.Batches([[small.batch()]] * 5)
    trainer(False).steps(0, batches)
    resumed = trainer(True)
    clock = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    resumed.steps(0, batches)
    resumed.finish(0, lambda: 0.5)
    speed = int(re.search(r"(\d+) samples/s", capsys.readouterr().out)[1])
    # One step of 100 rows in the two ticks or more that a step takes; with the four of before it would be 5.
    assert 0 < speed <= 50


def test_a_run_tells_its_settings_at_the_start_and_each_epoch_in_a_line(trained, tmp_path):
    flags = [
        "--data_dir",
        trained / "data",
        "--encoder",
        trained / "encoder.pth",
        "--checkpoints_dir",
        tmp_path,
    ]
    flags += ["--batch_size", 64, "--epochs", 2, "--use_epoch", 0]
    stop = run_script("model2", "train.py", *flags, "--stop_at_use_epoch")
    assert stop.returncode == 0, stop.stderr
    assert stop.stderr == ""  # no bar where there is no terminal
    lines = stop.stdout.splitlines()
    assert lines[0].startswith("model2, size small, on cpu in 1 process, PyTorch ")
    assert re.fullmatch(r"  rows [\d,]+, queries 300, products [\d,]+", lines[1])
    assert re.match(r"  parameters [\d,]+, of which [\d,]+ are trained; region_dim 32, width 128, ", lines[2])
    block = "\n".join(lines)
    assert "batch_size 64 (default 32), " in block
    assert "gamma 0.95, " in block
    assert f"data_dir {trained / 'data'} (default ../data)" in block
    assert re.fullmatch(LINE.format(epoch=0), lines[-1])
    saved = torch.load(tmp_path / "model-epoch0.pth", weights_only=True)["config"]["training"]
    assert all(f"{name} {value}" in block for name, value in saved.items())
    resumed = run_script("model2", "train.py", *flags, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert re.fullmatch(LINE.format(epoch=1), resumed.stdout.splitlines()[-1])
    assert steps(tmp_path, "valid/NDCG@5") == steps(tmp_path, "loss/matching") == [0, 1]
    shown = float(re.search(r"NDCG@5 (\S+)", resumed.stdout)[1])
    assert curves(tmp_path).Scalars("valid/NDCG@5")[1].value == pytest.approx(shown, abs=1e-4)


def test_stage_2_shows_tags_and_captions_of_eight_products_of_valid(trained):
    table = (trained / "data" / "valid" / "valid.tsv").read_text().splitlines()[1:]
    first = list(dict.fromkeys(line.split("\t")[0] for line in table))[:8]
    found = curves(trained / "multilabel")
    assert set(found.Tags()["tensors"]) == {f"product {product}/text_summary" for product in first}
    (text,) = found.Tensors(f"product {first[0]}/text_summary")
    shown = text.tensor_proto.string_val[0].decode()
    assert f"product {first[0]}, found under" in shown
    assert "tags: " in shown
    assert "caption" in shown
