"""A checkpoint of the published names and shapes, and nothing else, scores the tables."""

import json
import shutil

import pytest
import torch

from kddcup.config import ModelConfig
from kddcup.sample import SampleSettings, write_sample
from kddcup.text.vocabulary import SPECIALS
from model1.model import WordImageModel
from model2.model import SentenceImageModel
from tests import published
from tests.conftest import assert_one_line_error, run_script

pytestmark = pytest.mark.slow
MODELS = {"model1": (WordImageModel, 5), "model2": (SentenceImageModel, 2)}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Valid and testB alone: neither a training table nor ``info``."""
    out = tmp_path_factory.mktemp("tables")
    write_sample(SampleSettings(out=str(out), train_queries=1, eval_queries=3, dim=2048))
    shutil.rmtree(out / "train")
    return out


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A folder with nothing but a vocabulary."""
    folder = tmp_path_factory.mktemp("bert")
    words = [*SPECIALS, "red", "dress", "black", "jacket", "2019", "##s", "silk", "lamp", "women"]
    words += [f"[unused{i}]" for i in range(ModelConfig().vocabulary - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_both_formats_score_valid_and_testb_with_the_vocabulary_of_a_folder(
    name, tables, tokenizer, tmp_path, monkeypatch
):
    build, epoch = MODELS[name]
    parts = {part: published.state(module) for part, module in build(ModelConfig()).named_children()}
    found = []
    for new_format in (True, False):
        folder = tmp_path / f"ckpt{new_format}"
        folder.mkdir()
        content = {**parts, "optimizer": {"state": {}, "param_groups": []}}
        with monkeypatch.context() as patch:
            if not new_format:
                # As from a training process with a GPU.
                patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
            torch.save(content, folder / f"model-epoch{epoch}.pth", _use_new_zipfile_serialization=new_format)
        out = [tmp_path / f"{split}{new_format}.json" for split in ("valid", "test")]
        told = ["--data_dir", tables, "--checkpoints_dir", folder]
        if new_format:
            done = run_script(name, "validation.py", *told)
            assert_one_line_error(done, "carries no vocabulary", "--tokenizer FOLDER")
        paths = ["--valid_out_path", out[0], "--test_out_path", out[1]]
        done = run_script(name, "validation.py", *told, *paths, "--tokenizer", tokenizer)
        assert done.returncode == 0, done.stderr
        assert f"{name}: epoch {epoch} of" in done.stdout
        found.append([json.loads(path.read_text()) for path in out])
    assert found[0] == found[1]
    scores = {score for candidates in found[0][1].values() for _, score in candidates}
    assert len(scores) > 10


def test_an_encoder_of_other_shapes_is_refused_with_the_list_of_them(trained, tmp_path):
    """The published pretraining script's export has another ``dense`` and ``dense_summary``."""
    exported = torch.load(trained / "encoder.pth", weights_only=True)
    item = {**exported["item"], "dense.0.weight": torch.zeros(7, 7)}
    del item["dense_summary.6.bias"]
    torch.save(item, tmp_path / "encoder.pth")
    told = [
        "--data_dir",
        trained / "data",
        "--checkpoints_dir",
        tmp_path,
        "--encoder",
        tmp_path / "encoder.pth",
    ]
    done = run_script("model1", "train.py", *told, "--batch_size", "8")
    assert_one_line_error(done, "dense.0.weight is [7, 7]", "dense_summary.6.bias is missing")
