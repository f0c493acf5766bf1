"""Batches of training rows, gathered from the store and prefetched while the step runs."""

import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import wait

import numpy as np
import torch
from prefetch_generator import BackgroundGenerator
from torch.utils.data import DataLoader, Dataset

from kddcup.config import SIZES, TrainSettings
from kddcup.data.batch import Batch, TokenBatch
from kddcup.data.corpus import Corpus
from kddcup.data.sampling import NegativeSampler
from kddcup.data.store import RegionStore
from kddcup.io.errors import UserError, explain_error
from kddcup.io.ragged import Ragged

PREFETCHED = 2
"""How many batches are ready while a step runs."""
DEATH_SECONDS = 5.0
"""How long to wait for a process to be dead whose connections have failed."""


def find_rows_with_words(corpus: Corpus, tokens: Ragged) -> np.ndarray:
    """Find the training rows whose query has words in ``tokens``."""
    return np.flatnonzero(tokens.lengths[corpus.row_query])


def fit_batch_size(batch_size: int, rows: int, ranks: int, size: str) -> int:
    """Lower a batch size to what a table's rows fill, at a size that allows it.

    Args:
        batch_size: rows per process, as a recipe has it.
        rows: training rows with words.
        ranks: processes.
        size: of the models.
    """
    return max(1, min(batch_size, rows // ranks)) if SIZES[size].fits_batch else batch_size


def check_batch_size(batch_size: int, rows: int, ranks: int, data_dir: str) -> None:
    """See that a table's rows fill one batch.

    Raises:
        UserError: they do not.
    """
    if rows < batch_size * ranks:
        raise UserError(
            f"{data_dir}: {rows} training rows with words do not fill one batch of {batch_size} "
            f"in each of {ranks} processes: train in fewer processes, or on more rows, or lower --batch_size"
        )


class TrainLoader:
    """Batches of the training rows whose query has words.

    Every epoch has an order of its own. Of each global batch of ranks · batch_size rows, a rank takes its
    consecutive share; what does not fill a global batch is dropped.

    Args:
        corpus: rows and queries.
        store: regions of the products.
        tokens: token ids of the queries; a row is left out where they are none.
        settings: batch_size, seed and workers.
        rank: of this process.
        ranks: how many processes there are.
        sampler: draws negatives, if the stage wants them; a query then occurs once in a batch (later rows
            of it are dropped).
        accumulate: micro-batches that a batch is read in.

    Raises:
        UserError: the rows do not fill one global batch, or a product has no regions.
    """

    def __init__(
        self,
        corpus: Corpus,
        store: RegionStore,
        tokens: Ragged,
        settings: TrainSettings,
        rank: int,
        ranks: int,
        sampler: NegativeSampler | None = None,
        accumulate: int = 1,
    ) -> None:
        self._accumulate = accumulate
        self._corpus, self._store, self._tokens, self._sampler = corpus, store, tokens, sampler
        self._settings, self._rank, self._ranks = settings, rank, ranks
        self._rows = find_rows_with_words(corpus, tokens)
        self._row_image = store.positions(corpus.row_product)
        check_batch_size(settings.batch_size, len(self._rows), ranks, settings.data_dir)

    def __len__(self) -> int:
        """Batches per epoch and rank."""
        return len(self._rows) // (self._settings.batch_size * self._ranks)

    def rows(self, epoch: int) -> np.ndarray:
        """[len(self), batch_size] this rank's rows of the table, by batch."""
        order = np.random.default_rng([self._settings.seed, epoch]).permutation(self._rows)
        shape = (len(self), self._ranks, self._settings.batch_size)
        return order[: np.prod(shape)].reshape(shape)[:, self._rank]

    def epoch(self, epoch: int, device: torch.device, first: int = 0) -> Iterator[list[Batch]]:
        """This rank's batches of an epoch from the batch ``first`` on, as micro-batches on ``device``."""
        pin = device.type == "cuda"
        for parts in BackgroundGenerator(self._read(epoch, first, pin), max_prefetch=PREFETCHED):
            yield [part.to(device) for part in parts]

    def _read(self, epoch: int, first: int, pin: bool) -> Iterator[list[Batch]]:
        """Read batches on the CPU, page-locked where ``pin``; runs in the thread that prefetches.

        It also pins: a thread of the DataLoader's own that does would hide how a worker ended. And only where
        a DataLoader starts in the main thread does it have the death of a worker raise an error wherever that
        thread happens to be.
        """
        workers = self._settings.workers
        others = set(multiprocessing.active_children())
        batches = iter(
            DataLoader(
                _Epoch(self, epoch, first),
                batch_size=None,
                shuffle=False,
                num_workers=workers,
                prefetch_factor=PREFETCHED if workers else None,
                generator=torch.Generator(),  # of its own: the global one is dropout's, and is resumed
            )
        )
        readers = [child.sentinel for child in set(multiprocessing.active_children()) - others]
        try:
            for parts in batches:
                yield [part.pin_memory() for part in parts] if pin else parts
        except (RuntimeError, OSError, EOFError) as error:
            # PyTorch may see a connection fail before the process counts as dead.
            if not readers or not wait(readers, DEATH_SECONDS):
                raise
            raise UserError(
                f"a process that reads batches was killed ({explain_error(error)}), perhaps for want of "
                "memory: go on with '--resume' and fewer --workers"
            ) from None

    def batch(self, rows: np.ndarray, epoch: int) -> list[Batch]:
        """The batch of these rows of the table as micro-batches of about equally many rows, on the CPU."""
        if self._sampler:
            rows = rows[np.sort(np.unique(self._corpus.row_query[rows], return_index=True)[1])]
        parts = np.array_split(rows, min(self._accumulate, len(rows)))
        return [self._micro_batch(part, epoch) for part in parts]

    def _micro_batch(self, rows: np.ndarray, epoch: int) -> Batch:
        queries, products = self._corpus.row_query[rows], self._corpus.row_product[rows]
        batch = Batch(self._read_queries(queries), self._store.gather(self._row_image[rows]), products)
        if self._sampler:
            queries, negatives = self._sampler.draw(rows, epoch)
            batch.negative_queries = self._read_queries(queries)
            batch.negative_images = self._store.gather(self._store.positions(negatives))
            batch.products = np.concatenate([products, negatives])
        return batch

    def _read_queries(self, queries: np.ndarray) -> TokenBatch:
        return TokenBatch.from_ragged(self._tokens, queries)


class _Epoch(Dataset):
    """Item i is batch ``first`` + i of an epoch."""

    def __init__(self, loader: TrainLoader, epoch: int, first: int) -> None:
        self._loader, self._epoch = loader, epoch
        self._rows = loader.rows(epoch)[first:]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> list[Batch]:
        if i >= len(self):
            raise IndexError(i)
        return self._loader.batch(self._rows[i], self._epoch)
