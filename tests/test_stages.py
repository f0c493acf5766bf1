"""Each script of each stage as a user runs it: in a subprocess, from its folder."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

from kddcup.io.errors import UserError
from kddcup.sample import SampleSettings, write_sample
from tests.conftest import ROOT, assert_one_line_error, call_main, run_script

PAIR = ["-u", "-m", "torch.distributed.launch", "--nproc_per_node=2"]


def flags(trained, stage: str, out) -> list:
    """The flags of an epoch on the sample."""
    encoder = ["--encoder", trained / "encoder.pth"] if stage != "multilabel" else []
    folders = ["--data_dir", trained / "data", "--checkpoints_dir", out, *encoder]
    return [*folders, "--batch_size", 64, "--epochs", 1, "--use_epoch", 0]


def test_stage_2_shows_tags_captions_and_ndcg(trained, tmp_path):
    folders = ["--data_dir", trained / "data", "--checkpoints_dir", trained / "multilabel"]
    outs = ["--valid_out_path", tmp_path / "valid.json", "--test_out_path", tmp_path / "test.json"]
    shown = call_main("multilabel.validation", *folders, *outs)
    assert shown.count("tags: ") == shown.count("found under") == 3
    assert len(shown.split("tags: ")[1].splitlines()[0].split(", ")) == 15
    assert "caption" in shown
    assert "multilabel on valid: NDCG@5 0." in shown


def test_the_export_is_the_encoder_the_captioner_and_their_config(trained):
    content = torch.load(trained / "encoder.pth", weights_only=True)
    assert content.keys() == {"item", "captioner", "config"}
    assert content["config"]["size"] == "small"
    checkpoint = torch.load(trained / "multilabel" / "model-epoch0.pth", weights_only=True)
    assert checkpoint.keys() == {"model", "optimizer", "config", "state"}
    assert torch.equal(content["item"]["dense.0.weight"], checkpoint["model"]["item.dense.0.weight"])
    captioner = {name for name in checkpoint["model"] if name.startswith(("rnn.", "caption."))}
    assert content["captioner"].keys() == captioner
    assert all(torch.equal(content["captioner"][name], checkpoint["model"][name]) for name in captioner)


@pytest.mark.parametrize(
    ("stage", "launcher", "parts"),
    [
        ("model1", PAIR, {"query", "item", "score"}),
        ("model2", ["-m", "torch.distributed.run", "--nproc_per_node=2"], {"item", "score"}),
    ],
)
def test_training_writes_a_checkpoint_and_scores_valid_under_every_launcher(
    trained, tmp_path, stage, launcher, parts
):
    command = [*launcher, "train.py", *flags(trained, stage, tmp_path), "--devices", 0, 1]
    done = run_script(stage, *command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("valid NDCG@5 0.") == 1
    content = torch.load(tmp_path / "model-epoch0.pth", weights_only=True)
    assert content.keys() == parts | {"optimizer", "config", "state"}


def test_matchers_predict_and_blend_into_a_submission(trained, tmp_path):
    for stage in ("model1", "model2"):
        call_main(f"{stage}.train", *flags(trained, stage, tmp_path / stage))
        out = [
            *("--valid_out_path", tmp_path / f"valid_pred_{stage}.json"),
            *("--test_out_path", tmp_path / f"test_pred_{stage}.json"),
        ]
        folders = ["--data_dir", trained / "data", "--checkpoints_dir", tmp_path / stage]
        assert f"{stage} on testB" in call_main(f"{stage}.validation", *folders, "--epoch", 0, *out)
        for split, name in (("valid", "valid"), ("test", "testB")):
            predictions = json.loads((tmp_path / f"{split}_pred_{stage}.json").read_text())
            table = (trained / "data" / name / f"{name}.tsv").read_text().strip().split("\n")[1:]
            listed = {tuple(line.split("\t")[place] for place in (8, 0)) for line in table}
            found = {(query, str(product)) for query, pairs in predictions.items() for product, _ in pairs}
            assert found == listed
    folders = ["--data_dir", trained / "data", "--resources_dir", tmp_path]
    printed = call_main("ensemble", *folders, "--models", "model1", "model2")
    for line in ("random order", "model1", "model2", "blend", f"submission: {tmp_path}/submission.csv"):
        assert line in printed
    rows = (tmp_path / "submission.csv").read_text().splitlines()
    assert rows[0] == "query-id,product1,product2,product3,product4,product5"
    assert len(rows) == 1 + len({query for query, _ in listed})


def test_a_dimension_other_than_the_models_is_refused(trained, tmp_path):
    write_sample(SampleSettings(out=str(tmp_path), train_queries=2, eval_queries=2, dim=8))
    folders = ["--data_dir", tmp_path, "--checkpoints_dir", trained / "multilabel"]
    with pytest.raises(UserError, match=r"valid\.tsv has regions of 8 dimensions and the model takes 32"):
        call_main("multilabel.validation", *folders)


@pytest.mark.parametrize(
    ("script", "flags", "expected"),
    [
        ("multilabel.train", ["--size", "small", "--data_dir", "{empty}"], "{empty}/info.*python preprocess"),
        ("model1.train", ["--data_dir", "{data}"], r"encoder.pth does not exist.*export_model\.py"),
        ("model2.validation", ["--data_dir", "{data}"], r"{empty} has no.*cd model2; python train\.py"),
        ("multilabel.validation", ["--data_dir", "{empty}"], r"valid_answer\.json does not exist"),
    ],
)
def test_what_an_earlier_stage_should_have_made_is_named_with_its_command(
    trained, tmp_path, script, flags, expected
):
    shutil.copytree(trained / "data" / "valid", tmp_path / "valid")
    (tmp_path / "valid" / "valid_answer.json").unlink()
    checkpoints = trained / "multilabel" if script == "multilabel.validation" else tmp_path
    folders = ["--checkpoints_dir", checkpoints]
    folders += ["--encoder", tmp_path / "encoder.pth"] if script == "model1.train" else []
    places = {"empty": tmp_path, "data": trained / "data"}
    with pytest.raises(UserError, match=expected.format(**places)):
        call_main(script, *(flag.format(**places) for flag in flags), *folders)


def copy_scripts(folder) -> None:
    for name in ("main.sh", "preprocess.py", "ensemble.py", "multilabel", "model1", "model2"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        ignore = {"ignore": shutil.ignore_patterns("checkpoints", "ckpt")} if (ROOT / name).is_dir() else {}
        copy(ROOT / name, folder / name, **ignore)


def main_sh(folder, *args: str, **others: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHON": sys.executable, "SIZE": "small", "TOKENIZER": "lexicon", **others}
    command = ["bash", str(folder / "main.sh"), *args]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_main_sh_says_where_tables_come_from_if_there_are_none(tmp_path):
    copy_scripts(tmp_path)
    result = main_sh(tmp_path)
    assert_one_line_error(result, "data is no folder of tables", "kddcup.sample")


@pytest.mark.slow
def test_main_sh_runs_on_any_tables_in_the_competitions_place_or_elsewhere(tmp_path, bert_folder):
    copy_scripts(tmp_path)
    sizes = ("--train_queries", 150, "--eval_queries", 5, "--dim", 20)
    shop = tmp_path / "elsewhere" / "shop"
    for out, language in ((tmp_path / "data", "zh"), (shop, "en")):
        done = run_script(tmp_path, "-m", "kddcup.sample", "--out", out, "--language", language, *sizes)
        assert done.returncode == 0, done.stderr
    result = main_sh(tmp_path, NPROC="1")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "external_resources" / "submission.csv").is_file()
    result = main_sh(tmp_path, str(shop), NPROC="2", SPLIT="testA", TOKENIZER=str(bert_folder))
    assert result.returncode == 0, result.stderr
    shop_resources = tmp_path / "external_resources" / "shop"
    for made in ("submission.csv", "report.html", "valid_pred_model1_words.json"):
        assert (shop_resources / made).is_file()
    assert (tmp_path / "user_data" / "shop" / "image_encoder_large.pth").is_file()
    commands = [line for line in result.stdout.splitlines() if line.startswith("+ ")]
    for part in (
        "preprocess.py",
        "export_model.py",
        "torch.distributed.launch",
        "--split testA",
        "ensemble.py",
        "-m kddcup.report",
    ):
        assert any(part in line for line in commands)


@pytest.mark.slow
def test_the_sample_is_learned(tmp_path):
    copy_scripts(tmp_path)
    run_script(tmp_path, "-m", "kddcup.sample", "--out", tmp_path / "data" / "sample").check_returncode()
    result = main_sh(tmp_path, "data/sample", NPROC="1")
    assert result.returncode == 0, result.stderr
    tags = float(result.stdout.split("multilabel on valid: NDCG@5 ")[1].split()[0])
    figure = re.compile(r"^  (random order|model1|model2|blend) +(\d\.\d+)", re.MULTILINE)
    valid, test = (
        {name: float(value) for name, value in figure.findall(part)}
        for part in result.stdout.split("NDCG@5 on ")[-2:]
    )
    assert valid["random order"] < 0.3 < 0.5 < tags
    assert min(valid["model1"], valid["model2"]) >= 0.8
    assert min(test["model1"], test["model2"]) >= 0.75
    assert valid["blend"] >= max(valid["model1"], valid["model2"])
    assert test["blend"] >= 0.9
