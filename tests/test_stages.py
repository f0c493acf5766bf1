"""Each script of each stage as a user runs it: in a subprocess, from its folder."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT, assert_one_line_error, run_script

PAIR = ["-u", "-m", "torch.distributed.launch", "--nproc_per_node=2"]


def train(trained, stage: str, out, launcher=(), *flags: str) -> subprocess.CompletedProcess:
    told = ["--data_dir", trained / "data", "--checkpoints_dir", out, "--batch_size", "16", "--epochs", "1"]
    told += ["--encoder", trained / "encoder.pth"] if stage != "multilabel" else []
    return run_script(stage, *launcher, "train.py", *told, *flags)


def test_stage_2_shows_tags_captions_and_ndcg(trained):
    shown = run_script(
        "multilabel",
        "validation.py",
        "--data_dir",
        trained / "data",
        "--checkpoints_dir",
        trained / "multilabel",
    ).stdout
    assert shown.count("tags: ") == shown.count("found under") == 3
    assert len(shown.split("tags: ")[1].splitlines()[0].split(", ")) == 15
    assert "caption" in shown
    assert "multilabel on valid: NDCG@5 0." in shown


def test_the_export_is_the_encoder_and_its_config(trained):
    content = torch.load(trained / "encoder.pth", weights_only=True)
    assert content.keys() == {"item", "config"}
    assert content["config"]["size"] == "small"
    checkpoint = torch.load(trained / "multilabel" / "model-epoch0.pth", weights_only=True)
    assert checkpoint.keys() == {"model", "optimizer", "config", "state"}
    assert torch.equal(content["item"]["dense.0.weight"], checkpoint["model"]["item.dense.0.weight"])


@pytest.mark.parametrize(
    ("stage", "launcher", "flags", "parts"),
    [
        ("model1", PAIR, ["--devices", "0", "1"], {"query", "item", "score"}),
        ("model2", ["-m", "torch.distributed.run", "--nproc_per_node=2"], [], {"item", "score"}),
        pytest.param("model1", (), [], {"query", "item", "score"}, marks=pytest.mark.slow),
        pytest.param("model2", PAIR, ["--devices", "0", "1"], {"item", "score"}, marks=pytest.mark.slow),
        pytest.param("multilabel", PAIR, ["--devices", "0", "1"], {"model"}, marks=pytest.mark.slow),
    ],
)
def test_training_writes_a_checkpoint_and_scores_valid_under_every_launcher(
    trained, tmp_path, stage, launcher, flags, parts
):
    result = train(trained, stage, tmp_path, launcher, *flags)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("valid NDCG@5 0.") == 1
    content = torch.load(tmp_path / "model-epoch0.pth", weights_only=True)
    assert content.keys() == parts | {"optimizer", "config", "state"}


@pytest.mark.parametrize(
    ("stage", "launcher"),
    [
        ("model1", ()),
        pytest.param("model2", PAIR, marks=pytest.mark.slow),
        pytest.param("multilabel", (), marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(trained, tmp_path, stage, launcher):
    train(trained, stage, tmp_path / "whole", launcher, "--epochs", "2").check_returncode()
    (tmp_path / "parts").mkdir()
    shutil.copy(tmp_path / "whole" / "model-epoch0.pth", tmp_path / "parts")
    result = train(trained, stage, tmp_path / "parts", launcher, "--epochs", "2", "--resume")
    assert result.returncode == 0, result.stderr
    assert "at epoch 1, step 0" in result.stdout
    whole, parts = (
        torch.load(tmp_path / name / "model-epoch1.pth", weights_only=True) for name in ("whole", "parts")
    )
    modules = whole.keys() & {"query", "item", "score", "model"}
    for module in modules:
        for name, value in whole[module].items():
            assert torch.equal(value, parts[module][name]), name
    torch.testing.assert_close(whole["state"], parts["state"], rtol=0, atol=0)


def test_matchers_predict_and_blend_into_a_submission(trained, tmp_path):
    for model in ("model1", "model2"):
        train(trained, model, tmp_path / model).check_returncode()
        out = [
            *("--valid_out_path", tmp_path / f"valid_pred_{model}.json"),
            *("--test_out_path", tmp_path / f"test_pred_{model}.json"),
        ]
        told = ["--data_dir", trained / "data", "--checkpoints_dir", tmp_path / model, "--epoch", "0", *out]
        result = run_script(model, "validation.py", *told)
        assert result.returncode == 0, result.stderr
        assert f"{model} on testB" in result.stdout
        for split, name in (("valid", "valid"), ("test", "testB")):
            predictions = json.loads((tmp_path / f"{split}_pred_{model}.json").read_text())
            table = (trained / "data" / name / f"{name}.tsv").read_text().strip().split("\n")[1:]
            listed = {tuple(line.split("\t")[place] for place in (8, 0)) for line in table}
            found = {(query, str(product)) for query, ones in predictions.items() for product, _ in ones}
            assert found == listed
    result = run_script(".", "ensemble.py", "--data_dir", trained / "data", "--resources_dir", tmp_path)
    assert result.returncode == 0, result.stderr
    for line in ("random order", "model1", "model2", "blend", f"submission: {tmp_path}/submission.csv"):
        assert line in result.stdout
    rows = (tmp_path / "submission.csv").read_text().splitlines()
    assert rows[0] == "query-id,product1,product2,product3,product4,product5"
    assert len(rows) == 1 + len({query for query, _ in listed})


def test_a_dimension_other_than_the_models_is_refused(trained, tmp_path):
    run_script(
        ROOT,
        "-m",
        "kddcup.sample",
        "--out",
        tmp_path,
        "--train_queries",
        "2",
        "--eval_queries",
        "2",
        "--dim",
        "8",
    )
    result = run_script(
        "multilabel",
        "validation.py",
        "--data_dir",
        tmp_path,
        "--checkpoints_dir",
        trained / "multilabel",
    )
    assert_one_line_error(result, "valid.tsv", "8 dimensions", "the model takes 32")


def test_what_an_earlier_stage_should_have_made_is_named_with_its_command(trained, tmp_path):
    empty = tmp_path / "empty"
    shutil.copytree(trained / "data" / "valid", empty / "valid")
    result = run_script("multilabel", "train.py", "--size", "small", "--data_dir", empty)
    assert_one_line_error(result, str(empty / "info"), "python preprocess.py")
    result = run_script(
        "model1", "train.py", "--data_dir", trained / "data", "--encoder", empty / "encoder.pth"
    )
    assert_one_line_error(result, "encoder.pth does not exist", "export_model.py")
    result = run_script("model2", "validation.py", "--data_dir", trained / "data", "--checkpoints_dir", empty)
    assert_one_line_error(result, str(empty), "cd model2; python train.py")
    (empty / "valid" / "valid_answer.json").unlink()
    result = run_script(
        "multilabel", "validation.py", "--data_dir", empty, "--checkpoints_dir", trained / "multilabel"
    )
    assert_one_line_error(result, "valid_answer.json does not exist")


def copy_scripts(folder) -> None:
    for name in ("main.sh", "preprocess.py", "ensemble.py", "multilabel", "model1", "model2"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        ignore = {"ignore": shutil.ignore_patterns("checkpoints", "ckpt")} if (ROOT / name).is_dir() else {}
        copy(ROOT / name, folder / name, **ignore)


def main_sh(folder, *args: str, **told: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHON": sys.executable, "SIZE": "small", "TOKENIZER": "lexicon", **told}
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
        for part in result.stdout.split("NDCG@5 on ")[1:]
    )
    assert valid["random order"] < 0.3 < 0.5 < tags
    assert min(valid["model1"], valid["model2"]) >= 0.8
    assert min(test["model1"], test["model2"]) >= 0.75
    assert valid["blend"] >= max(valid["model1"], valid["model2"])
