"""The published code's figures, at full size, within 1e-4."""

import pytest
import torch

from kddcup.config import ModelConfig
from model1.model import WordImageModel
from model2.model import SentenceImageModel
from tests import published, small

TOLERANCE = 1e-4
pytestmark = pytest.mark.slow


def differs(found, expected) -> float:
    return float((torch.as_tensor(found) - torch.tensor(expected)).abs().max())


@pytest.fixture(scope="module")
def word_model():
    return published.load(WordImageModel(ModelConfig()))


@pytest.fixture(scope="module")
def sentence_model():
    return published.load(SentenceImageModel(ModelConfig()))


@torch.inference_mode()
def test_model1_scores_and_losses_are_those_of_the_published_code(word_model):
    golden, batch = published.GOLDEN["model1"], published.batch()
    heads = word_model.encode_images(published.images(11, 12))
    own = torch.arange(8)
    positive, negative = published.queries(21), published.queries(22)
    found = {
        "image_head_norms": heads[:8].norm(dim=2),
        "score_positive": word_model.score_candidates(positive, own, heads[:8]),
        "score_negative_image": word_model.score_candidates(positive, own, heads[8:]),
        "score_negative_query": word_model.score_candidates(negative, own, heads[:8]),
        "cross_score": word_model.score.cross(word_model.query(positive), positive.lengths, heads[:8]),
    }
    losses = small.losses("model1", word_model, batch)
    found["loss_margin_ranking"] = losses["negative_image"] + losses["negative_query"]
    found["loss_contrastive"] = losses["contrastive_query"] + losses["contrastive_image"]
    compared = {name: differs(value, golden[name]) for name, value in found.items()}
    assert max(compared.values()) < TOLERANCE, compared
    assert set(golden) - set(found) == {"cross_diag_equals_pair_max_abs"}
    assert differs(found["cross_score"].diagonal(), found["score_positive"].tolist()) < TOLERANCE


@torch.inference_mode()
def test_model2_scores_and_loss_are_those_of_the_published_code(sentence_model):
    golden, batch = published.GOLDEN["model2"], published.batch()
    captions = sentence_model.encode_images(published.images(11, 12))
    own = torch.arange(8)
    positive, negative = published.queries(21), published.queries(22)
    found = {
        "score_positive": sentence_model.score_candidates(positive, own, captions[:8]),
        "score_negative_image": sentence_model.score_candidates(positive, own, captions[8:]),
        "score_negative_query": sentence_model.score_candidates(negative, own, captions[:8]),
        "loss_bce": small.losses("model2", sentence_model, batch)["matching"],
    }
    compared = {name: differs(value, golden[name]) for name, value in found.items()}
    assert max(compared.values()) < TOLERANCE, compared
    assert set(golden) == set(found)


@pytest.mark.parametrize("name", ["model1", "model2"])
def test_parameters_have_the_published_names_and_shapes(name, word_model, sentence_model):
    model = {"model1": word_model, "model2": sentence_model}[name]
    found = {
        part: {key: list(value.shape) for key, value in module.state_dict().items()}
        for part, module in model.named_children()
    }
    assert found == published.SHAPES[name]
