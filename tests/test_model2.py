import re
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from kddcup import stages
from kddcup.io.errors import UserError
from kddcup.text.vocabulary import SPECIALS, Vocabulary
from kddcup.train.checkpoint import Checkpoint
from kddcup.train.data import TrainingData
from kddcup.train.folder import find_checkpoint
from model2.model import SentenceImageModel
from tests import small
from tests.conftest import call_main


@pytest.fixture
def model() -> SentenceImageModel:
    torch.manual_seed(0)
    return SentenceImageModel(small.CONFIG).eval()


def by_definition(model, words: list[int], caption):
    """One query against one image, without packing or padding."""
    vectors = model.score.norm(model.score.embed(torch.tensor([words])))
    _, states = model.score.rnn(vectors, caption.expand(4, 1, -1).contiguous())
    return model.score.dense((states[2, 0] + states[3, 0]) / 2)[0]


def test_scores_are_those_of_the_definition_whatever_stands_beside_them(model):
    lists = [[4], [5, 6, 7], [8, 9]]
    captions = model.encode_images(small.images(1, 4, 2))
    expected = [by_definition(model, *pair) for pair in zip(lists, captions, strict=True)]
    found = model.score_candidates(small.queries(*lists), torch.arange(3), captions)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_candidates_share_their_query(model):
    captions = model.encode_images(small.images(1, 4, 2))
    found = model.score_candidates(small.queries([5, 6], [7]), torch.tensor([1, 0, 0]), captions)
    alone = [by_definition(model, words, captions[i]) for i, words in enumerate([[7], [5, 6], [5, 6]])]
    torch.testing.assert_close(found, torch.stack(alone), atol=1e-5, rtol=1e-5)


def test_the_loss_is_one_mean_over_pairs_negative_queries_and_negative_images(model):
    batch = small.batch()
    images, negative_images = map(model.encode_images, (batch.images, batch.negative_images))
    words, negative_words = (
        [ids[ids > 0].tolist() for ids in part.ids] for part in (batch.queries, batch.negative_queries)
    )
    sides = ((words, images), (negative_words, images), (words, negative_images))
    logits = [by_definition(model, *pair) for side in sides for pair in zip(*side, strict=True)]
    labels = torch.tensor([1.0] * 3 + [0.0] * 6)
    expected = F.binary_cross_entropy_with_logits(torch.stack(logits), labels)
    found = small.losses("model2", model, batch)["matching"]
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.fixture
def captioned() -> SentenceImageModel:
    """With a captioner, whose correction has been learned."""
    torch.manual_seed(0)
    model = SentenceImageModel(replace(small.CONFIG, captioner=True)).eval()
    torch.nn.init.normal_(model.score.dense.weight)
    torch.nn.init.constant_(model.score.scale, 0.5)
    return model


def test_with_a_captioner_the_logit_is_its_scaled_log_probability_and_a_correction(captioned):
    lists = [[4], [5, 6, 7], [8, 9]]
    captions = captioned.encode_images(small.images(1, 4, 2))
    said = captioned.score.captioner.score_queries(
        captioned.score.embed.weight, captions, small.queries(*lists)
    )
    corrections = [by_definition(captioned, *pair) for pair in zip(lists, captions, strict=True)]
    found = captioned.score_candidates(small.queries(*lists), torch.arange(3), captions)
    torch.testing.assert_close(found, 0.5 * said + torch.stack(corrections), atol=1e-5, rtol=1e-5)


def test_the_correction_starts_at_0():
    model = SentenceImageModel(replace(small.CONFIG, captioner=True)).eval()
    queries, captions = small.queries([4], [5, 6]), model.encode_images(small.images(1, 4))
    said = model.score.captioner.score_queries(model.score.embed.weight, captions, queries)
    assert torch.equal(model.score_candidates(queries, torch.arange(2), captions), said)


def test_with_a_captioner_unknown_words_are_not_read_as_in_stage_2(captioned, model):
    vocabulary = Vocabulary("lexicon", [*SPECIALS, "red"])
    red = vocabulary.encode("red")
    assert captioned.read_query(vocabulary, "red zzz") == red
    assert model.read_query(vocabulary, "red zzz") == [*red, vocabulary.unknown]


def train(trained, out, encoder, *flags: str) -> str:
    folders = ("--data_dir", trained / "data", "--checkpoints_dir", out, "--encoder", encoder)
    return call_main("model2.train", *folders, "--epochs", 1, "--use_epoch", 0, "--max_steps", 1, *flags)


def test_epoch_0_is_the_captioner_which_valid_may_choose(trained, tmp_path):
    flags = ("--epochs", 2, "--use_epoch", "best", "--rate", 1, "--max_steps", 2)
    folders = ("--data_dir", trained / "data", "--checkpoints_dir", tmp_path)
    printed = call_main("model2.train", *folders, "--encoder", trained / "encoder.pth", *flags)
    figures = re.findall(r"valid NDCG@5 (\d\.\d+)", printed)
    data = TrainingData.open(str(trained / "data"))
    stage2 = Checkpoint.read(trained / "multilabel" / "model-epoch0.pth", "").build(stages.find("multilabel"))
    stage2.score_candidates = lambda queries, owner, heads: stage2.captioner.score_queries(
        stage2.embed.weight, heads[:, 0], queries.take(owner)
    )
    assert f"{data.score_valid(stage2, torch.device('cpu')):.4f}" == figures[0]
    assert len(figures) == 2
    assert find_checkpoint(stages.find("model2"), str(tmp_path), None).config.valid[0] == max(
        Checkpoint.read(tmp_path / "model-epoch1.pth", "").config.valid
    )


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_training_starts_from_the_exported_captioner(trained, tmp_path, suffix):
    encoder = tmp_path / f"encoder.{suffix}"
    exported = ("--checkpoints_dir", trained / "multilabel", "--format", suffix, "--out_path", encoder)
    call_main("multilabel.export_model", *exported)
    train(trained, tmp_path, encoder, "--rate", "1e-9", "--encoder_rate", "1e-9")
    model = Checkpoint.read(tmp_path / "model-epoch0.pth", "").build(stages.find("model2"))
    stage2 = Checkpoint.read(trained / "multilabel" / "model-epoch0.pth", "").build(stages.find("multilabel"))
    assert model.score.scale.item() == pytest.approx(1)
    torch.testing.assert_close(model.score.captioner.state_dict(), stage2.captioner.state_dict())


def test_an_export_without_a_captioner_is_for_a_start_from_the_encoder_alone(trained, tmp_path):
    parts = torch.load(trained / "encoder.pth", weights_only=True)
    del parts["captioner"]
    torch.save(parts, tmp_path / "encoder.pth")
    with pytest.raises(UserError, match=r"encoder\.pth has no captioner: export stage 2 anew with"):
        train(trained, tmp_path, tmp_path / "encoder.pth")
    train(trained, tmp_path, tmp_path / "encoder.pth", "--start", "encoder")
    score = Checkpoint.read(tmp_path / "model-epoch0.pth", "").build(stages.find("model2")).score
    assert not hasattr(score, "captioner")
