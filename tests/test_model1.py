import re
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import model1.model
from model1.criterion import MARGIN, compute_contrastive_losses, compute_ranking_loss
from model1.model import WordImageModel
from tests import small
from tests.conftest import call_main


@pytest.fixture
def model() -> WordImageModel:
    torch.manual_seed(0)
    return WordImageModel(small.CONFIG).eval()


def by_definition(model, words: list[int], heads):
    """A query's words against one image's heads, one word at a time."""
    encoded = model.query(small.queries(words))
    inner = [model.score.dense_summary(torch.cat([word, heads[0]])) for word in encoded.hidden[0]]
    weight = torch.cat(inner).softmax(0)
    best = torch.stack([(heads[1:] @ vector).max() for vector in encoded.vectors[0]])
    return weight @ best


def test_scores_are_those_of_the_definition_whatever_stands_beside_them(model):
    lists = [[4], [5, 6, 7], [8, 9]]
    heads = model.encode_images(small.images(1, 4, 2))
    expected = [by_definition(model, words, own) for words, own in zip(lists, heads, strict=True)]
    found = model.score_candidates(small.queries(*lists), torch.arange(3), heads)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("elements", [1, 1 << 24])
def test_cross_holds_every_query_with_every_image_in_one_chunk_or_many(model, monkeypatch, elements):
    monkeypatch.setattr(model1.model, "CROSS_ELEMENTS", elements)
    lists = [[4], [5, 6, 7], [8, 9]]
    queries, heads = small.queries(*lists), model.encode_images(small.images(1, 4, 2, 6))
    found = model.score.cross(model.query(queries), queries.lengths, heads)
    expected = [torch.stack([by_definition(model, words, image) for image in heads]) for words in lists]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_chunks_of_the_cross_matrix_give_the_same_gradients(model, monkeypatch):
    gradients = []
    for elements in (1, 1 << 24):
        monkeypatch.setattr(model1.model, "CROSS_ELEMENTS", elements)
        model.zero_grad()
        sum(small.losses("model1", model, small.batch()).values()).backward()
        gradients.append([value.grad.clone() for value in model.parameters() if value.grad is not None])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-5)


@pytest.fixture
def tagger() -> WordImageModel:
    torch.manual_seed(0)
    return WordImageModel(replace(small.CONFIG, tagger=True)).eval()


def test_a_tagger_starts_with_the_mean_log_probability_of_a_querys_tags(tagger):
    lists = [[4], [5, 6, 7], [8, 9]]
    queries, heads = small.queries(*lists), tagger.encode_images(small.images(1, 4, 2))
    logits = torch.einsum("ihe,ve->ihv", heads[:, 1:], tagger.query.embed.weight).amax(1)  # [I, V]
    expected = torch.stack([F.logsigmoid(logits[:, words]).mean(1) for words in lists])  # [Q, I]
    found = tagger.score_candidates(queries, torch.arange(3), heads)
    torch.testing.assert_close(found, expected.diagonal(), atol=1e-5, rtol=1e-5)
    cross = tagger.score.cross(tagger.query(queries), queries.lengths, heads)
    torch.testing.assert_close(cross, expected, atol=1e-5, rtol=1e-5)
    weight, scores, _ = tagger.explain_candidates(queries, torch.arange(3), heads)
    assert weight[1].tolist() == pytest.approx([1 / 3] * 3)
    torch.testing.assert_close((weight * scores).sum(1), found)


def test_a_taggers_words_get_weights_of_their_own(tagger):
    before = tagger.score.dense_summary[2].weight.clone()
    sum(small.losses("model1", tagger, small.batch()).values()).backward()
    assert torch.equal(before, torch.zeros_like(before))
    assert tagger.score.dense_summary[2].weight.grad.abs().max() > 0


def test_before_the_first_step_a_tagger_ranks_as_stage_2_does(trained, tmp_path):
    folders = ("--data_dir", trained / "data", "--checkpoints_dir", tmp_path)
    flags = ("--epochs", 2, "--use_epoch", "best", "--max_steps", 1)
    printed = call_main("model1.train", *folders, "--encoder", trained / "encoder.pth", *flags)
    tags = call_main(
        "multilabel.validation",
        *("--data_dir", trained / "data", "--checkpoints_dir", trained / "multilabel", "--images", 0),
        *("--valid_out_path", tmp_path / "valid.json", "--test_out_path", tmp_path / "test.json"),
    )
    start, expected = (re.search(r"valid:? NDCG@5 (\d\.\d{4})", text)[1] for text in (printed, tags))
    assert start == expected


def test_the_margin_ranking_loss_by_hand():
    pair, negative = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.5, 0.5, 1.0])
    assert compute_ranking_loss(pair, negative).item() == pytest.approx((0.4 + 1.4 + 0) / 3)
    assert compute_ranking_loss(pair, negative, 0.2).item() == pytest.approx((0 + 0.7 + 0) / 3)


def test_contrastive_losses_take_another_margin():
    cross = torch.tensor([[1.0, 0.9], [0.2, 0.5]])
    per_query, per_image = compute_contrastive_losses(cross, margin=0.2)
    assert (per_query.item(), per_image.item()) == pytest.approx(((0.1 + 0) / 2, (0 + 0.6) / 2))


def test_contrastive_losses_are_those_of_a_loop():
    cross = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    per_query = [
        max([0.0] + [MARGIN - cross[i, i] + cross[i, j] for j in range(6) if j != i]) for i in range(6)
    ]
    per_image = [
        max([0.0] + [MARGIN - cross[j, j] + cross[i, j] for i in range(6) if i != j]) for j in range(6)
    ]
    found = compute_contrastive_losses(cross)
    assert found[0].item() == pytest.approx(float(sum(per_query)) / 6, abs=1e-6)
    assert found[1].item() == pytest.approx(float(sum(per_image)) / 6, abs=1e-6)


CROSS = torch.tensor([[1.0, 0.4, 0.8], [0.3, 0.9, 0.0], [0.5, 0.7, 0.6]])


def test_the_hardest_that_is_no_match_counts_by_hand():
    """Image 2 matches query 0, whose hardest other it would be, and image 1 query 2."""
    matches = torch.tensor([[True, False, True], [False, True, False], [False, True, True]])
    per_query, per_image = compute_contrastive_losses(CROSS, matches)
    # Query 0 against image 1, query 1 against image 0, query 2 against image 0.
    assert per_query.item() == pytest.approx(((0.9 - 1.0 + 0.4) + (0.9 - 0.9 + 0.3) + (0.9 - 0.6 + 0.5)) / 3)
    # Image 0 against query 2, image 1 against query 0, image 2 against query 1.
    assert per_image.item() == pytest.approx(((0.9 - 1.0 + 0.5) + (0.9 - 0.9 + 0.4) + (0.9 - 0.6 + 0.0)) / 3)


def test_the_mean_over_all_others_by_hand():
    per_query, per_image = compute_contrastive_losses(CROSS, mean=True)
    queries = [(0.3 + 0.7) / 2, (0.3 + 0.0) / 2, (0.8 + 1.0) / 2]
    images = [(0.2 + 0.4) / 2, (0.4 + 0.7) / 2, (1.1 + 0.3) / 2]
    assert per_query.item() == pytest.approx(sum(queries) / 3)
    assert per_image.item() == pytest.approx(sum(images) / 3)


def test_the_mean_is_over_those_that_are_no_match_and_of_none_0():
    matches = torch.tensor([[True, True, True], [False, True, True], [True, False, True]])
    per_query, per_image = compute_contrastive_losses(CROSS, matches, mean=True)
    assert per_query.item() == pytest.approx((0 + 0.3 + 1.0) / 3)
    assert per_image.item() == pytest.approx((0.2 + 0.7 + 0) / 3)


def test_a_batch_says_what_matches(model):
    batch = small.batch()
    batch.matches = torch.ones(3, 3, dtype=torch.bool)
    losses = small.losses("model1", model, batch)
    assert losses["contrastive_query"].item() == losses["contrastive_image"].item() == 0


def test_losses_of_a_batch_compare_each_pair_with_its_own_negatives(model):
    batch = small.batch()
    losses = small.losses("model1", model, batch)
    (words, negative_words), (heads, negative_heads) = (
        [[ids[ids > 0].tolist() for ids in part.ids] for part in (batch.queries, batch.negative_queries)],
        [model.encode_images(part) for part in (batch.images, batch.negative_images)],
    )
    pairs = [by_definition(model, *own) for own in zip(words, heads, strict=True)]
    with_image = [by_definition(model, *other) for other in zip(words, negative_heads, strict=True)]
    with_query = [by_definition(model, *other) for other in zip(negative_words, heads, strict=True)]
    for name, others in (("negative_image", with_image), ("negative_query", with_query)):
        expected = sum(max(0, MARGIN - own + other) for own, other in zip(pairs, others, strict=True)) / 3
        assert losses[name].item() == pytest.approx(expected.item(), abs=1e-5)
