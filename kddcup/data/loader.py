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
from kddcup.data.perturbation import Perturbation
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


def count_examples(corpus: Corpus, tokens: Ragged, by_product: bool) -> int:
    """Count what an epoch goes through: the rows with words, or their products."""
    rows = find_rows_with_words(corpus, tokens)
    return len(np.unique(corpus.row_product[rows])) if by_product else len(rows)


def fit_batch_size(batch_size: int, rows: int, ranks: int, size: str) -> int:
    """Find the rows per process: at a size that fits its batches a share of them, and of what a table fills.

    Args:
        batch_size: as the settings have it.
        rows: that an epoch goes through.
        ranks: processes.
        size: of the models.
    """
    return max(1, min(batch_size, rows) // ranks) if SIZES[size].fits_batch else batch_size


def check_batch_size(batch_size: int, rows: int, ranks: int, data_dir: str, by_product: bool = False) -> None:
    """See that a table's rows, or products, fill one batch.

    Raises:
        UserError: they do not.
    """
    if rows < batch_size * ranks:
        examples = "products" if by_product else "rows"
        raise UserError(
            f"{data_dir}: {rows} training {examples} with words do not fill one batch of {batch_size} in "
            f"each of {ranks} processes: train in fewer processes, on more {examples}, or lower --batch_size"
        )


class TrainLoader:
    """Batches of the training rows whose query has words.

    Every epoch has an order of its own. Of each global batch of ranks · batch_size rows, a rank takes its
    consecutive share; what does not fill a global batch is dropped. A table of fewer than ``epoch_steps``
    batches is swept several times in an epoch; draws depend on the seed, the sweep and the row alone.

    Args:
        corpus: rows and queries.
        store: regions of the products.
        tokens: token ids of the queries; a row is left out where they are none.
        settings: batch_size, epoch_steps, seed and workers.
        rank: of this process.
        ranks: how many processes there are.
        sampler: draws negatives, if the stage wants them; a query then occurs once in a batch (later rows
            of it are dropped).
        accumulate: micro-batches that a batch is read in.
        by_product: a sweep takes one row of each product, drawn, instead of all rows; the batch has the words
            of all the product's queries as labels.
        perturb: changes the images of a batch; by default they are as they are.

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
        by_product: bool = False,
        perturb: Perturbation | None = None,
    ) -> None:
        self._accumulate, self._perturb = accumulate, perturb
        self._corpus, self._store, self._tokens, self._sampler = corpus, store, tokens, sampler
        self._settings, self._rank, self._ranks = settings, rank, ranks
        self._rows = find_rows_with_words(corpus, tokens)
        self._row_image = store.positions(corpus.row_product)
        self._labels = self._by_product = None
        if by_product:
            images = self._row_image[self._rows]
            found = Ragged.group(images, len(store))
            self._by_product = found.take(np.flatnonzero(found.lengths))
            owners = np.repeat(images, tokens.lengths[corpus.row_query[self._rows]])
            words = tokens.take(corpus.row_query[self._rows]).values
            self._labels = Ragged.collect(owners, words, len(store))
        examples = len(self._by_product) if by_product else len(self._rows)
        check_batch_size(settings.batch_size, examples, ranks, settings.data_dir, by_product)
        self._sweep_steps = examples // (settings.batch_size * ranks)
        self._sweeps = max(1, -(-settings.epoch_steps // self._sweep_steps))

    def __len__(self) -> int:
        """Batches per epoch and rank."""
        return self._sweeps * self._sweep_steps

    def rows(self, epoch: int) -> np.ndarray:
        """[len(self), batch_size] this rank's rows of the table, by batch."""
        first = epoch * self._sweeps
        return np.concatenate([self._draw(first + i) for i in range(self._sweeps)])

    def find_sweep(self, epoch: int, step: int) -> int:
        """Find which sweep over the table, counted from 0, a step of an epoch belongs to."""
        return epoch * self._sweeps + step // self._sweep_steps

    def _draw(self, sweep: int) -> np.ndarray:
        rng = np.random.default_rng([self._settings.seed, sweep])
        rows = self._rows
        if self._by_product is not None:
            chosen = rng.integers(self._by_product.lengths)
            rows = rows[self._by_product.values[self._by_product.offsets[:-1] + chosen]]
        shape = (self._sweep_steps, self._ranks, self._settings.batch_size)
        return rng.permutation(rows)[: np.prod(shape)].reshape(shape)[:, self._rank]

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

    def batch(self, rows: np.ndarray, sweep: int) -> list[Batch]:
        """The batch of these rows of the table as micro-batches of about equally many rows, on the CPU."""
        if self._sampler:
            rows = rows[np.sort(np.unique(self._corpus.row_query[rows], return_index=True)[1])]
        parts = np.array_split(rows, min(self._accumulate, len(rows)))
        return [self._micro_batch(part, sweep) for part in parts]

    def _micro_batch(self, rows: np.ndarray, sweep: int) -> Batch:
        queries, products = self._corpus.row_query[rows], self._corpus.row_product[rows]
        images = self._store.gather(self._row_image[rows])
        if self._perturb is not None:
            images = self._perturb(images, rows, sweep)
        batch = Batch(self._read_queries(queries), images, products)
        if self._labels is not None:
            batch.labels = TokenBatch.from_ragged(self._labels, self._row_image[rows])
        if self._sampler:
            queries, negatives = self._sampler.draw(rows, sweep)
            batch.negative_queries = self._read_queries(queries)
            batch.negative_images = self._store.gather(self._store.positions(negatives))
            batch.products = np.concatenate([products, negatives])
            if self._sampler.matches:
                found = self._sampler.matches.find(self._corpus.row_query[rows], products)
                batch.matches = torch.from_numpy(found)
        return batch

    def _read_queries(self, queries: np.ndarray) -> TokenBatch:
        return TokenBatch.from_ragged(self._tokens, queries)


class _Epoch(Dataset):
    """Item i is batch ``first`` + i of an epoch."""

    def __init__(self, loader: TrainLoader, epoch: int, first: int) -> None:
        self._loader, self._epoch, self._first = loader, epoch, first
        self._rows = loader.rows(epoch)

    def __len__(self) -> int:
        return len(self._rows) - self._first

    def __getitem__(self, i: int) -> list[Batch]:
        if i >= len(self):
            raise IndexError(i)
        step = self._first + i
        return self._loader.batch(self._rows[step], self._loader.find_sweep(self._epoch, step))
