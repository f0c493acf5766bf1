"""The training table without its pictures: products, queries, classes, clusters; ``DATA/info``.

Everything is columns of numpy arrays, so that workers share one copy of it.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from kddcup.config import SIZES
from kddcup.io.errors import UserError
from kddcup.io.files import read_pickle, write_pickle
from kddcup.io.folders import MARKER, read_marker
from kddcup.io.ragged import IdIndex, Ragged
from kddcup.text.segmentation import content_words
from kddcup.text.vocabulary import Vocabulary, WordVectors, load_word_vectors

MAX_CLUSTERS = 1000
CLUSTER_CHUNK = 20_000
"""The queries per step of k-means; at least as many as there may be clusters."""
QUERIES_PER_CLUSTER = 10
"""The fewest queries to a cluster, on average."""
MADE_BY = "python preprocess.py"
INFO_FILES = (
    "data.pkl",
    "query2product2.pkl",
    "data_info2.pkl",
    "vocabulary/vocab.txt",
    "vocabulary/vocabulary.json",
    "vocabulary/vectors.npz",
)
"""The files of ``DATA/info``; its marker also has the settings of stage 1."""
BAD_ROWS = "bad_rows.tsv"
"""The list of skipped rows, which is in ``DATA/info`` too where stage 1 was to skip some."""


@dataclass
class Corpus:
    """Rows (a query and a product that was found under it), queries, and the groups that negatives come from.

    Per row: ``row_query`` [N] index of the row's query, ``row_product`` [N] product id. Per query:
    ``query_ids`` [Q], ``products`` (its product ids, ascending and distinct), ``tokens``, ``head_class`` [Q]
    and ``cluster`` [Q], both −1 where no word is left. ``by_head_class`` and ``by_cluster`` list the queries
    of each class and cluster.
    """

    row_query: np.ndarray
    row_product: np.ndarray
    query_ids: np.ndarray
    products: Ragged
    tokens: Ragged
    head_class: np.ndarray
    cluster: np.ndarray
    by_head_class: Ragged
    by_cluster: Ragged

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "Corpus":
        """Read ``DATA/info``.

        Raises:
            UserError: a file is absent or torn, lacks a column, or does not fit the others.
        """
        folder = Path(folder)
        table = read_pickle(folder / "data.pkl", MADE_BY)
        queries = read_pickle(folder / "query2product2.pkl", MADE_BY)
        groups = read_pickle(folder / "data_info2.pkl", MADE_BY)
        try:
            query_ids = _get_column(queries, "query_id")
            corpus = cls(
                row_query=_find_queries(query_ids, _get_column(table, "query_id")),
                row_product=_get_column(table, "product_id"),
                query_ids=query_ids,
                products=_unpack(queries, "product_id"),
                tokens=_unpack(queries, "token"),
                head_class=_get_column(queries, "head_class"),
                cluster=_get_column(queries, "cluster"),
                by_head_class=_unpack(groups, "head_class_query"),
                by_cluster=_unpack(groups, "cluster_query"),
            )
            corpus._check()
        except ValueError as error:
            raise UserError(f"{folder}: {error}; make it anew with '{MADE_BY} --force'") from None
        return corpus

    def drop(self, token: int) -> "Corpus":
        """Copy it without a token; a query with no word left is of no class and no cluster."""
        tokens = self.tokens.drop(token)
        head_class, cluster = (
            np.where(tokens.lengths > 0, group, -1) for group in (self.head_class, self.cluster)
        )
        return replace(
            self,
            tokens=tokens,
            head_class=head_class,
            cluster=cluster,
            by_head_class=Ragged.group(head_class, len(self.by_head_class)),
            by_cluster=Ragged.group(cluster, len(self.by_cluster)),
        )

    def _check(self) -> None:
        """See that the columns fit each other, whoever wrote them.

        Raises:
            ValueError: they do not.
        """
        count = len(self.query_ids)
        per_query = (self.products, self.tokens, self.head_class, self.cluster)
        if len(self.row_product) != len(self.row_query) or any(len(column) != count for column in per_query):
            raise ValueError("its columns are of different lengths")
        for group, members in ((self.head_class, self.by_head_class), (self.cluster, self.by_cluster)):
            if group.min() < -1 or group.max() >= len(members):
                raise ValueError("a query is of a group that is not there")
            if members.values.min(initial=0) < 0 or members.values.max(initial=0) >= count:
                raise ValueError("a group has a query that is not there")


@dataclass
class Info:
    """``DATA/info`` as a training stage needs it."""

    corpus: Corpus
    vocabulary: Vocabulary
    words: WordVectors


def read_size(data_dir: str | os.PathLike) -> str:
    """Read the size that stage 1 was given.

    Raises:
        UserError: stage 1 has not finished.
    """
    info = Path(data_dir) / "info"
    size = read_marker(info, f"{MADE_BY} --data_dir DATA").get("size")
    if size not in SIZES:
        raise UserError(f"{info / MARKER} names no size: run '{MADE_BY} --data_dir DATA --force'")
    return size


def find_size(data_dir: str | os.PathLike) -> str:
    """Read the size that stage 1 was given; full where it has not run, since predictions may be of others."""
    return read_size(data_dir) if (Path(data_dir) / "info" / MARKER).is_file() else "full"


def open_info(data_dir: str | os.PathLike) -> Info:
    """Read ``data_dir/info``.

    Raises:
        UserError: stage 1 has not been run, or its files do not fit together.
    """
    folder = Path(data_dir) / "info"
    read_marker(folder, f"{MADE_BY} --data_dir DATA")
    words_folder = folder / "vocabulary"
    info = Info(Corpus.open(folder), Vocabulary.read(words_folder), load_word_vectors(words_folder))
    ids = info.corpus.tokens.values
    if ids.max(initial=0) >= len(info.words.vectors) or ids.min(initial=0) < 0:
        raise UserError(
            f"{words_folder} has not the words that {folder / 'query2product2.pkl'} uses: "
            f"make both with '{MADE_BY} --force'"
        )
    return info


def write_info(
    folder: Path,
    table: dict[str, np.ndarray],
    query_ids: np.ndarray,
    texts: list[str],
    vocabulary: Vocabulary,
    words: WordVectors,
    seed: int,
) -> None:
    """Write the three pickles of ``DATA/info``.

    Args:
        folder: ``DATA/info``.
        table: per row product_id, image_h, image_w, query_id [N]; class_label and class_label_offsets.
        query_ids: [Q] in order of first appearance.
        texts: Q query texts.
        vocabulary: gives the token ids.
        words: give the query's mean vector, which k-means clusters.
        seed: of k-means.
    """
    tokens = Ragged.from_lists(map(vocabulary.encode, _show_progress(texts, "tokens")), np.int32)
    has_words = tokens.lengths > 0
    names: dict[str, int] = {}
    head_class = np.full(len(texts), -1, np.int32)
    for i, text in enumerate(_show_progress(texts, "head classes")):
        heads = content_words(text, vocabulary.dictionary)
        if has_words[i]:
            head_class[i] = names.setdefault(heads[-1] if heads else "", len(names))
    cluster = cluster_queries(tokens, words.vectors, seed)
    write_pickle(folder / "data.pkl", table)
    write_pickle(
        folder / "query2product2.pkl",
        {
            "query_id": query_ids,
            **_pack("text", Ragged.from_texts(texts)),
            **_pack("product_id", _list_products(query_ids, table)),
            **_pack("token", tokens),
            "head_class": head_class,
            "cluster": cluster,
        },
    )
    write_pickle(
        folder / "data_info2.pkl",
        {
            "lexicon": _pack("token", Ragged.from_texts(vocabulary.tokens)),
            **_pack("head_class_name", Ragged.from_texts(names)),
            **_pack("head_class_query", Ragged.group(head_class, len(names))),
            **_pack("cluster_query", Ragged.group(cluster, int(cluster.max(initial=-1)) + 1)),
        },
    )


def cluster_queries(tokens: Ragged, vectors: np.ndarray, seed: int) -> np.ndarray:
    """Cluster the queries' mean word vectors by k-means, by ``partial_fit`` on chunks.

    Args:
        tokens: the token ids of Q queries.
        vectors: [V, E] word vectors.
        seed: of the centres and the order.

    Returns:
        [Q] int32 cluster of each query, −1 where it has no word. There are at most 1,000 clusters, and at
        least 10 queries to one on average.
    """
    from sklearn.cluster import MiniBatchKMeans

    with_words = np.flatnonzero(tokens.lengths)
    clusters = np.full(len(tokens), -1, np.int32)
    if len(with_words) == 0:
        return clusters

    def average(queries: np.ndarray) -> np.ndarray:
        words = tokens.take(queries)
        sums = np.add.reduceat(vectors[words.values], words.offsets[:-1])
        return sums / words.lengths[:, None].astype(np.float32)

    count = min(MAX_CLUSTERS, max(1, len(with_words) // QUERIES_PER_CLUSTER))
    kmeans = MiniBatchKMeans(count, random_state=seed, n_init=1)
    order = np.random.default_rng(seed).permutation(with_words)
    chunks = -(-len(order) // CLUSTER_CHUNK)
    # Of equal sizes, so that no chunk is smaller than the number of clusters.
    for chunk in _show_progress(np.array_split(order, chunks), "clusters"):
        kmeans.partial_fit(average(np.sort(chunk)))
    for chunk in _show_progress(np.array_split(with_words, chunks), "members"):
        clusters[chunk] = kmeans.predict(average(chunk))
    return clusters


def _get_column(columns: dict[str, Any], name: str) -> np.ndarray:
    column = columns.get(name)
    if not isinstance(column, np.ndarray) or column.ndim != 1 or column.dtype.kind not in "iu":
        raise ValueError(f"it has no column {name} of whole numbers")
    return column


def _find_queries(query_ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    try:
        return IdIndex(query_ids).find(wanted)
    except KeyError as absent:
        raise ValueError(f"its query {absent} has no text") from None


def _list_products(query_ids: np.ndarray, table: dict[str, np.ndarray]) -> Ragged:
    return Ragged.collect(IdIndex(query_ids).find(table["query_id"]), table["product_id"], len(query_ids))


def _pack(name: str, ragged: Ragged) -> dict[str, np.ndarray]:
    return {name: ragged.values, f"{name}_offsets": ragged.offsets}


def _unpack(columns: dict[str, Any], name: str) -> Ragged:
    values, offsets = _get_column(columns, name), _get_column(columns, f"{name}_offsets")
    if (
        not len(offsets)
        or offsets[0] != 0
        or offsets[-1] != len(values)
        or (offsets[1:] < offsets[:-1]).any()
    ):
        raise ValueError(f"its {name} are not those of {name}_offsets")
    return Ragged(values, offsets)


def _show_progress(items: Iterable, name: str) -> Iterable:
    return tqdm(items, desc=name, disable=None)
