"""Scoring a table of candidates: each image and each query is encoded once."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from kddcup.data.batch import RegionBatch, TokenBatch, scale_boxes
from kddcup.io.errors import UserError
from kddcup.io.ragged import Ragged
from kddcup.nn.ranker import Ranker
from kddcup.rank.predictions import Predictions
from kddcup.table.table import Table
from kddcup.text.vocabulary import Vocabulary

REGIONS_PER_BATCH = 1024
WORDS_PER_BATCH = 2048


@dataclass
class Candidates:
    """A table of candidates with its images encoded.

    Per row, a product occurring once under a query: ``query`` [N] index, ``image`` [N] index, ``product`` [N]
    id. Per query, in order of appearance: ``query_ids``, ``tokens``. ``images`` are what the ``model`` makes
    of them, on ``device``.
    """

    query: np.ndarray
    image: np.ndarray
    product: np.ndarray
    query_ids: list[int]
    tokens: Ragged
    images: Any
    model: Ranker
    device: torch.device

    @property
    def wordless(self) -> int:
        """How many queries have no word left."""
        return int((self.tokens.lengths == 0).sum())

    @property
    def rows(self) -> Ragged:
        """The rows of each query."""
        return Ragged.group(self.query, len(self.query_ids))

    def batches(self, description: str) -> Iterator["CandidateBatch"]:
        """All rows whose query has a word left, those of a query together, under a progress bar."""
        rows, device = self.rows, self.device
        for queries in tqdm(list(_group_by_work(self.tokens, rows)), desc=description, disable=None):
            places = rows.take(queries)
            owner = np.repeat(np.arange(len(queries)), places.lengths)
            yield CandidateBatch(
                places.values,
                TokenBatch.from_ragged(self.tokens, queries).to(device),
                torch.from_numpy(owner).to(device),
                self.model.take_images(self.images, torch.from_numpy(self.image[places.values]).to(device)),
            )


class CandidateBatch(NamedTuple):
    """Queries with all their candidates.

    ``places`` [C]: rows of the candidates in the table's. ``owner`` [C]: which of the ``queries`` a candidate
    is for. ``images``: the C encoded images.
    """

    places: np.ndarray
    queries: TokenBatch
    owner: Tensor
    images: Any


def score_encoded(candidates: Candidates) -> Predictions:
    """Score candidates whose images are encoded; a query with no word left scores every one 0.

    The plain twin, which encodes query and image anew for each row, is
    :func:`benchmarks.reference.score_table`.
    """
    scores = np.zeros(len(candidates.query), np.float32)
    with torch.inference_mode():
        for batch in candidates.batches("score"):
            found = candidates.model.score_candidates(batch.queries, batch.owner, batch.images)
            scores[batch.places] = found.float().cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        query = candidates.query_ids[candidates.query[bad[0]]]
        raise UserError(
            f"query {query}: the model's score of product {candidates.product[bad[0]]} is not finite "
            f"(and {len(bad) - 1:,} more): take another checkpoint, or look at the row's features"
        )
    return _rank(candidates, scores)


def check_dimension(path: str | os.PathLike, found: int, expected: int) -> None:
    """See that a table's regions are of the model's dimension.

    Raises:
        UserError: they are not.
    """
    if found != expected:
        raise UserError(
            f"{path} has regions of {found} dimensions and the model takes {expected}: "
            "train the model on tables of the same kind"
        )


def encode_candidates(
    path: str | os.PathLike,
    model: Ranker,
    vocabulary: Vocabulary,
    region_dim: int,
    device: torch.device,
) -> Candidates:
    """Read a table and encode each of its images once, in batches of about equally many regions.

    Args:
        path: the table.
        model: in eval mode, on ``device``.
        vocabulary: of the model.
        region_dim: D of the model.
        device: where to compute.

    Raises:
        UserError: the table cannot be read, or its regions are not of the model's dimension.
    """
    queries: dict[int, int] = {}
    texts, encoded, pending = [], [], []
    images: dict[tuple[int, int], int] = {}
    rows: dict[tuple[int, int], tuple[int, int, int]] = {}

    def encode() -> None:
        with torch.inference_mode():
            encoded.append(model.encode_images(RegionBatch.from_images(pending).to(device)))
        pending.clear()

    regions = 0
    for row in Table(path).rows(f"score {Path(path).name}"):
        check_dimension(path, row.features.shape[1], region_dim)
        query = queries.setdefault(row.query_id, len(queries))
        if query == len(texts):
            texts.append(row.query)
        # A product may come with other pictures; each is scored as it stands.
        key = (row.product_id, row.checksum)
        is_new = key not in images
        image = images.setdefault(key, len(images))
        rows.setdefault((query, row.product_id), (query, image, row.product_id))
        if is_new:
            pending.append((row.features, scale_boxes(row.boxes, row.image_h, row.image_w)))
            regions += len(row.boxes)
            if regions >= REGIONS_PER_BATCH:
                encode()
                regions = 0
    if pending:
        encode()
    query, image, product = np.array(list(rows.values())).T
    tokens = Ragged.from_lists((model.read_query(vocabulary, text) for text in texts), np.int64)
    return Candidates(query, image, product, list(queries), tokens, model.join_images(encoded), model, device)


def _group_by_work(tokens: Ragged, rows: Ragged) -> Iterator[np.ndarray]:
    """Queries in groups of at most about 2,048 words times candidates, those of a length together."""
    worded = np.flatnonzero(tokens.lengths)
    order = worded[np.argsort(tokens.lengths[worded], kind="stable")]
    work = tokens.lengths[order] * rows.lengths[order]
    group = np.cumsum(work) // WORDS_PER_BATCH
    yield from np.split(order, np.flatnonzero(np.diff(group)) + 1) if len(order) else ()


def _rank(candidates: Candidates, scores: np.ndarray) -> Predictions:
    predictions, rows = {}, candidates.rows
    for i, query_id in enumerate(candidates.query_ids):
        places = rows[i]
        best = places[np.argsort(-scores[places], kind="stable")]
        predictions[str(query_id)] = list(
            zip(candidates.product[best].tolist(), scores[best].tolist(), strict=True)
        )
    return predictions
