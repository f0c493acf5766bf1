"""Scoring a table of candidates: each image and each query is encoded once."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from kddcup.errors import UserError
from kddcup.metrics import ndcg_per_query
from kddcup.predictions import Predictions, check_answered, ranking, read_answers
from kddcup.ragged import Ragged
from kddcup.regions import RegionBatch, scale_boxes
from kddcup.text import TokenBatch
from kddcup.tsv import Table

REGIONS_PER_BATCH = 1024
WORDS_PER_BATCH = 2048


class Scorer(Protocol):
    """A stage's module, as scoring uses it."""

    def encode_images(self, images: RegionBatch) -> Tensor:
        """The heads of B images that the stage's score needs, [B, heads, E]."""

    def score_candidates(self, queries: TokenBatch, owner: Tensor, heads: Tensor) -> Tensor:
        """Scores [C] of candidates with ``heads`` [C, heads, E] for their queries, ``owner`` [C]."""


@dataclass
class Candidates:
    """A table of candidates with its images encoded.

    Per row, a product occurring once under a query: ``query`` [N] index, ``image`` [N] index, ``product`` [N]
    id. Per query, in order of appearance: ``query_ids``, ``tokens``; ``heads`` [images, heads, E].
    """

    query: np.ndarray
    image: np.ndarray
    product: np.ndarray
    query_ids: list[int]
    tokens: Ragged
    heads: Tensor

    @property
    def rows(self) -> Ragged:
        """The rows of each query."""
        return Ragged.group(self.query, len(self.query_ids))

    def batches(self, description: str) -> Iterator["CandidateBatch"]:
        """All rows whose query has a word left, those of a query together, under a progress bar."""
        rows, device = self.rows, self.heads.device
        for queries in tqdm(list(_by_work(self.tokens, rows)), desc=description, disable=None):
            places = rows.take(queries)
            owner = np.repeat(np.arange(len(queries)), places.lengths)
            yield CandidateBatch(
                places.values,
                TokenBatch.from_ragged(self.tokens, queries).to(device),
                torch.from_numpy(owner).to(device),
                self.heads[torch.from_numpy(self.image[places.values]).to(device)],
            )


class CandidateBatch(NamedTuple):
    """Queries with all their candidates.

    ``places`` [C]: rows of the candidates in the table's. ``owner`` [C]: which of the ``queries`` a candidate
    is for. ``heads`` [C, heads, E].
    """

    places: np.ndarray
    queries: TokenBatch
    owner: Tensor
    heads: Tensor


def score_table(
    path: str | os.PathLike,
    scorer: Scorer,
    encode_text: Callable[[str], list[int]],
    region_dim: int,
    device: torch.device,
) -> Predictions:
    """Score all candidates of a table; arguments and errors as in :func:`encode_candidates`."""
    return score_encoded(encode_candidates(path, scorer, encode_text, region_dim, device), scorer)


def score_encoded(candidates: Candidates, scorer: Scorer) -> Predictions:
    """Score candidates whose images are encoded; a query with no word left scores every one 0."""
    scores = np.zeros(len(candidates.query), np.float32)
    with torch.inference_mode():
        for batch in candidates.batches("score"):
            found = scorer.score_candidates(batch.queries, batch.owner, batch.heads)
            scores[batch.places] = found.float().cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        query = candidates.query_ids[candidates.query[bad[0]]]
        raise UserError(
            f"query {query}: the model's score of product {candidates.product[bad[0]]} is not finite "
            f"(and {len(bad) - 1:,} more): take another checkpoint, or look at the row's features"
        )
    return _ranked(candidates, scores)


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
    scorer: Scorer,
    encode_text: Callable[[str], list[int]],
    region_dim: int,
    device: torch.device,
) -> Candidates:
    """Read a table and encode each of its images once, in batches of about equally many regions.

    Queries with no word left are counted and reported.

    Args:
        path: the table.
        scorer: the model, in eval mode, on ``device``.
        encode_text: a query's token ids.
        region_dim: D of the model.
        device: where to compute.

    Raises:
        UserError: the table cannot be read, or its regions are not of the model's dimension.
    """
    queries: dict[int, int] = {}
    texts, heads, pending = [], [], []
    images: dict[tuple[int, int], int] = {}
    rows: dict[tuple[int, int], tuple[int, int, int]] = {}

    def encode() -> None:
        with torch.inference_mode():
            heads.append(scorer.encode_images(RegionBatch.from_images(pending).to(device)))
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
    tokens = Ragged.from_lists(map(encode_text, texts), np.int64)
    wordless = int((tokens.lengths == 0).sum())
    if wordless:
        print(f"{path}: {wordless} queries have no word left; their candidates keep the table's order")
    return Candidates(query, image, product, list(queries), tokens, torch.cat(heads))


def _by_work(tokens: Ragged, rows: Ragged) -> Iterator[np.ndarray]:
    """Queries in groups of at most about 2,048 words times candidates, those of a length together."""
    worded = np.flatnonzero(tokens.lengths)
    order = worded[np.argsort(tokens.lengths[worded], kind="stable")]
    work = tokens.lengths[order] * rows.lengths[order]
    group = np.cumsum(work) // WORDS_PER_BATCH
    yield from np.split(order, np.flatnonzero(np.diff(group)) + 1) if len(order) else ()


def _ranked(candidates: Candidates, scores: np.ndarray) -> Predictions:
    predictions, rows = {}, candidates.rows
    for i, query_id in enumerate(candidates.query_ids):
        places = rows[i]
        best = places[np.argsort(-scores[places], kind="stable")]
        predictions[str(query_id)] = list(
            zip(candidates.product[best].tolist(), scores[best].tolist(), strict=True)
        )
    return predictions


@dataclass(frozen=True)
class Split:
    """A table of candidates and its answers, by the competition's names."""

    data_dir: Path
    name: str

    @property
    def table(self) -> Path:
        """``DATA/NAME/NAME.tsv``."""
        return self.data_dir / self.name / f"{self.name}.tsv"

    @property
    def answers(self) -> Path:
        """``DATA/NAME/NAME_answer.json``."""
        return self.data_dir / self.name / f"{self.name}_answer.json"

    def ndcg(self, predictions: Predictions) -> np.ndarray:
        """[queries] NDCG@5 of each query that has answers.

        Raises:
            UserError: the answers cannot be read, or name a query that the predictions lack.
        """
        answers = read_answers(self.answers)
        check_answered(predictions, answers, (self.table, self.answers))
        return ndcg_per_query(ranking(predictions), answers)
