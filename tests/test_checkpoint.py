import pickle

import pytest
import torch

from kddcup import stages
from kddcup.io.errors import UserError
from kddcup.nn.encoder import ImageEncoder
from kddcup.text.vocabulary import SPECIALS, Vocabulary
from kddcup.train.checkpoint import Checkpoint, ExportedEncoder, RunConfig, write_checkpoint
from kddcup.train.folder import checkpoint_path, find_checkpoint, find_newest
from model1.model import WordImageModel
from tests import small
from tests.conftest import call_main

MODEL1 = stages.find("model1")
VOCABULARY = Vocabulary("lexicon", [*SPECIALS, *(f"w{i}" for i in range(16))])


def config(**training) -> RunConfig:
    return RunConfig("small", small.CONFIG, VOCABULARY.to_dict(), training)


def write(folder, epoch: int, **training) -> WordImageModel:
    torch.manual_seed(epoch)
    model = WordImageModel(small.CONFIG)
    write_checkpoint(
        checkpoint_path(folder, epoch),
        dict(model.named_children()),
        config(**training),
        state={"epoch": epoch},
    )
    return model


def test_a_checkpoint_comes_back_as_it_was_written(tmp_path):
    model = write(tmp_path, 3, use_epoch=3)
    found = Checkpoint.read(tmp_path / "model-epoch3.pth", "train")
    other = WordImageModel(small.CONFIG)
    found.load_into(dict(other.named_children()))
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    assert found.config == config(use_epoch=3)
    assert found.read_vocabulary(None).encode("w3 w5") == [7, 9]


def test_a_published_checkpoint_without_config_is_the_full_model_and_needs_a_tokenizer(tmp_path):
    torch.save({"query": {}, "item": {}, "score": {}, "optimizer": {}}, tmp_path / "model-epoch5.pth")
    found = Checkpoint.read(tmp_path / "model-epoch5.pth", "train")
    assert found.config == RunConfig()
    with pytest.raises(UserError, match=r"carries no vocabulary.*--tokenizer FOLDER"):
        found.read_vocabulary(None)
    words = [*SPECIALS, "dress", "##es"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    with pytest.raises(UserError, match="has 6 words and .* 30522"):
        found.read_vocabulary(str(tmp_path))
    words += [f"[unused{i}]" for i in range(30522 - len(words))]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    assert found.read_vocabulary(str(tmp_path)).encode("Dresses") == [4, 5]


def test_a_checkpoint_of_before_features_were_scaled_and_epochs_scored_is_read(tmp_path):
    write(tmp_path, 0, use_epoch=0)
    content = torch.load(tmp_path / "model-epoch0.pth", weights_only=True)
    del content["config"]["model"]["feature_length"], content["config"]["valid"]
    torch.save(content, tmp_path / "model-epoch0.pth")
    found = find_checkpoint(MODEL1, str(tmp_path), None)
    assert (found.config.model.feature_length, found.config.valid) == (0.0, [])
    assert found.build(MODEL1).item.feature_length == 0


@pytest.mark.parametrize("new_format", [True, False])
def test_both_formats_of_torch_save_are_read(tmp_path, new_format):
    path = tmp_path / "model-epoch0.pth"
    item = ImageEncoder(small.CONFIG).state_dict()
    torch.save({"item": item}, path, _use_new_zipfile_serialization=new_format)
    encoder = ImageEncoder(small.CONFIG)
    Checkpoint.read(path, "train").load_into({"item": encoder})
    assert torch.equal(encoder.norm.weight, item["norm.weight"])


def test_all_that_does_not_fit_is_listed(tmp_path):
    state = WordImageModel(small.CONFIG).item.state_dict()
    state["dense.0.weight"] = torch.zeros(3, 2)
    state["other"] = torch.zeros(1)
    del state["norm.bias"]
    torch.save({"item": state}, tmp_path / "a.pth")
    with pytest.raises(UserError) as error:
        Checkpoint.read(tmp_path / "a.pth", "train").load_into({"item": ImageEncoder(small.CONFIG)})
    message = str(error.value)
    assert "norm.bias is missing" in message
    assert "other is left over" in message
    assert "dense.0.weight is [3, 2], expected [40, 8]" in message
    with pytest.raises(UserError, match="no part 'query'"):
        Checkpoint.read(tmp_path / "a.pth", "train").load_into({"query": ImageEncoder(small.CONFIG)})


def test_an_encoder_is_read_from_an_export_and_from_a_bare_state_dict(tmp_path):
    model = ImageEncoder(small.CONFIG)
    write_checkpoint(tmp_path / "export.pth", {"item": model}, config())
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    exported, bare = (ExportedEncoder.read(str(tmp_path / name)) for name in ("export.pth", "bare.pth"))
    assert exported.state.keys() == bare.state.keys()
    assert (exported.config.size, bare.config.size) == ("small", "full")


def test_without_an_epoch_the_one_that_the_config_says_is_taken(tmp_path):
    for epoch in (0, 1, 2):
        write(tmp_path, epoch, use_epoch=1)
    assert find_checkpoint(MODEL1, str(tmp_path), None).path.name == "model-epoch1.pth"
    assert find_checkpoint(MODEL1, str(tmp_path), 2).path.name == "model-epoch2.pth"
    with pytest.raises(UserError, match=r"no model-epoch7\.pth"):
        find_checkpoint(MODEL1, str(tmp_path), 7)


def test_checkpoints_come_before_ckpt_and_the_one_taken_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"\./checkpoints has no checkpoint .*, \./ckpt has no"):
        find_checkpoint(MODEL1, None, None)
    write(tmp_path / "ckpt", 5, use_epoch=5)
    assert find_checkpoint(MODEL1, None, None).path.parent.name == "ckpt"
    assert "epoch 5 of ./ckpt" in capsys.readouterr().out
    write(tmp_path / "checkpoints", 5, use_epoch=5)
    write(tmp_path / "ckpt", 6, use_epoch=6)
    assert find_checkpoint(MODEL1, None, 5).path.parent.name == "checkpoints"
    assert find_checkpoint(MODEL1, None, 6).path.parent.name == "ckpt"


def test_a_checkpoint_a_folder_deeper_is_pointed_to(tmp_path):
    write(tmp_path / "ckpt" / "model1", 5, use_epoch=5)
    for epoch in (None, 5):
        with pytest.raises(UserError, match=f"{tmp_path}/ckpt/model1 below it has checkpoints"):
            find_checkpoint(MODEL1, str(tmp_path / "ckpt"), epoch)


def test_weights_as_safetensors_are_found_by_their_epoch_after_those_of_pytorch(tmp_path):
    model = write(tmp_path, 1, use_epoch=2)
    write_checkpoint(tmp_path / "model-epoch1.safetensors", MODEL1.name_parts(model), config(use_epoch=2))
    write_checkpoint(tmp_path / "model-epoch2.safetensors", MODEL1.name_parts(model), config(use_epoch=2))
    assert find_checkpoint(MODEL1, str(tmp_path), 1).path.name == "model-epoch1.pth"
    found = find_checkpoint(MODEL1, str(tmp_path), None)
    assert found.path.name == "model-epoch2.safetensors"
    assert found.config == config(use_epoch=2)
    for name, value in found.build(MODEL1).state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert find_newest(tmp_path).name == "model-epoch1.pth"  # what can be trained on


def test_an_export_is_the_same_in_both_formats(trained, tmp_path):
    saved = ("--checkpoints_dir", trained / "multilabel")
    path = tmp_path / "encoder.safetensors"
    call_main("multilabel.export_model", *saved, "--format", "safetensors", "--out_path", path)
    first, second = (ExportedEncoder.read(str(name)) for name in (trained / "encoder.pth", path))
    assert first.config == second.config
    assert first.state.keys() == second.state.keys()
    assert all(torch.equal(value, second.state[name]) for name, value in first.state.items())
    with pytest.raises(UserError, match="encoder.safetensors and --format pth name two formats"):
        call_main("multilabel.export_model", *saved, "--out_path", path)


@pytest.mark.parametrize(("stage", "epoch"), [("multilabel", 6), ("model1", 5), ("model2", 2)])
def test_published_checkpoints_are_used_at_their_published_epoch(tmp_path, stage, epoch):
    for number in range(8):
        torch.save({"item": {}}, tmp_path / f"model-epoch{number}.pth")
    assert find_checkpoint(stages.find(stage), str(tmp_path), None).path.name == f"model-epoch{epoch}.pth"


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_absent_torn_and_unsafe_files_end_in_one_line(tmp_path, capsys):
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04 not a checkpoint")
    torch.save({"item": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil()))
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("absent.pth", "torn.pth", "evil.pth", "plain.pth", "list.pth"):
        with pytest.raises(UserError, match="make it with 'train'") as error:
            Checkpoint.read(tmp_path / name, "train")
        assert name in str(error.value)
        assert "\n" not in str(error.value)
    assert "code ran" not in capsys.readouterr().out
