"""What stage 1 and the loader keep in memory at the competition's number of rows. Example:

    python -m benchmarks.scale --rows 3000000 --queries 1350000

The features are narrow: what is kept grows with rows, queries and products, of which each row has one of its
own here, and not with the features' width, which ``tests/test_preprocess.py`` holds.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jsonargparse.typing import PositiveInt
from torch.multiprocessing import active_children
from tqdm import tqdm

from benchmarks import inputs
from kddcup.cli import parse_settings
from kddcup.config import TrainSettings
from kddcup.data.corpus import open_info
from kddcup.data.loader import TrainLoader
from kddcup.data.sampling import NegativeSampler
from kddcup.data.store import RegionStore
from kddcup.table.rows import COLUMNS, encode_base64
from model1.train import NEGATIVES, STAGE

ROOT = Path(__file__).resolve().parent.parent
DIM = 8
PICTURES = 1000
"""Different pictures; products share them."""
WORDS = 60_000
BATCHES = 200


@dataclass
class ScaleSettings:
    """Settings of the measurement.

    Args:
        rows: of the table, a product each; 30,000 at least, so that there are batches enough to read.
        queries: of the table.
        workers: processes that read batches.
    """

    rows: PositiveInt = 3_000_000
    queries: PositiveInt = 1_350_000
    workers: PositiveInt = 2


def write_table(path: Path, settings: ScaleSettings) -> None:
    """Write a table of so many rows, whose words are as unequally frequent as those of a language."""
    rng = np.random.default_rng(0)
    pictures = []
    for count in inputs.draw_region_counts(rng, PICTURES).tolist():
        boxes, features = inputs.draw_boxes(rng, count), inputs.draw_features(rng, count, DIM)
        arrays = (boxes, features, rng.integers(0, 33, count))
        pictures.append("\t".join(["800", "800", str(count), *map(encode_base64, arrays)]))
    lengths = inputs.draw_word_counts(rng, settings.queries).tolist()
    texts = []
    for length in tqdm(lengths, desc="queries", disable=None):
        ranks = np.exp(rng.random(length) * np.log(WORDS)).astype(int)  # Zipf's law
        texts.append(" ".join(f"w{rank}" for rank in ranks.tolist()))
    query_of_row = rng.integers(0, settings.queries, settings.rows)
    query_of_row[: settings.queries] = np.arange(settings.queries)[: settings.rows]
    path.parent.mkdir(parents=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write("\t".join(COLUMNS) + "\n")
        for row, query in enumerate(tqdm(query_of_row.tolist(), desc="rows", disable=None)):
            file.write(f"{row}\t{pictures[row % PICTURES]}\t{texts[query]}\t{query}\n")


def read_private_memory() -> list[int]:
    """Read the bytes that each child process has for itself: pages that it alone has written to."""
    found = []
    for child in active_children():
        lines = Path(f"/proc/{child.pid}/smaps_rollup").read_text().splitlines()
        found.append(sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) * 1024)
    return found


def preprocess(data: Path) -> tuple[float, int]:
    """Run stage 1: its seconds, and the most bytes that it had resident."""
    flags = ["--data_dir", str(data), "--size", "small", "--tokenizer", "lexicon"]
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "preprocess.py", *flags], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def read_batches(data: Path, workers: int) -> tuple[float, list[int]]:
    """Read batches of model1: seconds for each, and the bytes that each worker has for itself."""
    flags = ["--data_dir", str(data), "--workers", str(workers)]
    settings = parse_settings(TrainSettings, None, STAGE.recipes, lambda _: "full", flags)
    corpus = open_info(data).corpus
    sampler = NegativeSampler(corpus, NEGATIVES, settings.seed)
    loader = TrainLoader(corpus, RegionStore(data / "features"), corpus.tokens, settings, 0, 1, sampler)
    batches = loader.epoch(0, torch.device("cpu"))
    next(batches)
    start = time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    return (time.perf_counter() - start) / BATCHES, read_private_memory()


def main() -> None:
    """Measure and print."""
    settings = parse_settings(ScaleSettings, __doc__)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_table(data / "train" / "train.tsv", settings)
        seconds, peak = preprocess(data)
        print(f"stage 1: {seconds:.0f} s, at most {peak / 1e9:.2f} GB resident")
        each, private = read_batches(data, settings.workers)
        megabytes = ", ".join(f"{size / 1e6:.0f}" for size in private)
        print(f"batches of model1: {1000 * each:.1f} ms each; the workers have {megabytes} MB for themselves")


if __name__ == "__main__":
    main()
