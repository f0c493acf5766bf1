import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import multilabel.criterion
from kddcup.data.batch import Batch, RegionBatch, scale_boxes
from kddcup.io.errors import UserError
from kddcup.nn.captioner import Captioner
from kddcup.nn.words import list_trainable
from kddcup.rank.predictions import read_predictions
from kddcup.rank.split import Split
from kddcup.table.rows import Row
from kddcup.text.vocabulary import SPECIALS, Vocabulary
from multilabel.description import describe
from multilabel.model import MultiLabelClassifier
from tests import small
from tests.conftest import call_main


@pytest.fixture
def model() -> MultiLabelClassifier:
    torch.manual_seed(0)
    return MultiLabelClassifier(small.CONFIG).eval()


def brute_force(logits, lists, negatives):
    total = 0.0
    for row, words in zip(logits.tolist(), lists, strict=True):
        total += sum(math.log1p(math.exp(-row[word])) for word in set(words))
        others = sorted((row[word] for word in range(1, len(row)) if word not in words), reverse=True)
        total += sum(math.log1p(math.exp(value)) for value in others[:negatives])
    return total / len(lists)


@pytest.mark.parametrize("negatives", [3, 1000])
def test_the_tagging_loss_is_that_over_the_whole_vocabulary(monkeypatch, negatives):
    monkeypatch.setattr(multilabel.criterion, "NEGATIVES", negatives)
    lists = [[4, 5, 4], [6], list(range(1, 20))]
    logits = 3 * torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    found = multilabel.criterion.compute_tagging_loss(logits, small.queries(*lists).ids)
    assert found.item() == pytest.approx(brute_force(logits, lists, negatives), rel=1e-5)


def test_an_image_is_tagged_by_its_labels_where_the_batch_has_them(model):
    images, queries, labels = small.images(2, 3), small.queries([4], [6]), small.queries([4, 9], [6, 7, 8])
    tags = model(Batch(queries, images, np.arange(2))).tags
    by_query = small.losses("multilabel", model, Batch(queries, images, np.arange(2)))
    by_product = small.losses("multilabel", model, Batch(queries, images, np.arange(2), labels=labels))
    assert by_product["captioning"] == by_query["captioning"]
    for losses, words in ((by_query, queries), (by_product, labels)):
        assert losses["tagging"] == multilabel.criterion.compute_tagging_loss(tags, words.ids)
    assert by_query["tagging"] != by_product["tagging"]


def test_gradients_are_finite_where_there_are_fewer_than_1000_other_words():
    logits = torch.randn(2, 20, requires_grad=True)
    multilabel.criterion.compute_tagging_loss(logits, small.queries([4, 5, 6], [7]).ids).backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[:, 0] == 0).all()
    assert (logits.grad[:, 1:] != 0).all()


def test_a_words_logit_is_its_best_product_with_a_label_head(model):
    heads = model.encode_images(small.images(2, 3))
    expected = [
        [max((head @ word).item() for head in image[1:]) for word in model.embed.weight] for image in heads
    ]
    torch.testing.assert_close(model.tag(heads), torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_candidates_score_the_log_probability_of_their_querys_words(model):
    heads = model.encode_images(small.images(2, 3, 1))
    logits = model.tag(heads)
    found = model.score_candidates(small.queries([4, 5], [6]), torch.tensor([0, 1, 0]), heads)
    expected = [F.logsigmoid(logits[i, words]).sum() for i, words in enumerate([[4, 5], [6], [4, 5]])]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-5)


def caption_log_probability(model, head, words: list[int]) -> float:
    """Start, words, end, read one word at a time."""
    state, total = head[None, None], 0.0
    for word, following in zip([small.CONFIG.start, *words], [*words, small.CONFIG.end], strict=True):
        output, state = model.rnn(model.embed(torch.tensor([[word]])), state)
        logits = model.caption(output[0, 0]) @ model.embed.weight.T
        total += logits.log_softmax(0)[following].item()
    return total


def test_log_probabilities_of_queries_are_those_of_a_softmax_over_all_words_one_word_at_a_time(model):
    lists = [[4], [5, 6, 7], []]
    heads = model.encode_images(small.images(2, 3, 1))[:, 0]
    expected = [caption_log_probability(model, *pair) for pair in zip(heads, lists, strict=True)]
    found = model.captioner.score_queries(model.embed.weight, heads, small.queries(*lists))
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_log_probability_by_hand():
    config = replace(small.CONFIG, width=4, vocabulary=5)
    captioner = Captioner(config)
    for parameter in captioner.parameters():
        nn.init.zeros_(parameter)
    # The state halves at each step, as an update gate of zeros is 1/2; the MLP passes on what is positive.
    for layer in (captioner.caption[0], captioner.caption[3]):
        nn.init.eye_(layer.weight)
    vectors = torch.eye(5, 4)
    head = torch.tensor([[2 * math.log(3), 0.0, 0.0, 0.0]])
    # Logits of word 0: ln 3 after the start, then ln 3 / 2; all others have 0.
    found = captioner.score_queries(vectors, head, small.queries([4]))
    assert found.item() == pytest.approx(-math.log(3 + 4) - math.log(math.sqrt(3) + 4), abs=1e-6)


def test_the_captioning_loss_reads_start_words_end(model):
    lists = [[4], [5, 6, 7]]
    images, queries = small.images(2, 3), small.queries(*lists)
    heads = model.encode_images(images)[:, 0]
    probabilities = [caption_log_probability(model, *pair) for pair in zip(heads, lists, strict=True)]
    found = small.losses("multilabel", model, Batch(queries, images, np.arange(2)))["captioning"]
    assert found.item() == pytest.approx(-sum(probabilities) / 2, rel=1e-5)


def test_beam_search_gives_log_probabilities_of_what_it_reads_the_best_first(model):
    head = model.encode_images(small.images(4))[0, 0]
    captions = model.generate_captions(head)
    assert 1 <= len(captions) <= 5
    assert [score for score, _ in captions] == sorted((score for score, _ in captions), reverse=True)
    assert all(len(words) <= 15 for _, words in captions)


def test_beam_search_finds_the_caption_that_was_learned(model):
    model.train()
    images, words = small.images(2, 5), small.queries([4, 5, 6], [7, 8])
    optimizer = torch.optim.Adam(list_trainable(model), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        sum(small.losses("multilabel", model, Batch(words, images, np.arange(2))).values()).backward()
        optimizer.step()
    model.eval()
    heads = model.encode_images(images)
    best = [model.generate_captions(image[0])[0] for image in heads]
    assert [words for _, words in best] == [[4, 5, 6], [7, 8]]
    for (score, words), image in zip(best, heads, strict=True):
        assert score == pytest.approx(caption_log_probability(model, image[0], words), abs=1e-3)


def show(trained, *flags: object) -> str:
    folders = ["--data_dir", trained / "data", "--checkpoints_dir", trained / "multilabel"]
    return call_main("multilabel.validation", *folders, *flags)


def listed(trained, split: str) -> list[str]:
    """Product ids of a table, each once."""
    lines = (trained / "data" / split / f"{split}.tsv").read_text().splitlines()[1:]
    return list(dict.fromkeys(line.split("\t")[0] for line in lines))


def test_validation_writes_the_scores_of_both_tables_and_shows_images(trained, tmp_path):
    paths = {"valid": tmp_path / "valid.json", "testA": tmp_path / "test.json"}
    outs = ("--valid_out_path", paths["valid"], "--test_out_path", paths["testA"])
    printed = show(trained, *outs, "--split", "testA", "--images", 2)
    assert printed.count("\nproduct ") == 2
    for split, path in paths.items():
        predictions = read_predictions(path, "the test")
        assert {product for query in predictions.values() for product, _ in query} == set(
            map(int, listed(trained, split))
        )
        ndcg = Split(trained / "data", split).ndcg(predictions).mean()
        assert f"multilabel on {split}: NDCG@5 {ndcg:.6f} " in printed


@pytest.mark.parametrize("split", ["valid", "testB"])
def test_products_of_a_table_are_shown_in_the_order_asked_for(trained, split):
    wanted = [listed(trained, split)[place] for place in (40, 3)]
    shown = show(trained, "--show", *wanted, "--split", split)
    assert re.findall(r"^product (\d+), found under '", shown, re.MULTILINE) == wanted
    for line in re.findall(r"^  tags: (.*)$", shown, re.MULTILINE):
        scores = [float(tag.rpartition(" ")[2]) for tag in line.split(", ")]
        assert len(scores) == 15
        assert 0 <= min(scores) <= max(scores) <= 1
        assert scores == sorted(scores, reverse=True)
    assert shown.count("  caption ") >= 2
    assert "NDCG" not in shown


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--show", "7", "{known}", "8"], r"valid\.tsv has no product 7, 8:"),
        (["--split", "train"], "--split train is for --show"),
        (["--show", "7", "--data_dir", "absent"], r"absent/valid/valid\.tsv"),
    ],
)
def test_what_cannot_be_shown_is_refused(trained, flags, expected):
    known = listed(trained, "valid")[0]
    with pytest.raises(UserError, match=expected):
        show(trained, *(flag.format(known=known) for flag in flags))


def test_a_description_has_the_sigmoid_of_the_logits(model):
    vocabulary = Vocabulary("lexicon", [*SPECIALS, *(f"word{i}" for i in range(small.CONFIG.vocabulary - 4))])
    rng = np.random.default_rng(0)
    features, boxes = rng.random((2, 8), dtype=np.float32), np.float32([[0, 0, 5, 5], [1, 1, 9, 9]])
    row = Row(5, 10, 10, boxes, features, 1.0, np.zeros(2, np.int64), "red dress", *[0] * 5)
    images = RegionBatch.from_images([(features, scale_boxes(boxes, 10, 10))])
    logits = model.tag(model.encode_images(images))[0]
    shown = describe(row, model, vocabulary, torch.device("cpu"))
    assert shown.startswith("product 5, found under 'red dress'\n  tags: ")
    for tag in re.search("tags: (.*)", shown)[1].split(", "):
        word, score = tag.split()
        logit = float(logits[vocabulary.tokens.index(word)])
        assert float(score) == pytest.approx(1 / (1 + math.exp(-logit)), abs=0.005)
