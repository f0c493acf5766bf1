"""What a run tells of itself: the block at its start, lines of its course, curves, JSON."""

import datetime
import itertools
import json
import re
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from kddcup.io.errors import UserError
from kddcup.train.checkpoint import RunConfig
from kddcup.train.log import (
    FOLDER,
    STEPS_FOLDER,
    EpochLog,
    Pace,
    RunLog,
    StepLog,
    Throughput,
    measure_peak_memory,
    name_groups,
)
from kddcup.train.trainer import Trainer
from tests import small
from tests.conftest import call_main, run_script

LINE = (
    r"epoch {epoch}: matching \d+\.\d{{4}}  valid NDCG@5 0\.\d{{4}}  rate item\+score \S+, score \S+  "
    r"gradient norm \S+  "
    r"\d+ s, [\d,]+ samples/s, \d+\.\d% waiting for data  "
    r"peak memory \d+\.\d\d GB  \S+/model-epoch{epoch}\.pth"
)


@pytest.fixture(autouse=True)
def files_in_order(monkeypatch):
    """TensorBoard's files are read by name, in which 10 comes before 9 where both are of the same second."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def log(epoch: int, folder: Path, **others: object) -> EpochLog:
    found = EpochLog(
        epoch=epoch,
        losses={"tagging": 1.5, "captioning": 0.25},
        ndcg=0.71238,
        scoring_seconds=38.5,
        rates={"item": 5e-6, "query+score": 1e-4},
        gradient_norm=12.345,
        throughput=Throughput(steps=30, rows=1920, seconds=12.0, waited=3.0),
        peak_memory=1_234_000_000,
        checkpoint=folder / f"model-epoch{epoch}.pth",
    )
    return replace(found, **others)


def curves(folder: Path, run: str = "") -> EventAccumulator:
    found = EventAccumulator(str(folder / FOLDER / run))
    return found.Reload()


def steps(folder: Path, name: str) -> list[int]:
    return [event.step for event in curves(folder).Scalars(name)]


def test_a_line_worked_by_hand():
    assert log(3, Path("out")).format_line() == (
        "epoch 3: tagging 1.5000  captioning 0.2500  valid NDCG@5 0.7124  rate item 5e-06, "
        "query+score 0.0001  gradient norm 12.3  12 s, 160 samples/s, 25.0% waiting for data  "
        "peak memory 1.23 GB  out/model-epoch3.pth"
    )


def test_an_epoch_that_was_done_before_the_resume_has_no_speed(tmp_path):
    resumed = log(0, tmp_path, gradient_norm=None, throughput=Throughput())
    assert "samples/s" not in resumed.format_line()
    assert "waiting" not in resumed.format_line()
    assert "norm" not in resumed.format_line()
    RunLog(tmp_path, None).add_epoch(resumed)
    assert set(curves(tmp_path).Tags()["scalars"]) == {
        *("loss/tagging", "loss/captioning", "rate/item", "rate/query+score", "valid/NDCG@5"),
        *("valid/seconds", "memory/peak GB"),
    }


def test_curves_have_every_number_and_texts(tmp_path):
    RunLog(tmp_path, None).add_epoch(log(2, tmp_path, texts={"product 5": "tags: red\n  caption: a dress"}))
    found = curves(tmp_path)
    values = {name: found.Scalars(name)[0].value for name in found.Tags()["scalars"]}
    assert values == pytest.approx(
        {
            "loss/tagging": 1.5,
            "loss/captioning": 0.25,
            "rate/item": 5e-6,
            "rate/query+score": 1e-4,
            "memory/peak GB": 1.234,
            "gradient norm": 12.345,
            "valid/NDCG@5": 0.71238,
            "valid/seconds": 38.5,
            "speed/samples/s": 160,
            "speed/waiting for data": 0.25,
        }
    )
    (text,) = found.Tensors("product 5/text_summary")
    assert text.step == 2
    assert text.tensor_proto.string_val[0].decode() == "    tags: red\n      caption: a dress"


def test_epochs_trained_again_take_the_place_of_those_before(tmp_path):
    run = RunLog(tmp_path, None)
    for epoch in (0, 1, 2, 1):
        run.add_epoch(log(epoch, tmp_path, ndcg=0.5 + epoch / 10))
    assert steps(tmp_path, "valid/NDCG@5") == [0, 1]
    run.add_epoch(log(0, tmp_path))
    assert steps(tmp_path, "valid/NDCG@5") == [0]


STEPS = StepLog(
    epoch=2,
    step=1000,
    steps=23076,
    losses={"tagging": 1.5, "captioning": 0.25},
    rates={"item": 5e-6},
    gradient_norm=0.01234,
    speed=1234.5,
    seconds_left=3 * 3600 + 120,
    peak_memory=1_234_000_000,
)


def test_a_line_of_an_epochs_course_worked_by_hand():
    assert STEPS.format_line(datetime.datetime(2026, 11, 27, 22, 30)) == (
        "epoch 2, step 1,000 of 23,076: tagging 1.5000  captioning 0.2500  rate item 5e-06  "
        "gradient norm 0.0123  1,234 samples/s  peak memory 1.23 GB  ends 2026-11-28 01:32"
    )


def test_the_pace_is_that_of_the_last_minute(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    pace = Pace()
    pace.add(10.0, 100)
    assert pace.measure() == (10.0, 0.1)
    pace.add(50.0, 500)
    assert pace.measure() == (12.0, 0.04)
    pace.add(75.0, 250)  # the minute began at 15.0, within the step that began at 10.0
    assert pace.measure() == pytest.approx((750 / 65, 2 / 65))
    pace.add(275.0, 50)  # a step of more than a minute is measured by itself
    assert pace.measure() == (0.25, 0.005)


def test_the_course_of_an_epoch_is_printed_once_a_minute_and_drawn_each_time(tmp_path, monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    run = RunLog(tmp_path, str(tmp_path / "log.jsonl"))
    for now in (1.0, 61.0, 62.0):
        run.add_steps(replace(STEPS, step=int(now)))
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "epoch 2, step 61 of 23,076"
    ]
    run.end_steps()
    run.add_epoch(log(2, tmp_path))
    # A run that was resumed takes up its course at a step that had been done.
    run.add_steps(replace(STEPS, step=62, gradient_norm=5.0))
    run.end_steps()
    drawn = curves(tmp_path, STEPS_FOLDER).Scalars("gradient norm")
    assert [(event.step, event.value) for event in drawn] == [
        (2 * 23076 + step, pytest.approx(norm)) for step, norm in ((1, 0.01234), (61, 0.01234), (62, 5.0))
    ]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line.get("step") for line in lines] == [1, 61, 62, None, 62]
    assert lines[0].pop("time") <= lines[-1]["time"]
    assert lines[0] == {
        "epoch": 2,
        "step": 1,
        "steps": 23076,
        "loss/tagging": 1.5,
        "loss/captioning": 0.25,
        "rate/item": 5e-6,
        "gradient norm": 0.01234,
        "memory/peak GB": 1.234,
        "speed/samples/s": 1234.5,
        "speed/seconds left": 10920,
    }
    assert lines[3]["valid/NDCG@5"] == 0.71238
    assert lines[3]["checkpoint"] == str(tmp_path / "model-epoch2.pth")


def test_every_hundredth_step_is_logged_with_the_means_of_the_hundred(tmp_path):
    flags = ("--checkpoints_dir", tmp_path, "--log_json", tmp_path / "log.jsonl", "--save_every", 150)
    settings = small.settings(*map(str, flags))
    trainer = small.trainer(small.MULTILABEL.build(small.CONFIG), settings)
    steps, losses, norms = small.Batches([[small.batch()]] * 230), [], []
    for batch in trainer.batches(steps, 0):
        before = trainer._progress.losses.get("tagging", 0)
        trainer.step(batch)
        losses.append(float(trainer._progress.losses["tagging"] - before))
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in trainer._trained])))
    trainer.finish(0, lambda: 0.5)
    *course, epoch = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert [line["step"] for line in course] == [100, 200]
    for line in course:
        since = slice(line["step"] - 100, line["step"])
        assert line["loss/tagging"] == pytest.approx(sum(losses[since]) / 100, rel=1e-3)
        assert line["gradient norm"] == pytest.approx(sum(norms[since]) / 100, rel=1e-4)
        assert line["speed/seconds left"] > 0
    assert epoch["gradient norm"] == pytest.approx(sum(norms) / 230, rel=1e-4)
    assert epoch["loss/tagging"] == pytest.approx(sum(losses) / 230, rel=1e-3)


def test_a_file_that_cannot_be_written_is_named_before_the_first_step(tmp_path):
    with pytest.raises(UserError, match="absent/log.jsonl cannot be written"):
        RunLog(tmp_path, str(tmp_path / "absent" / "log.jsonl"))


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
