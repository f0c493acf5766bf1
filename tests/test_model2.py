import pytest
import torch
from torch.nn import functional as F

from model2.model import SentenceImageModel
from tests import small


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
