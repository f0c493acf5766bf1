from dataclasses import replace

import numpy as np
import pytest

from kddcup.data.corpus import Corpus
from kddcup.data.sampling import Matches, NegativeSampler
from kddcup.io.errors import UserError
from kddcup.io.ragged import Ragged
from model1.train import NEGATIVES as MODEL1
from model2.train import NEGATIVES as MODEL2

DRAWS = 4000
BOTH = pytest.mark.parametrize("rule", [MODEL1, MODEL2], ids=["model1", "model2"])


def corpus_of(queries, rows):
    """Queries as (head class, cluster, products), wordless with classes of −1; rows are queries' indices."""
    heads, clusters, products = zip(*queries, strict=True)
    heads, clusters = np.array(heads), np.array(clusters)
    products = Ragged.from_lists(map(sorted, products), np.int64)
    return Corpus(
        row_query=np.array(rows),
        row_product=products.values[products.offsets[:-1]][rows],
        query_ids=1000 + np.arange(len(queries)),
        products=products,
        tokens=Ragged.from_lists([[4] if head >= 0 else [] for head in heads], np.int64),
        head_class=heads,
        cluster=clusters,
        by_head_class=Ragged.group(heads, int(heads.max()) + 1),
        by_cluster=Ragged.group(clusters, int(clusters.max()) + 1),
    )


def drawn(queries, rule, seed=7, epoch=0):
    """Queries and products drawn for so many rows of query 0."""
    corpus = corpus_of(queries, [0] * DRAWS)
    return NegativeSampler(corpus, rule, seed).draw(np.arange(DRAWS), epoch)


def share(condition):
    return pytest.approx(np.mean(condition), abs=4 * 0.5 / DRAWS**0.5)


# Query 0 shares its head class with 1, its cluster with 2, and neither with the 400 that follow, which a draw
# from all queries therefore gives. Query i lists product i alone, so that a product tells its query too.
VISIBLE = [(0, 0, [0]), (0, 1, [1]), (1, 0, [2]), *[(1, 1, [i]) for i in range(3, 403)]]


def source(drawn_from):
    """head, cluster or all, for each query (or product) drawn over VISIBLE."""
    return np.where(drawn_from == 1, "head", np.where(drawn_from == 2, "cluster", "all"))


def test_model1_draws_from_the_head_class_eight_times_in_ten_and_else_from_the_cluster():
    queries, _ = drawn(VISIBLE, MODEL1)
    assert share(source(queries) == "head") == 0.8
    assert share(source(queries) == "cluster") == 0.2
    assert not (source(queries) == "all").any()


def test_model1_tosses_once_for_query_and_image():
    queries, products = drawn(VISIBLE, MODEL1)
    np.testing.assert_array_equal(source(products), source(queries))


def test_model2_makes_half_of_its_cluster_draws_from_all_queries():
    for of in drawn(VISIBLE, MODEL2):
        assert share(source(of) == "head") == 0.8
        assert share(source(of) == "cluster") == 0.1
        assert share(source(of) == "all") == 0.1


def test_model2_tosses_for_query_and_image_independently():
    queries, products = (source(of) for of in drawn(VISIBLE, MODEL2))
    assert share((queries == "head") & (products == "head")) == 0.64
    assert share((queries == "head") & (products != "head")) == 0.16
    assert share((queries != "head") & (products == "head")) == 0.16


def test_every_other_query_of_a_group_is_drawn_equally():
    group = [(0, 0, [i]) for i in range(5)]
    queries, products = drawn(group, MODEL1)
    for of in (queries, products):
        assert [share(of == i) for i in range(1, 5)] == [0.25] * 4


def test_every_product_of_a_drawn_query_is_drawn_equally():
    _, products = drawn([(0, 0, [0]), (0, 0, [1, 2, 3, 4])], MODEL1)
    assert [share(products == i) for i in range(1, 5)] == [0.25] * 4


def test_query_and_image_are_drawn_apart():
    queries, products = drawn([(0, 0, [i]) for i in range(5)], MODEL1)
    assert share(queries == products) == 0.25


@BOTH
def test_the_anchor_is_never_its_own_negative_wherever_it_stands_in_its_group(rule):
    queries = [(i % 2, i % 3, [i]) for i in range(12)]
    rows = np.repeat(np.arange(12), 100)
    negatives, _ = NegativeSampler(corpus_of(queries, rows), rule, 0).draw(np.arange(1200), 0)
    assert (negatives != rows).all()
    assert set(negatives.tolist()) == set(range(12))


@BOTH
def test_a_negative_image_is_never_a_product_of_the_anchor(rule):
    queries, products = drawn([(0, 0, [1, 2, 3]), (0, 0, [1, 2, 3, 4]), (0, 0, [2, 3, 5])], rule)
    assert set(products.tolist()) == {4, 5}
    assert set(queries.tolist()) == {1, 2}


@BOTH
def test_a_negative_query_may_itself_list_the_positive_product(rule):
    queries, _ = drawn([(0, 0, [1]), (0, 0, [1, 2]), (-1, -1, [3])], rule)
    assert (queries == 1).all()


@BOTH
def test_a_head_class_without_another_query_leads_to_the_cluster(rule):
    alone = [(2, 0, [0]), *VISIBLE[1:]]
    for of in drawn(alone, rule):
        assert share(source(of) == "cluster") == (1.0 if rule is MODEL1 else 0.9)
        assert (source(of) == "head").sum() < 10  # one of 402 in a draw from all


@BOTH
def test_a_cluster_without_another_query_leads_to_all_queries(rule):
    alone = [(0, 2, [0]), *VISIBLE[1:]]
    for of in drawn(alone, rule):
        assert share(source(of) == "head") == 0.8
        assert share(source(of) == "all") == 0.2


@BOTH
def test_a_query_alone_in_head_class_and_cluster_gets_any(rule):
    for of in drawn([(2, 2, [0]), *VISIBLE[1:]], rule):
        assert share(source(of) == "all") == 1.0
        assert len(set(of.tolist())) > 350


def test_a_head_class_that_lists_only_own_products_leads_to_the_clusters_images():
    queries, products = drawn([(0, 0, [0, 9]), (0, 1, [0, 9]), (1, 0, [2])], MODEL1)
    assert share(queries == 1) == 0.8
    assert (products == 2).all()


def test_a_cluster_that_lists_only_own_products_leads_to_the_images_of_all_queries():
    queries, products = drawn([(0, 0, [0, 9]), (0, 1, [0]), (1, 0, [9]), (1, 1, [5])], MODEL1)
    assert set(queries.tolist()) == {1, 2}
    assert (products == 5).all()


def test_twenty_refusals_are_borne_before_the_next_group_is_tried():
    # A draw from the head class gives product 1 once in ten: all of 20 miss it with probability 0.9**20.
    head = [(0, 0, [*range(10, 19), 1])]
    anchor = (0, 1, list(range(10, 19)))
    _, products = drawn([anchor, *head, (1, 1, [2])], MODEL1)
    assert share(products == 2) == 0.2 + 0.8 * 0.9**20


@BOTH
def test_a_query_that_lists_nearly_all_gets_what_is_left(rule):
    # Of all draws nearly all are refused, and the wordless query's product is in no draw at all.
    everything = list(range(50))
    _, products = drawn([(0, 0, everything), (0, 0, everything), (-1, -1, [5000])], rule)
    assert (products == 5000).all()


@BOTH
def test_a_query_that_lists_every_product_is_a_users_error(rule):
    queries = [(0, 0, [1, 2]), (0, 0, [1])]
    with pytest.raises(UserError, match="query 1000 lists every product"):
        NegativeSampler(corpus_of(queries, [1]), rule, 0)
    without_words = [(-1, -1, [1, 2]), (0, 0, [1]), (0, 0, [1])]
    assert NegativeSampler(corpus_of(without_words, [1]), rule, 0).draw(np.array([0]), 0)[1].tolist() == [2]


@BOTH
def test_wordless_queries_are_never_drawn(rule):
    queries = [(i % 4, i % 5, [i]) if i % 3 else (-1, -1, [i]) for i in range(60)]
    rows = np.repeat([i for i in range(60) if i % 3], 20)
    negatives, products = NegativeSampler(corpus_of(queries, rows), rule, 0).draw(np.arange(len(rows)), 0)
    assert (negatives % 3 != 0).all()
    assert (products % 3 != 0).all()


def test_fewer_than_two_queries_with_words_are_a_users_error():
    with pytest.raises(UserError, match="at least two training queries"):
        NegativeSampler(corpus_of([(0, 0, [1]), (-1, -1, [2])], [0]), MODEL1, 0)


@BOTH
def test_what_a_row_gets_does_not_depend_on_its_batch(rule):
    corpus = corpus_of([(i % 3, i % 4, [i, i + 1]) for i in range(40)], np.arange(200) % 40)
    rows = np.arange(200)
    queries, products = NegativeSampler(corpus, rule, 0).draw(rows, 3)
    for batches in (np.array_split(np.random.default_rng(0).permutation(rows), 7), [[row] for row in rows]):
        sampler = NegativeSampler(corpus, rule, 0)
        for batch in batches:
            found = sampler.draw(np.array(batch), 3)
            np.testing.assert_array_equal(found, [queries[batch], products[batch]])


@BOTH
def test_seed_epoch_and_row_each_change_what_is_drawn(rule):
    by_default = drawn(VISIBLE, rule)
    for other in (drawn(VISIBLE, rule, seed=8), drawn(VISIBLE, rule, epoch=1)):
        assert (by_default[0] != other[0]).mean() > 0.1
        assert (by_default[1] != other[1]).mean() > 0.1
    assert (by_default[0][1:] != by_default[0][:-1]).mean() > 0.1


def test_a_batch_of_no_rows_draws_nothing():
    corpus = corpus_of(VISIBLE, [0])
    queries, products = NegativeSampler(corpus, MODEL1, 0).draw(np.zeros(0, np.int64), 0)
    assert (len(queries), len(products)) == (0, 0)


def worded_corpus(lists):
    """Queries by their words, each with a product of its own, all of one head class."""
    corpus = corpus_of([(0, 0, [i]) for i in range(len(lists))], list(range(len(lists))))
    return replace(corpus, tokens=Ragged.from_lists(lists, np.int64))


def test_a_product_matches_a_query_where_its_queries_have_all_of_its_words():
    corpus = worded_corpus([[4], [4, 5], [5, 6], [4, 4]])
    # Product 0 comes up under query 2 too, and so has the words 4, 5 and 6.
    corpus = replace(corpus, row_query=np.array([0, 1, 2, 3, 2]), row_product=np.array([0, 1, 2, 3, 0]))
    found = Matches(corpus).find(np.arange(4), np.arange(4))
    assert found.tolist() == [
        [True, True, False, True],
        [True, True, False, False],
        [True, False, True, False],
        [True, True, False, True],
    ]


@BOTH
def test_neither_a_query_nor_an_image_that_matches_is_drawn(rule):
    corpus = worded_corpus([[4], [4, 5], [5], [6]])
    sampler = NegativeSampler(corpus, rule, 7, Matches(corpus))
    draws = [sampler.draw(np.arange(4), epoch) for epoch in range(100)]
    queries, products = (np.stack(of) for of in zip(*draws, strict=True))
    for row, expected_queries, expected_products in (
        (0, {1, 2, 3}, {2, 3}),  # the product of "4 5" matches "4"; the query "4 5" does not match product 0
        (1, {3}, {0, 2, 3}),
        (2, {0, 1, 3}, {0, 3}),
        (3, {0, 1, 2}, {0, 1, 2}),
    ):
        assert set(queries[:, row]) == expected_queries
        assert set(products[:, row]) == expected_products


@BOTH
def test_where_all_matches_a_match_is_drawn(rule):
    corpus = worded_corpus([[4], [4]])
    queries, products = NegativeSampler(corpus, rule, 7, Matches(corpus)).draw(np.arange(2), 0)
    assert queries.tolist() == products.tolist() == [1, 0]


def test_without_a_word_a_query_is_in_no_group():
    corpus = worded_corpus([[4], [1], [1, 5], [6]]).drop(1)
    assert [list(tokens) for tokens in map(corpus.tokens.__getitem__, range(4))] == [[4], [], [5], [6]]
    assert corpus.head_class.tolist() == corpus.cluster.tolist() == [0, -1, 0, 0]
    assert corpus.by_head_class[0].tolist() == corpus.by_cluster[0].tolist() == [0, 2, 3]
