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
from kddcup.train.log import FOLDER, EpochLog, Throughput, measure_peak_memory, name_groups
from kddcup.train.trainer import Trainer
from tests import small
from tests.conftest import call_main, run_script

LINE = (
    r"epoch {epoch}: matching \d+\.\d{{4}}  valid NDCG@5 0\.\d{{4}}  rate item \S+, score \S+  "
    r"\d+ s, [\d,]+ samples/s, \d+\.\d% waiting for data  "
    r"peak memory \d+\.\d\d GB  \S+/model-epoch{epoch}\.pth"
)


def log(epoch: int, folder: Path, **others: object) -> EpochLog:
    found = EpochLog(
        epoch=epoch,
        losses={"tagging": 1.5, "captioning": 0.25},
        ndcg=0.71238,
        rates={"item": 5e-6, "query+score": 1e-4},
        throughput=Throughput(steps=30, rows=1920, seconds=12.0, waited=3.0),
        peak_memory=1_234_000_000,
        checkpoint=folder / f"model-epoch{epoch}.pth",
    )
    return replace(found, **others)


def curves(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / FOLDER))
    return found.Reload()


def steps(folder: Path, name: str) -> list[int]:
    return [event.step for event in curves(folder).Scalars(name)]


def test_a_line_worked_by_hand():
    assert log(3, Path("out")).format_line() == (
        "epoch 3: tagging 1.5000  captioning 0.2500  valid NDCG@5 0.7124  rate item 5e-06, "
        "query+score 0.0001  12 s, 160 samples/s, 25.0% waiting for data  peak memory 1.23 GB  "
        "out/model-epoch3.pth"
    )


def test_an_epoch_that_was_done_before_the_resume_has_no_speed(tmp_path):
    resumed = log(0, tmp_path, throughput=Throughput())
    assert "samples/s" not in resumed.format_line()
    assert "waiting" not in resumed.format_line()
    resumed.write()
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
    expected = 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
    assert measure_peak_memory(torch.device("cpu")) == pytest.approx(expected, rel=0.05)


def test_groups_are_named_by_the_parts_that_they_are_of():
    model = small.MULTILABEL.build(small.CONFIG)
    groups = [
        {"params": list(model.item.parameters())},
        {"params": [*model.caption.parameters(), *model.rnn.parameters()]},
    ]
    assert name_groups(model, groups) == ["item", "caption+rnn"]


def test_the_speed_counts_the_rows_that_this_process_trained_on(tmp_path, monkeypatch, capsys):
    settings = small.settings(*("--checkpoints_dir", str(tmp_path), "--save_every", "4", "--epochs", "30"))
    config = RunConfig(training=asdict(settings))

    def trainer(resume: bool) -> Trainer:
        model = small.MULTILABEL.build(small.CONFIG)
        return small.trainer(model, replace(settings, resume=resume), config=config)

    batches = small.Batches([[small.batch()] * 20] * 5)
    small.train(trainer(False), batches)
    resumed = trainer(True)
    clock = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    small.train(resumed, batches)
    resumed.finish(0, lambda: 0.5)
    seconds, speed = re.search(r"(\d+) s, (\d+) samples/s", capsys.readouterr().out).groups()
    # One step is left of the five: twenty micro-batches of three rows.
    assert int(seconds) * int(speed) == 60


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
    assert re.fullmatch(
        r"  rows [\d,]+, queries 300, products [\d,]+, valid queries without words 0", lines[1]
    )
    assert re.match(r"  parameters [\d,]+, of which [\d,]+ are trained; region_dim 32, width 128, ", lines[2])
    block = "\n".join(lines)
    assert "batch_size 64 (default 32), " in block
    assert "gamma 0.95, " in block
    assert f"data_dir {trained / 'data'} (default ../data)" in block
    assert re.fullmatch(LINE.format(epoch=0), lines[-1])
    saved = torch.load(tmp_path / "model-epoch0.pth", weights_only=True)["config"]["training"]
    assert all(f"{name} {value}" in block for name, value in saved.items())
    resumed = call_main("model2.train", *flags, "--resume")
    assert re.fullmatch(LINE.format(epoch=1), resumed.splitlines()[-1])
    assert steps(tmp_path, "valid/NDCG@5") == steps(tmp_path, "loss/matching") == [0, 1]
    shown = float(re.search(r"NDCG@5 (\S+)", resumed)[1])
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
