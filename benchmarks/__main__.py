"""What this project costs, beside a straightforward reference and the machine's own limit.

Both sides of a row work in processes of their own, in turn, so that they meet the same noise; the best run of
each counts. Peaks are of memory that is the processes' own, mapped files aside. Example:

    python -m benchmarks --out benchmarks/results.json
"""

import contextlib
import datetime
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jsonargparse.typing import PositiveInt
from tqdm import tqdm

from benchmarks import arithmetic, inputs, works
from benchmarks.measure import Job, Measured, Side, copy_seconds, machine, matrix_product_rate
from kddcup.cli import parse_settings
from kddcup.config import ModelConfig
from kddcup.data.batch import RegionBatch, TokenBatch, scale_boxes
from kddcup.io.files import write_json
from kddcup.io.ragged import Ragged
from kddcup.table.table import Table

TABLE_ROWS, SCORED_ROWS = 12_000, 900
SCALES = (1, 2, 4, 8, 16)
SCALED_TABLE_ROWS, SCALED_SCORED_ROWS = 1500, 120
BATCH_IMAGES, BATCHES = 260, 20
MEGABYTE = 1e6
Limit = Callable[[], float]
"""The share of the machine's own limit that a run's seconds come to, as seconds at that limit."""


@dataclass
class BenchSettings:
    """Settings of the benchmarks.

    Args:
        out: where the tables go as JSON.
        repeats: runs of each side, of which the best counts.
    """

    out: str = "benchmarks/results.json"
    repeats: PositiveInt = 3


@dataclass
class Row:
    """A line of the first table: seconds, peak megabytes, the ratio wanted, the share of the limit."""

    work: str
    seconds: float
    reference_seconds: float
    ratio: float
    goal: float | None
    peak_mb: float
    reference_peak_mb: float
    limit_share: float | None


@dataclass
class Growth:
    """A line of the second table."""

    work: str
    scale: int
    rows: int
    seconds: float
    peak_mb: float


def compare(
    work: str,
    goal: float | None,
    ours: Callable[[], Job],
    plain: Callable[[], Job],
    repeats: int,
    limit: Limit | None = None,
) -> Row:
    """Measure both sides in turn, and see that they come to the same.

    Args:
        work: name of the row.
        goal: the ratio wanted.
        ours: makes this project's job.
        plain: makes the reference's.
        repeats: runs of each.
        limit: seconds that the machine's own limit needs for the work; asked after every run, and the best
            counts.
    """
    found: list[Measured] = []
    expected: list[Measured] = []
    limits: list[float] = []
    with contextlib.closing(Side(ours)) as side, contextlib.closing(Side(plain)) as other:
        for _ in tqdm(range(repeats), desc=work, disable=None):
            found.append(side.run())
            expected.append(other.run())
            if limit:
                limits.append(limit())
        np.testing.assert_allclose(side.result(), other.result(), rtol=1e-3, atol=1e-4, err_msg=work)
    seconds, reference_seconds = (min(one.seconds for one in runs) for runs in (found, expected))
    peak, reference_peak = (max(one.peak for one in runs) / MEGABYTE for runs in (found, expected))
    share = min(limits) / seconds if limit else None
    return Row(
        work, seconds, reference_seconds, reference_seconds / seconds, goal, peak, reference_peak, share
    )


def at_matrix_rate(operations: int) -> Limit:
    """Seconds for so many operations at the rate of matrix products."""
    return lambda: operations / matrix_product_rate()


def rows(folder: Path, repeats: int) -> Iterator[Row]:
    """The first table."""
    config = ModelConfig()
    table, plain = folder / "train.tsv", folder / "plain"
    inputs.write_table(table, TABLE_ROWS, config.region_dim)
    for workers, goal in ((1, 12), (2, 20)):
        store = folder / f"store{workers}"

        def copying(store: Path = store) -> float:
            return copy_seconds(table, sum(path.stat().st_size for path in store.iterdir()))

        yield compare(
            f"preprocess, {workers} process{'es' * (workers > 1)}",
            goal,
            partial(works.preprocess, table, store, workers),
            partial(works.plain_preprocess, table, plain),
            repeats,
            copying,
        )
    yield compare(
        f"read {BATCHES} batches of {BATCH_IMAGES} images",
        20,
        partial(works.read_batches, folder / "store1", BATCHES, BATCH_IMAGES),
        partial(works.plain_read_batches, folder / "store1", plain, BATCHES, BATCH_IMAGES),
        repeats,
    )
    for stage, size, goal in (
        ("multilabel", 32, 2),
        ("multilabel", 200, 3),
        ("model1", 32, 4),
        ("model1", 130, 6),
        ("model2", 32, 3),
        ("model2", 150, None),
    ):
        batch = inputs.batch(config, size, negatives=stage != "multilabel")
        operations = getattr(arithmetic, f"{stage}_step")(config, batch)
        yield compare(
            f"{stage} step, batch {size} ({operations / 1e9:.0f} GFLOP)",
            goal,
            partial(works.train_step, stage, size, False),
            partial(works.train_step, stage, size, True),
            repeats,
            at_matrix_rate(operations),
        )
    scored = folder / "valid.tsv"
    inputs.write_table(scored, SCORED_ROWS, config.region_dim)
    images, queries, pair_words = contents(scored)
    for stage, goal in (("model1", 7), ("model2", 4)):
        operations = getattr(arithmetic, f"{stage}_scores")(config, images, queries, pair_words)
        yield compare(
            f"{stage} scores {SCORED_ROWS} rows ({operations / 1e9:.0f} GFLOP)",
            goal,
            partial(works.score, stage, scored, False),
            partial(works.score, stage, scored, True),
            repeats,
            at_matrix_rate(operations),
        )
    yield compare(
        "blend, 100 weights, 496 queries",
        50,
        partial(works.blend, False),
        partial(works.blend, True),
        repeats,
    )


def contents(table: Path) -> tuple[RegionBatch, TokenBatch, int]:
    """A table's distinct images and queries, and its words over all rows."""
    images, texts, words = {}, {}, 0
    for row in Table(table).rows("count"):
        images[row.product_id] = (row.features, scale_boxes(row.boxes, row.image_h, row.image_w))
        texts[row.query_id] = inputs.encode_text(row.query)
        words += len(texts[row.query_id])
    tokens = Ragged.from_lists(texts.values(), np.int64)
    queries = TokenBatch.from_ragged(tokens, np.arange(len(texts)))
    return RegionBatch.from_images(images.values()), queries, words


def processes() -> dict[str, float]:
    """Samples per second of model1's training with one process and with two, and their ratio."""
    found = {}
    for count in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        done = subprocess.run(
            [*command, "-m", "benchmarks.throughput"], capture_output=True, text=True, check=True
        )
        told = json.loads(done.stdout.splitlines()[-1])
        found[f"{count}"] = told["rows"] / told["seconds"]
    return {"one": found["1"], "two": found["2"], "ratio": found["2"] / found["1"]}


def growths(folder: Path) -> Iterator[Growth]:
    """The second table."""
    dim = ModelConfig().region_dim
    for scale in SCALES:
        table, store, scored = folder / "grow.tsv", folder / "grow", folder / "grow-valid.tsv"
        inputs.write_table(table, scale * SCALED_TABLE_ROWS, dim)
        inputs.write_table(scored, scale * SCALED_SCORED_ROWS, dim)
        for work, count, job in (
            ("preprocess", scale * SCALED_TABLE_ROWS, partial(works.preprocess, table, store, 1)),
            (
                "read an epoch of batches",
                scale * SCALED_TABLE_ROWS,
                partial(works.read_batches, store, None, BATCH_IMAGES),
            ),
            ("score, model1", scale * SCALED_SCORED_ROWS, partial(works.score, "model1", scored, False)),
        ):
            with contextlib.closing(Side(job)) as side:
                runs = [side.run(), side.run()]
            seconds, peak = min(one.seconds for one in runs), max(one.peak for one in runs)
            yield Growth(work, scale, count, seconds, peak / MEGABYTE)


def show(rows: list[Row], growths: list[Growth], processes: dict[str, float]) -> str:
    """Both tables as Markdown."""
    lines = [
        "| work | s | reference, s | ratio | goal | peak, MB | reference, MB | share of limit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        goal = f"{row.goal:g}" if row.goal else ""
        share = f"{row.limit_share:.0%}" if row.limit_share else ""
        lines.append(
            f"| {row.work} | {row.seconds:.3g} | {row.reference_seconds:.3g} | {row.ratio:.1f} | {goal} "
            f"| {row.peak_mb:,.0f} | {row.reference_peak_mb:,.0f} | {share} |"
        )
    lines += [
        "",
        f"model1 trains {processes['one']:.1f} rows/s with one process, {processes['two']:.1f} with two "
        f"(batch 32 each): ratio {processes['ratio']:.2f}.",
        "",
        "| work | rows | s | s per row, of 1× | peak, MB |",
        "|---|---|---|---|---|",
    ]
    first = {growth.work: growth for growth in growths if growth.scale == SCALES[0]}
    for growth in sorted(growths, key=lambda one: (one.work, one.scale)):
        relative = growth.seconds / growth.scale / first[growth.work].seconds
        lines.append(
            f"| {growth.work} | {growth.rows:,} | {growth.seconds:.3g} | {relative:.2f} "
            f"| {growth.peak_mb:,.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    settings = parse_settings(BenchSettings, __doc__)
    with tempfile.TemporaryDirectory() as folder:
        first = list(rows(Path(folder), settings.repeats))
        throughput = processes()
        second = list(growths(Path(folder)))
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    print(f"{machine()}; matrix products {matrix_product_rate() / 1e9:.0f} GFLOP/s; {date}\n")
    print(arithmetic.__doc__)
    print(show(first, second, throughput))
    write_json(
        settings.out,
        {
            "machine": machine(),
            "date": date,
            "rows": [asdict(row) for row in first],
            "processes": throughput,
            "growth": [asdict(growth) for growth in second],
        },
    )


if __name__ == "__main__":
    main()
