import dataclasses
import re
import runpy
import sys

import pytest

from kddcup.cli import GROUPS, parse_settings
from kddcup.config import SIZES, MatcherSettings, ModelConfig, PretrainSettings
from kddcup.io.errors import UserError
from tests.conftest import ROOT, assert_one_line_error, run_script


def parse(*args: str, size: str = "small") -> MatcherSettings:
    return parse_settings(MatcherSettings, None, "model1", lambda settings: size, list(args))


def test_defaults_are_those_of_the_size_and_flags_override_them():
    settings = parse("--batch_size", "7")
    recipe = SIZES["small"].model1
    assert (settings.batch_size, settings.rate, settings.encoder_rate) == (
        7,
        recipe.rate,
        recipe.encoder_rate,
    )
    assert parse(size="full").batch_size == 130


def test_the_full_size_is_trained_as_published():
    full = SIZES["full"]
    assert dataclasses.astuple(full.multilabel) == (200, 1e-4, 1e-6, 0.96, 20, 6, None, 0.1)
    assert dataclasses.astuple(full.model1) == (130, 1e-4, 1e-6, 0.95, 30, 5, 5e-6, 0.1)
    assert dataclasses.astuple(full.model2) == (150, 1e-4, 1e-6, 0.95, 30, 2, 5e-6, 0.1)
    assert (full.ff, full.lexicon_width) == (ModelConfig().ff, ModelConfig().width)
    assert parse(size="full").seed == 2020


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
    settings = parse_settings(
        PretrainSettings, None, "multilabel", lambda known: known.size, ["--size", "small"]
    )
    assert settings.batch_size == SIZES["small"].multilabel.batch_size


@pytest.mark.parametrize(
    "wrong",
    [
        ["--no_such_flag", "1"],
        ["--batch_size", "many"],
        ["--batch_size", "0"],
        ["--dropout", "2"],
        ["--config", "absent.yaml"],
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


@pytest.mark.parametrize("content", ["data_dir: " + "[" * 100_000, "data_dir: " + "[" * 19_000, "- " * 9_000])
def test_settings_nested_too_deeply_end_in_one_line(tmp_path, content):
    (tmp_path / "deep.yaml").write_text(content)
    assert_one_line_error(run_script(".", "preprocess.py", "--config", tmp_path / "deep.yaml"), "config")


def test_help_describes_every_flag(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert all(f"--{field.name}" in shown for field in dataclasses.fields(MatcherSettings))
    assert "learning rate of the image encoder's dense and dense_summary" in shown


SCRIPTS = {
    "preprocess.py": ("Hardware", "--workers"),
    "ensemble.py": ("Data", "--data_dir"),
    **{f"{stage}/train.py": ("Hardware", "--devices") for stage in ("multilabel", "model1", "model2")},
    **{f"{stage}/validation.py": ("Model", "--epoch") for stage in ("multilabel", "model1", "model2")},
    "multilabel/export_model.py": ("Run", "--out_path"),
    "kddcup/sample.py": ("Data", "--dim"),
    "kddcup/release.py": ("Run", "--verify"),
    "kddcup/report/__main__.py": ("Data", "--split"),
}
"""A group of each, and one of its options."""


def shown_help(script: str, monkeypatch, capsys) -> str:
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert not stop.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_groups_the_options_with_their_defaults_and_has_an_example(script, monkeypatch, capsys):
    shown = shown_help(script, monkeypatch, capsys)
    parts = re.split(r"^(\w+):$", shown[shown.index("\noptions:") :], flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    group, option = SCRIPTS[script]
    assert f"\n  {option} " in sections[group]
    assert list(sections) == ["options", *(title for title in GROUPS if title in sections)]
    assert set(re.findall(r"^  (--\w+)", sections.pop("options"), re.MULTILINE)) <= {
        "--config",
        "--print_config",
    }
    for title, options in sections.items():
        described = re.findall(r"^  --.*(?:\n {3,}.*)*", options, re.MULTILINE)
        assert described, title
        assert all("default:" in one for one in described)
    name = script.rpartition("/")[2]
    if script.startswith("kddcup/"):
        name = "-m " + script.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
    assert re.search(rf"^ *(python|torchrun) .*{re.escape(name)}", shown, re.MULTILINE)


def test_help_of_the_conversions_has_an_example_of_each(monkeypatch, capsys):
    shown = shown_help("kddcup/predictions.py", monkeypatch, capsys)
    for command in ("to_run", "from_run", "to_qrels", "from_qrels"):
        assert f"\n    python -m kddcup.predictions {command} " in shown


def test_no_setting_is_in_two_groups():
    known = [name for names in GROUPS.values() for name in names]
    assert len(known) == len(set(known))


def test_the_rate_is_held_for_two_epochs_and_then_decays():
    settings = parse("--gamma", "0.5")
    assert [settings.rate_factor(epoch) for epoch in range(5)] == [1, 1, 0.5, 0.25, 0.125]


def test_settings_are_plain_numbers_which_a_checkpoint_can_hold():
    settings = dataclasses.asdict(parse("--batch_size", "7"))
    assert {type(value) for value in settings.values()} == {int, float, bool, str, list}
