"""What a search costs in a catalogue of made-up products, beside exhaustive scoring and the machine's limit.

    python -m benchmarks.search --products 10000 100000
    python -m benchmarks.search --products 1000000 --size small

Columns of words are made at a word's first use and then kept: both are timed, and the latter again with the
best 50 reranked by model1 and model2. Queries have 1 to 5 words, equally many of each.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jsonargparse.typing import PositiveInt
from tqdm import tqdm

from benchmarks.measure import describe_machine
from kddcup import stages
from kddcup.cli import parse_settings
from kddcup.config import SIZES, ModelConfig
from kddcup.data.batch import TokenBatch
from kddcup.io.atomic import atomic_folder
from kddcup.io.ragged import Ragged
from kddcup.search.columns import BLOCK_BYTES
from kddcup.search.index import IDS, Index, Manifest, Part
from kddcup.search.models import StageWordModel
from kddcup.search.searcher import RERANK, Searcher
from kddcup.search.segment import Product, SegmentWriter
from kddcup.search.settings import IndexSettings
from kddcup.search.threads import Threads
from kddcup.search.words import write_words
from kddcup.search.writing import IndexWriter
from kddcup.text.vocabulary import LEXICON, SPECIALS, Vocabulary
from kddcup.train.checkpoint import SAFETENSORS, RunConfig, write_checkpoint

WORDS = (1, 2, 3, 4, 5)
WRITTEN_AT_ONCE = 2000
SCORED_AT_ONCE = 1000
"""Products that the exhaustive scoring takes at a time."""


@dataclass
class SearchBenchSettings:
    """Settings of the measurement.

    Args:
        products: sizes of the catalogues, one after the other.
        size: of the models, full or small.
        queries: of each number of words.
        folder: where the catalogues are made, and removed; by default the system's folder of temporary files.
        seed: of products, models and queries.
    """

    products: list[PositiveInt] = field(default_factory=lambda: [10_000, 100_000])
    size: Literal["full", "small"] = "full"
    queries: PositiveInt = 20
    folder: str | None = None
    seed: int = 0


def write_index(folder: Path, products: int, size: str) -> None:
    """Write an index of made-up products, and of models of random parameters."""
    width = SIZES[size].lexicon_width
    config = ModelConfig(region_dim=64, width=width, ff=64)
    tokens = [*SPECIALS, *(f"w{word}" for word in range(config.vocabulary - len(SPECIALS)))]
    vocabulary = Vocabulary(LEXICON, tokens).to_dict()
    with IndexWriter(folder) as writer:
        models, segment = writer.name("models"), writer.name("segment")
        with atomic_folder(folder / models) as part:
            for name in ("model1", "model2"):
                stage = stages.find(name)
                carried = RunConfig(size, config, vocabulary)
                parts = stage.name_parts(stage.build(config))
                write_checkpoint(part / f"{name}{SAFETENSORS}", parts, carried)
            weights = {"model1": 0.5, "model2": 0.5}
            likeness = "model1"
            IndexSettings(
                tuple(weights), weights, "zscore", "model1", likeness, config.region_dim, None, {}
            ).write(part)
            write_words(part, {"w0": 1})
        with atomic_folder(folder / segment) as part:
            writing = SegmentWriter(part, folder)
            for start in tqdm(range(0, products, WRITTEN_AT_ONCE), desc="write", disable=None):
                _add_products(writing, range(start, min(start + WRITTEN_AT_ONCE, products)), config)
            writing.finish()
        writer.replace(Manifest(models, (Part(segment),)))


def _add_products(writing: SegmentWriter, numbers: range, config: ModelConfig) -> None:
    count = len(numbers)
    shapes = {
        "model1.caption_head": (config.width,),
        "model1.label_heads": (config.label_heads, config.width),
        "model1.weighing": (512,),
        "model2.images": (config.width,),
    }
    encoded = {name: torch.randn(count, *shape).half().numpy() for name, shape in shapes.items()}
    products = [Product(number, str(number), "", "", 1, 1, ()) for number in numbers]
    regions = Ragged(np.ones((count, 5), np.float32), np.arange(count + 1))
    writing.add(products, regions, [""] * count, {IDS: np.array(numbers, np.int64), **encoded})


def draw_queries(rng: np.random.Generator, count: int) -> list[str]:
    """Draw queries of 1 to 5 words, each number ``count`` times; no word comes twice in all."""
    lengths = np.tile(WORDS, count)
    words = iter(rng.permutation(20_000)[: lengths.sum()].tolist())
    return [" ".join(f"w{next(words)}" for _ in range(length)) for length in lengths.tolist()]


@contextlib.contextmanager
def open_searcher(folder: Path, memory: int, rerank: int) -> Iterator[Searcher]:
    """Open an index for searches."""
    index = Index.open(folder)
    yield Searcher(index, rerank=rerank, memory=memory)
    index.close()


def time_each(work: Callable[[str], object], queries: list[str]) -> np.ndarray:
    """Time the work on each query: milliseconds on the clock and of the processors, [queries, 2]."""
    times = []
    for query in queries:
        start = time.perf_counter(), time.process_time()
        work(query)
        times.append((1000 * (time.perf_counter() - start[0]), 1000 * (time.process_time() - start[1])))
    return np.array(times)


def describe(times: np.ndarray) -> str:
    """The median of all, the 95th percentile, the medians by number of words, and the processors time."""
    clock, busy = times.T
    of_words = " ".join(f"{np.median(clock[place :: len(WORDS)]):.0f}" for place in range(len(WORDS)))
    half, most = np.percentile(clock, [50, 95])
    return (
        f"{half:6.1f} ms, 95 % below {most:6.1f} ms; medians of 1 to 5 words {of_words}; "
        f"processors {np.median(busy):.0f} ms"
    )


def read_bytes(index: Index, array: str) -> float:
    """Time reading an array as it is, by as many threads: milliseconds."""
    threads = Threads()
    start = time.perf_counter()
    for segment in index.segments:
        numbers = torch.from_numpy(segment.arrays[array]).flatten().view(torch.int64)
        block = BLOCK_BYTES // 8

        def prepare(numbers: torch.Tensor = numbers, block: int = block) -> Callable[[int, int], None]:
            copy = torch.empty(block, dtype=torch.int64)

            def work(first: int, last: int) -> None:
                copy[: last - first].copy_(numbers[first:last])

            return work

        threads.run(prepare, len(numbers), block)
    return 1000 * (time.perf_counter() - start)


@torch.inference_mode()
def score_all(index: Index, model: StageWordModel, text: str) -> np.ndarray:
    """Score every product by the model as training does, in float32: [N]."""
    tokens = model.model.read_query(model.vocabulary, text)
    queries = TokenBatch.from_ragged(Ragged.from_lists([tokens], np.int64), np.array([0]))
    words, found = model.model.query(queries), []
    for start in range(0, len(index), SCORED_AT_ONCE):
        rows = np.arange(start, min(start + SCORED_AT_ONCE, len(index)))
        parts = [index.take(model.similar, rows)[:, None], index.take(model.heads, rows)]
        heads = torch.from_numpy(np.concatenate(parts, 1)).float()
        found.append(model.model.score.cross(words, queries.lengths, heads)[0].numpy())
    return np.concatenate(found)


def read_own_memory() -> float:
    """The megabytes of this process that are no mapped files."""
    status = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1000


def measure(folder: Path, settings: SearchBenchSettings) -> None:
    """Measure searches in an index and print what they take."""
    queries = draw_queries(np.random.default_rng(settings.seed), settings.queries)
    with open_searcher(folder, 10**10, 0) as searcher:
        index = searcher.index
        size = sum(array.nbytes for segment in index.segments for array in segment.arrays.values())
        print(f"{len(index):,} products, {settings.size} size, {size / len(index) / 1e3:.1f} kB each")
        idle = read_own_memory()
        read = min(read_bytes(index, searcher.first.heads) for _ in range(3))
        print(f"  reading the label heads      {read:6.1f} ms")
        searcher.search("w20001 w20002")  # what is made once
        print(f"  first use of the words       {describe(time_each(searcher.search, queries))}")
        print(f"  words used before            {describe(time_each(searcher.search, queries))}")
        shares = np.array([searcher.search(query).looked_at for query in queries]) / len(index)
        of_words = ", ".join(f"{100 * shares[place :: len(WORDS)].mean():.2f}" for place in range(len(WORDS)))
        print(f"  products weighed             {of_words} % at 1 to 5 words")
        more, columns = read_own_memory() - idle, searcher.columns.nbytes / 1e6
        print(f"  memory                       {more:.0f} MB more, of which {columns:.0f} MB are columns")
        scored = time_each(lambda query: score_all(index, searcher.first, query), queries[: len(WORDS)])
        print(f"  exhaustive, by PyTorch       {describe(scored)}")
    with open_searcher(folder, 10**10, RERANK) as searcher:
        for query in queries:
            searcher.search(query)
        print(f"  words used before, reranked  {describe(time_each(searcher.search, queries))}")


def main() -> None:
    """Measure and print."""
    settings = parse_settings(SearchBenchSettings, __doc__)
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    print(describe_machine())
    for products in settings.products:
        with tempfile.TemporaryDirectory(dir=settings.folder) as folder:
            write_index(Path(folder), products, settings.size)
            measure(Path(folder), settings)


if __name__ == "__main__":
    main()
