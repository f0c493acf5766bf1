import numpy as np
import pytest
import sklearn.cluster

import kddcup.data.corpus
from kddcup.data.corpus import INFO_FILES, Corpus, cluster_queries, open_info, read_size, write_info
from kddcup.io.errors import UserError
from kddcup.io.files import read_pickle, write_pickle
from kddcup.io.folders import MARKER, write_marker
from kddcup.io.ragged import Ragged
from kddcup.text.lexicon import build_lexicon
from kddcup.text.vocabulary import Vocabulary, WordVectors, save_vocabulary

TEXTS = [
    "red dress",
    "blue dress",
    "the of - 's",
    "dress with red jacket",
    "blue jacket - women",
    "women's jacket - the",
    "jacket women",
    "women blue",
]
QUERY_IDS = np.array([70, 5, 900, 6, 71, 8, 9, 10])
ROWS = [
    # query id, product id
    (70, 3),
    (5, 9),
    (70, 1),
    (900, 3),
    (70, 3),
    (6, 9),
    (71, 4),
    (8, 4),
    (9, 2),
    (10, 2),
]
PICKLES = ("data.pkl", "query2product2.pkl", "data_info2.pkl")


def columns_of(rows):
    return {
        "product_id": np.array([product for _, product in rows]),
        "image_h": np.full(len(rows), 200),
        "image_w": np.full(len(rows), 400),
        "query_id": np.array([query for query, _ in rows]),
        "class_label": np.arange(2 * len(rows)),
        "class_label_offsets": np.arange(0, 2 * len(rows) + 1, 2),
    }


def write_corpus(folder, texts=TEXTS, query_ids=QUERY_IDS, rows=ROWS):
    """What stage 1 writes into DATA/info, in ``folder``."""
    vocabulary, words = build_lexicon(texts, 8, seed=0)
    save_vocabulary(folder / "vocabulary", vocabulary, words)
    write_info(folder, columns_of(rows), query_ids, texts, vocabulary, words, seed=0)
    write_marker(folder, INFO_FILES, {"size": "small"})
    return vocabulary


def read_texts(folder, pickle, name):
    """The texts of a column of ``DATA/info``."""
    columns = read_pickle(folder / pickle, "x")
    texts = Ragged(columns[name], columns[f"{name}_offsets"])
    return [texts[i].tobytes().decode() for i in range(len(texts))]


def queries_of(groups):
    """{query: group} as the listing by group has it."""
    return {query: i for i in range(len(groups)) for query in groups[i].tolist()}


def plain(value):
    """Whether a value is made of dicts, lists, strings, numbers and arrays of numbers alone."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(one) for key, one in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "iuf"
    return isinstance(value, str | int | float)


def test_rows_name_their_query_and_product(tmp_path):
    write_corpus(tmp_path)
    corpus = Corpus.open(tmp_path)
    assert corpus.query_ids[corpus.row_query].tolist() == [query for query, _ in ROWS]
    assert corpus.row_product.tolist() == [product for _, product in ROWS]
    assert read_texts(tmp_path, "query2product2.pkl", "text") == TEXTS


def test_the_products_of_a_query_are_ascending_and_distinct(tmp_path):
    write_corpus(tmp_path)
    corpus = Corpus.open(tmp_path)
    found = {int(corpus.query_ids[i]): corpus.products[i].tolist() for i in range(len(TEXTS))}
    assert found == {70: [1, 3], 5: [9], 900: [3], 6: [9], 71: [4], 8: [4], 9: [2], 10: [2]}


def test_the_tokens_of_a_query_are_those_of_the_vocabulary(tmp_path):
    vocabulary = write_corpus(tmp_path)
    corpus = Corpus.open(tmp_path)
    for i, text in enumerate(TEXTS):
        assert corpus.tokens[i].tolist() == vocabulary.encode(text)
    assert corpus.tokens.lengths[2] == 0


def test_the_head_class_of_a_query_is_its_last_word(tmp_path):
    write_corpus(tmp_path)
    corpus = Corpus.open(tmp_path)
    heads = ["dress", "dress", None, "jacket", "women", "jacket", "women", "blue"]
    names = read_texts(tmp_path, "data_info2.pkl", "head_class_name")
    assert sorted(names) == ["blue", "dress", "jacket", "women"]
    assert [names[i] if i >= 0 else None for i in corpus.head_class] == heads
    for i, name in enumerate(names):
        assert corpus.by_head_class[i].tolist() == [q for q, head in enumerate(heads) if head == name]


def test_a_query_without_words_is_in_no_group(tmp_path):
    write_corpus(tmp_path)
    corpus = Corpus.open(tmp_path)
    assert (corpus.head_class[2], corpus.cluster[2]) == (-1, -1)
    worded = [0, 1, 3, 4, 5, 6, 7]
    assert sorted(queries_of(corpus.by_head_class)) == worded
    assert sorted(queries_of(corpus.by_cluster)) == worded
    assert (corpus.cluster[worded] >= 0).all()


def test_clusters_list_the_queries_that_name_them(tmp_path):
    texts = [f"{colour} {thing}" for thing in ("dress", "coat") for colour in ("red", "blue")] * 6
    rows = [(i, i) for i in range(len(texts))]
    write_corpus(tmp_path, texts, np.arange(len(texts)), rows)
    corpus = Corpus.open(tmp_path)
    assert queries_of(corpus.by_cluster) == dict(enumerate(corpus.cluster.tolist()))
    assert len(corpus.by_cluster) == len(texts) // 10


def test_a_table_of_nothing_but_wordless_queries_has_no_groups(tmp_path):
    texts = ["the of", "- 's"]
    vocabulary, words = build_lexicon(TEXTS, 8, seed=0)
    write_info(tmp_path, columns_of([(1, 1), (2, 2)]), np.array([1, 2]), texts, vocabulary, words, seed=0)
    corpus = Corpus.open(tmp_path)
    assert corpus.head_class.tolist() == corpus.cluster.tolist() == [-1, -1]
    assert (len(corpus.by_head_class), len(corpus.by_cluster)) == (0, 0)


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_hold_only_arrays_and_plain_values(tmp_path, name):
    write_corpus(tmp_path)
    content = read_pickle(tmp_path / name, "x")
    assert content
    assert plain(content)


def test_the_table_is_kept_without_its_base64_columns(tmp_path):
    write_corpus(tmp_path)
    content = read_pickle(tmp_path / "data.pkl", "x")
    assert content.keys() == columns_of(ROWS).keys()
    for name, column in columns_of(ROWS).items():
        np.testing.assert_array_equal(content[name], column)


def test_the_lexicon_stands_beside_the_groups(tmp_path):
    vocabulary = write_corpus(tmp_path)
    lexicon = read_pickle(tmp_path / "data_info2.pkl", "x")["lexicon"]
    tokens = Ragged(lexicon["token"], lexicon["token_offsets"])
    assert [tokens[i].tobytes().decode() for i in range(len(tokens))] == vocabulary.tokens


def test_the_same_input_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_corpus(tmp_path / name)
    for name in PICKLES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("chunk", [5, 7, 20_000])
def test_clusters_part_what_lies_apart_whatever_the_chunks(monkeypatch, chunk):
    steps = []
    fit = sklearn.cluster.MiniBatchKMeans.partial_fit

    def counting(self, points, **others):
        steps.append(len(points))
        return fit(self, points, **others)

    monkeypatch.setattr(kddcup.data.corpus, "CLUSTER_CHUNK", chunk)
    monkeypatch.setattr(sklearn.cluster.MiniBatchKMeans, "partial_fit", counting)
    vectors = np.zeros((6, 3), np.float32)
    vectors[4], vectors[5] = [0, 9, 0], [0, 0, 9]
    lists = [[4, 4], [5], [], [5, 5, 5], [4]] * 5
    found = cluster_queries(Ragged.from_lists(lists, np.int32), vectors, seed=0)
    assert found.reshape(5, 5).tolist() == [found[:5].tolist()] * 5
    assert found[0] == found[4] != found[1] == found[3]
    assert set(found.tolist()) == {-1, 0, 1}
    assert sum(steps) == 20
    assert max(steps) <= chunk


def test_a_query_is_clustered_by_the_mean_of_its_words():
    vectors = np.zeros((7, 2), np.float32)
    vectors[4], vectors[5], vectors[6] = [0, 0], [8, 0], [4, 0]
    lists = [[4, 5], [6]] * 5 + [[4], [4, 4]] * 5
    found = cluster_queries(Ragged.from_lists(lists, np.int32), vectors, seed=0)
    assert set(found[:10].tolist()) != set(found[10:].tolist())
    assert len(set(found[:10].tolist())) == len(set(found[10:].tolist())) == 1


def test_there_are_at_most_so_many_clusters(monkeypatch):
    assert kddcup.data.corpus.MAX_CLUSTERS == 1000
    monkeypatch.setattr(kddcup.data.corpus, "MAX_CLUSTERS", 3)
    vectors = np.random.default_rng(0).random((60, 4), np.float32)
    found = cluster_queries(Ragged.from_lists([[i] for i in range(4, 60)], np.int32), vectors, seed=0)
    assert found.max() == 2


def test_info_is_opened_whole(tmp_path):
    vocabulary = write_corpus(tmp_path / "info")
    info = open_info(tmp_path)
    assert info.vocabulary.tokens == vocabulary.tokens
    assert info.words.vectors.shape == (len(vocabulary), 8)
    assert read_size(tmp_path) == "small"


def test_unfinished_info_names_the_command(tmp_path):
    write_corpus(tmp_path / "info")
    (tmp_path / "info" / MARKER).unlink()
    with pytest.raises(UserError, match=r"run 'python preprocess\.py --data_dir"):
        open_info(tmp_path)
    with pytest.raises(UserError, match=r"complete\.json.*python preprocess\.py"):
        read_size(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"size": "huge"}', "{", ""])
def test_a_marker_that_names_no_size_names_the_command(tmp_path, content):
    (tmp_path / "info").mkdir()
    (tmp_path / "info" / MARKER).write_text(content)
    with pytest.raises(UserError, match=r"complete\.json.*python preprocess\.py"):
        read_size(tmp_path)


@pytest.mark.parametrize("name", PICKLES)
def test_an_absent_pickle_names_the_command(tmp_path, name):
    write_corpus(tmp_path / "info")
    (tmp_path / "info" / name).unlink()
    with pytest.raises(UserError, match=rf"{name} does not exist.*python preprocess\.py"):
        open_info(tmp_path)


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_that_is_another_one_is_a_users_error(tmp_path, name):
    write_corpus(tmp_path)
    other = PICKLES[PICKLES.index(name) - 1]
    (tmp_path / name).write_bytes((tmp_path / other).read_bytes())
    with pytest.raises(UserError, match=r"it has no column .*python preprocess\.py --force"):
        Corpus.open(tmp_path)


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("data.pkl", "product_id", np.zeros(1, np.int64)),
        ("query2product2.pkl", "query_id", np.zeros(0, np.int64)),
        ("query2product2.pkl", "cluster", np.zeros((5, 1), np.int32)),
        ("query2product2.pkl", "cluster", np.full(5, 99, np.int32)),
        ("query2product2.pkl", "head_class", np.full(5, -2, np.int32)),
        ("query2product2.pkl", "head_class", np.zeros(5, np.float32)),
        ("query2product2.pkl", "token", "red dress"),
        ("query2product2.pkl", "token_offsets", np.array([0, 9, 1, 1, 1, 9])),
        ("query2product2.pkl", "token_offsets", np.zeros(0, np.int64)),
        ("data_info2.pkl", "cluster_query", np.array([10**9])),
    ],
)
def test_columns_that_do_not_fit_each_other_are_refused(tmp_path, name, column, value):
    write_corpus(tmp_path)
    content = read_pickle(tmp_path / name, "x")
    write_pickle(tmp_path / name, {**content, column: value})
    with pytest.raises(UserError, match=r"make it anew with 'python preprocess\.py --force'"):
        Corpus.open(tmp_path)


@pytest.mark.parametrize(
    "rows", [[*ROWS, (901, 3)], [*ROWS, (7, 3)], [*ROWS, (1, 3)]], ids=["above", "between", "below"]
)
def test_a_table_with_queries_of_another_run_is_refused(tmp_path, rows):
    write_corpus(tmp_path / "other", [*TEXTS, "red"], np.append(QUERY_IDS, rows[-1][0]), rows)
    write_corpus(tmp_path / "info")
    (tmp_path / "info" / "data.pkl").write_bytes((tmp_path / "other" / "data.pkl").read_bytes())
    with pytest.raises(UserError, match=r"python preprocess\.py --force"):
        Corpus.open(tmp_path / "info")


def test_a_vocabulary_too_small_for_the_queries_is_refused(tmp_path):
    write_corpus(tmp_path / "info")
    words = WordVectors(np.zeros((4, 8), np.float32), np.ones(8, np.float32), np.zeros(8, np.float32))
    vocabulary = Vocabulary("lexicon", ["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    save_vocabulary(tmp_path / "info" / "vocabulary", vocabulary, words)
    write_marker(tmp_path / "info", INFO_FILES, {"size": "small"})
    with pytest.raises(UserError, match=r"has not the words .*python preprocess\.py --force"):
        open_info(tmp_path)
