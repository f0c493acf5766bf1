"""Who made the features travels with them, and a model refuses those of another."""

import dataclasses
import shutil

import pytest

from kddcup.io.errors import UserError
from kddcup.table.extractor import (
    EXTRACTOR_FILE,
    Extractor,
    check_same_extractor,
    read_extractor,
    write_extractor,
)
from kddcup.train.checkpoint import Checkpoint, RunConfig
from tests.conftest import call_main

LITE = Extractor("6 crops", 1280, "short side 256", "efficientnet-lite0", "ab" * 32)
OTHERS = {
    "regions": "9 crops",
    "dim": 2048,
    "pixels": "224 x 224",
    "backbone_sha256": "cd" * 32,
    "detector_sha256": "ef" * 32,
    "precision": "bf16",
    "version": 2,
}


def check(trained, found):
    check_same_extractor(trained, "model.pth", found, "data", "train anew")


def test_the_same_weights_are_the_same_extractor_whatever_their_folder_is_called(tmp_path):
    write_extractor(tmp_path, LITE)
    check(LITE, read_extractor(tmp_path))
    check(LITE, dataclasses.replace(LITE, backbone="copies/of/it", detector="elsewhere"))


@pytest.mark.parametrize("field", OTHERS)
def test_all_else_makes_another(field):
    other = dataclasses.replace(LITE, **{field: OTHERS[field]})
    with pytest.raises(
        UserError,
        match=r"^data has features by efficientnet-lite0 .*, but model\.pth was trained .*: train anew$",
    ):
        check(LITE, other)


def test_an_unknown_extractor_fits_only_an_unknown_one(tmp_path):
    check(None, read_extractor(tmp_path))
    with pytest.raises(UserError, match="data has features by an unknown extractor"):
        check(LITE, None)
    with pytest.raises(UserError, match="was trained on those by an unknown extractor"):
        check(None, LITE)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"regions": 1}', '{"other": "6 crops"}', "null"])
def test_a_damaged_file_ends_in_one_line(tmp_path, text):
    (tmp_path / EXTRACTOR_FILE).write_text(text)
    with pytest.raises(UserError, match=r"extractor\.json"):
        read_extractor(tmp_path)


def test_it_travels_in_a_config():
    config = RunConfig(extractor=LITE)
    assert RunConfig.from_dict(dataclasses.asdict(config)) == config
    with pytest.raises(TypeError):
        RunConfig.from_dict({**dataclasses.asdict(config), "extractor": {"dim": "many"}})


@pytest.fixture
def data(trained, tmp_path):
    """Tables of an unknown extractor and what stage 1 made of them, to be written to."""
    shutil.copytree(trained / "data", tmp_path / "data")
    return tmp_path / "data"


def test_from_the_tables_to_the_export(data, tmp_path):
    write_extractor(data, LITE)
    stage1 = ("--data_dir", data, "--size", "small", "--tokenizer", "lexicon")
    with pytest.raises(UserError, match=r"data/extractor\.json has changed since; redo it with .*--force"):
        call_main("preprocess", *stage1)
    saved = ("--checkpoints_dir", tmp_path / "multilabel")
    train = (
        "multilabel.train",
        "--data_dir",
        data,
        *saved,
        "--epochs",
        1,
        "--use_epoch",
        0,
        "--max_steps",
        1,
    )
    with pytest.raises(
        UserError, match=r"by efficientnet-lite0.*an unknown extractor: run 'python preprocess"
    ):
        call_main(*train)
    call_main("preprocess", *stage1, "--force")
    assert read_extractor(data / "info") == LITE
    call_main("preprocess", *stage1)

    call_main(*train)
    export = tmp_path / "encoder.pth"
    assert Checkpoint.read(tmp_path / "multilabel" / "model-epoch0.pth", "test").config.extractor == LITE
    call_main("multilabel.export_model", *saved, "--epoch", 0, "--out_path", export)
    assert Checkpoint.read(export, "test").config.extractor == LITE

    # What stages 2 and 3 then refuse.
    write_extractor(data, dataclasses.replace(LITE, precision="bf16"))
    with pytest.raises(UserError, match=r"data has features by .* bf16, but .*model-epoch0\.pth was trained"):
        call_main("multilabel.validation", "--data_dir", data, *saved, "--epoch", 0)
    call_main("preprocess", *stage1, "--force")
    with pytest.raises(UserError, match="run stage 2 on this data"):
        call_main(
            "model1.train", "--data_dir", data, "--encoder", export, "--checkpoints_dir", tmp_path / "model1"
        )


def test_models_of_an_unknown_extractor_refuse_extracted_tables(trained, data):
    (data / EXTRACTOR_FILE).unlink(missing_ok=True)
    scoring = ("multilabel.validation", "--data_dir", data, "--checkpoints_dir", trained / "multilabel")
    call_main(*scoring)
    write_extractor(data, LITE)
    with pytest.raises(UserError, match="extract the tables as the model's were, or train a model on these"):
        call_main(*scoring)
