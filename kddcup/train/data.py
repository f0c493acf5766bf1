"""What a stage trains on, and the valid table that every epoch is scored on."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import xxhash

from kddcup.config import SIZES, ModelConfig, TrainSettings
from kddcup.data.corpus import Corpus, open_info, read_size
from kddcup.data.loader import count_examples, fit_batch_size
from kddcup.data.store import RegionStore
from kddcup.io.errors import UserError
from kddcup.io.folders import read_marker
from kddcup.io.ragged import Ragged
from kddcup.nn.ranker import Ranker
from kddcup.rank.predictions import check_answered, read_answers
from kddcup.rank.scoring import check_dimension, encode_candidates, score_encoded
from kddcup.rank.split import Split
from kddcup.table.extractor import Extractor, check_same_extractor, read_extractor
from kddcup.table.table import Table
from kddcup.text.vocabulary import Vocabulary, WordVectors
from kddcup.train.checkpoint import RunConfig
from kddcup.train.processes import Process

Settings = TypeVar("Settings", bound=TrainSettings)


@dataclass
class TrainingData:
    """What stage 1 wrote, and the valid table."""

    corpus: Corpus
    vocabulary: Vocabulary
    words: WordVectors
    store: RegionStore
    valid: Split
    valid_queries: list[str]
    extractor: Extractor | None

    @classmethod
    def open(cls, data_dir: str) -> "TrainingData":
        """Open all of it before the first step.

        Raises:
            UserError: stage 1 has not been run, or on features of another extractor, or the valid table or
                its answers are absent or do not fit.
        """
        folder = Path(data_dir)
        info, store, valid = open_info(data_dir), RegionStore(folder / "features"), Split(folder, "valid")
        if not np.array_equal(np.unique(info.corpus.row_product), np.sort(store.product_ids)):
            raise UserError(
                f"{folder / 'info'} and {folder / 'features'} are of different tables: "
                f"make both with 'python preprocess.py --data_dir {data_dir} --force'"
            )
        extractor = read_extractor(folder / "info")
        check_same_extractor(
            extractor,
            str(folder / "info"),
            read_extractor(folder),
            data_dir,
            f"run 'python preprocess.py --data_dir {data_dir} --force'",
        )
        texts = _check_valid(valid, store.dim)
        return cls(info.corpus, info.vocabulary, info.words, store, valid, texts, extractor)

    def configure(self, settings: TrainSettings, size: str, feature_length: float) -> RunConfig:
        """What the checkpoints of a run on these data say of it.

        Args:
            settings: of the run.
            size: of the model.
            feature_length: as in :class:`ModelConfig`; of matchers, that of their encoder.
        """
        vocabulary, width = self.words.vectors.shape
        model = ModelConfig(
            region_dim=self.store.dim,
            width=width,
            vocabulary=vocabulary,
            ff=SIZES[size].ff,
            dropout=settings.dropout,
            start=self.vocabulary.start,
            end=self.vocabulary.end,
            feature_length=feature_length,
        )
        return RunConfig(
            size, model, self.vocabulary.to_dict(), asdict(settings), self.digest(), self.extractor
        )

    def fit_batch(
        self, settings: Settings, tokens: Ragged, process: Process, by_product: bool = False
    ) -> Settings:
        """Lower the batch size where the table's rows do not fill a batch, at a size that allows it; says so.

        Args:
            settings: of the run.
            tokens: token ids of the queries that the stage reads.
            process: gives the ranks.
            by_product: whether an epoch goes through products instead of rows.
        """
        rows = count_examples(self.corpus, tokens, by_product)
        size = read_size(settings.data_dir)
        batch_size = fit_batch_size(settings.batch_size, rows, process.ranks, size)
        if batch_size * process.ranks < settings.batch_size:
            process.say(
                f"{settings.data_dir} has {rows} training {'products' if by_product else 'rows'} with words: "
                f"--batch_size is {batch_size * process.ranks}, not {settings.batch_size}"
            )
        return replace(settings, batch_size=batch_size)

    def count(self, model: Ranker) -> dict[str, int]:
        """How much there is to train on, and how many valid queries have no word that the model reads."""
        wordless = [text for text in self.valid_queries if not model.read_query(self.vocabulary, text)]
        return {
            "rows": len(self.corpus.row_query),
            "queries": len(self.corpus.query_ids),
            "products": len(self.store.product_ids),
            "valid queries without words": len(wordless),
        }

    def digest(self) -> str:
        """A hash that changes with any byte of what stage 1 wrote."""
        folders = (self.valid.data_dir / name for name in ("features", "info"))
        sums = [read_marker(folder, "python preprocess.py --data_dir DATA")["files"] for folder in folders]
        return xxhash.xxh3_64_hexdigest(json.dumps(sums, sort_keys=True).encode())

    def score_valid(self, model: Ranker, device: torch.device) -> float:
        """NDCG@5 of a model in eval mode on the valid table."""
        candidates = encode_candidates(self.valid.table, model, self.vocabulary, self.store.dim, device)
        return float(self.valid.ndcg(score_encoded(candidates)).mean())


def _check_valid(valid: Split, region_dim: int) -> list[str]:
    """See before the first epoch that the valid table can be scored after it; gives its queries."""
    texts: dict[int, str] = {}
    candidates: dict[str, list[tuple[int, float]]] = {}
    for row in Table(valid.table).rows("check valid"):
        check_dimension(valid.table, row.features.shape[1], region_dim)
        texts.setdefault(row.query_id, row.query)
        candidates.setdefault(str(row.query_id), []).append((row.product_id, 0.0))
    check_answered(candidates, read_answers(valid.answers), (valid.table, valid.answers))
    return list(texts.values())
