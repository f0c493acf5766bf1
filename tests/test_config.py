import dataclasses
import re
import runpy
import sys

import pytest

from kddcup import stages
from kddcup.cli import parse_settings
from kddcup.config import SIZES, MatcherSettings, ModelConfig
from kddcup.io.errors import UserError
from multilabel.train import PretrainSettings
from tests.conftest import ROOT, assert_one_line_error, run_script

MODEL1 = stages.find("model1")


def parse(*args: str, size: str = "small") -> MatcherSettings:
    return parse_settings(MatcherSettings, None, MODEL1.recipes, lambda settings: size, list(args))


def test_defaults_are_those_of_the_size_and_flags_override_them():
    settings = parse("--batch_size", "7")
    recipe = MODEL1.recipes["small"]
    assert settings.batch_size == 7
    assert (settings.rate, settings.encoder_rate) == (recipe.rate, recipe.encoder_rate)
    assert parse(size="full").batch_size == 130


PUBLISHED = {
    "multilabel": {"batch_size": 200, "rate": 1e-4, "gamma": 0.96, "epochs": 20, "use_epoch": 6},
    "model1": {"batch_size": 130, "rate": 1e-4, "gamma": 0.95, "epochs": 30, "use_epoch": 5},
    "model2": {"batch_size": 150, "rate": 1e-4, "gamma": 0.95, "epochs": 30, "use_epoch": 2},
}
OFF = {"patience": 3, "epoch_steps": 0, "average": 0.0}
"""What the published training has not."""
STAGE_OFF = {
    "multilabel": {
        "labels": "query",
        "optimizer": "adam",
        "feature_length": 0.0,
        "feature_noise": 0.0,
        "region_drop": 0.0,
    },
    "model1": {
        "encoder_rate": 5e-6,
        "positives": "listed",
        "start": "encoder",
        "margin": 0.9,
        "mean_epochs": 0,
    },
    "model2": {"encoder_rate": 5e-6, "positives": "listed", "start": "encoder"},
}


@pytest.mark.parametrize("stage", stages.STAGES, ids=lambda stage: stage.name)
def test_the_full_size_is_trained_as_published(stage):
    recipe = dataclasses.asdict(stage.recipes["full"])
    published = PUBLISHED[stage.name] | {"weight_decay": 1e-6, "dropout": 0.1}
    assert recipe == published | OFF | STAGE_OFF[stage.name]
    assert stage.published_epoch == published["use_epoch"]
    assert parse(size="full").seed == 2020
    assert (SIZES["full"].ff, SIZES["full"].lexicon_width) == (ModelConfig().ff, ModelConfig().width)


@pytest.mark.parametrize(("epochs", "use_epoch"), [(2, 5), (2, 2), (1, 1)])
def test_an_epoch_to_use_beyond_the_last_is_refused(epochs, use_epoch):
    with pytest.raises(UserError, match=f"--use_epoch {use_epoch} is beyond the last epoch"):
        parse("--epochs", str(epochs), "--use_epoch", str(use_epoch), "--stop_at_use_epoch")
    assert parse("--epochs", str(use_epoch + 1), "--use_epoch", str(use_epoch)).use_epoch == use_epoch


@pytest.mark.parametrize(("value", "expected"), [("best", "best"), ("3", 3)])
def test_the_epoch_to_use_is_a_number_or_the_best(tmp_path, value, expected):
    assert parse("--use_epoch", value).use_epoch == expected
    (tmp_path / "run.yaml").write_text(f"use_epoch: {value}\n")
    assert parse("--config", str(tmp_path / "run.yaml"), size="full").use_epoch == expected
    with pytest.raises(UserError, match="--use_epoch worst is not a whole number from 0 or best; see --help"):
        parse("--use_epoch", "worst")


def test_a_yaml_file_stands_between_defaults_and_flags(tmp_path):
    (tmp_path / "run.yaml").write_text("batch_size: 5\nrate: 0.5\nstop_at_use_epoch: true\ndevices: [1, 0]\n")
    settings = parse("--config", str(tmp_path / "run.yaml"), "--rate", "0.25")
    assert (settings.batch_size, settings.rate) == (5, 0.25)
    assert settings.stop_at_use_epoch
    assert settings.devices == [1, 0]


@pytest.mark.parametrize("flag", ["--local-rank=1", "--local_rank=1"])
def test_the_launchers_of_both_pytorches_are_understood(flag):
    assert parse(flag, "--devices", "0", "1").devices == [0, 1]


def test_the_size_may_come_from_a_flag():
    recipes = stages.find("multilabel").recipes
    settings = parse_settings(PretrainSettings, None, recipes, lambda known: known.size, ["--size", "small"])
    assert settings.batch_size == recipes["small"].batch_size


@pytest.mark.parametrize(
    "wrong",
    [
        ["--no_such_flag", "1"],
        ["--batch_size", "many"],
        ["--batch_size", "0"],
        ["--dropout", "2"],
        ["--config", "absent.yaml"],
        ["--encoder_rate", "0"],
    ],
)
def test_a_wrong_flag_is_named(wrong):
    with pytest.raises(UserError) as caught:
        parse(*wrong)
    assert wrong[0].strip("-") in str(caught.value)
    assert str(caught.value).endswith("see --help")


@pytest.mark.parametrize(
    "command", [("preprocess.py", "--seed", "x"), ("-m", "kddcup.predictions", "to_run", "a.json")]
)
def test_a_script_ends_in_one_line_at_a_wrong_flag(command):
    assert_one_line_error(run_script(".", *command), "see --help")


@pytest.mark.parametrize("debug", ["0", "1"])
def test_a_mistake_shows_its_traceback_on_request_and_then_the_one_line(tmp_path, monkeypatch, debug):
    monkeypatch.setenv("KDDCUP_DEBUG", debug)
    done = run_script(".", "-m", "kddcup.predictions", "to_run", tmp_path / "absent.json", tmp_path / "run")
    *traceback, line = done.stderr.splitlines()
    assert done.returncode == 1
    assert line.startswith(f"error: {tmp_path}/absent.json does not exist")
    assert (traceback[:1] == ["Traceback (most recent call last):"]) == (debug == "1")
    assert any("FileNotFoundError" in shown for shown in traceback) == (debug == "1")


def test_scripts_run_without_docstrings(tmp_path):
    """``python -OO`` drops them, and the help texts are from there."""
    sizes = ("--train_queries", 3, "--eval_queries", 2, "--dim", 8)
    done = run_script(".", "-OO", "-m", "kddcup.sample", "--out", tmp_path / "data", *sizes)
    assert done.returncode == 0, done.stderr
    shown = run_script("model1", "-OO", "train.py", "--help").stdout
    assert "\nMatcherSettings:\n  --encoder_rate " in shown


def test_help_describes_every_flag(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert all(f"--{field.name}" in shown for field in dataclasses.fields(MatcherSettings))
    assert "learning rate of the image encoder's dense and dense_summary" in shown


OPTIONS = {
    "preprocess.py": "--workers",
    "ensemble.py": "--data_dir",
    **{f"{stage.name}/train.py": "--devices" for stage in stages.STAGES},
    **{f"{stage.name}/validation.py": "--epoch" for stage in stages.STAGES},
    "multilabel/export_model.py": "--out_path",
    "kddcup/sample.py": "--dim",
    "kddcup/release/__main__.py": "--verify",
    "kddcup/report/__main__.py": "--split",
}
"""One of each script's options."""


def shown_help(script: str, monkeypatch, capsys) -> str:
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert not stop.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("script", OPTIONS)
def test_help_groups_the_options_with_their_defaults_and_has_an_example(script, monkeypatch, capsys):
    shown = shown_help(script, monkeypatch, capsys)
    parts = re.split(r"^(\w.*):$", shown[shown.index("\noptions:") :], flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    general = re.findall(r"^  (--\w+)", sections.pop("options"), re.MULTILINE)
    assert set(general) == {"--config", "--print_config"}
    assert any(f"\n  {OPTIONS[script]} " in options for options in sections.values())
    for title, options in sections.items():
        described = re.findall(r"^  --.*(?:\n {3,}.*)*", options, re.MULTILINE)
        assert described, title
        assert all("default:" in text for text in described)
    name = script.rpartition("/")[2]
    if script.startswith("kddcup/"):
        name = "-m " + script.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
    assert re.search(rf"^ *(python|torchrun) .*{re.escape(name)}", shown, re.MULTILINE)


def test_help_of_the_conversions_has_an_example_of_each(monkeypatch, capsys):
    shown = shown_help("kddcup/predictions.py", monkeypatch, capsys)
    for command in ("to_run", "from_run", "to_qrels", "from_qrels"):
        assert f"\n    python -m kddcup.predictions {command} " in shown


def test_settings_are_plain_numbers_which_a_checkpoint_can_hold():
    settings = dataclasses.asdict(parse("--batch_size", "7"))
    assert {type(value) for value in settings.values()} == {int, float, bool, str, list, type(None)}
