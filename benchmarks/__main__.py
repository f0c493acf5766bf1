"""What this project costs, beside its plain twins and the machine's own limit.

Both sides of a row work in processes of their own, in turn, so that they meet the same noise; the best run of
each counts. Peaks are of memory that is the processes' own, mapped files aside. The last table is computed:
what a training step has to hold at least. Example:

    python -m benchmarks --out benchmarks/results.json

With --device, what training and scoring cost on a GPU; see benchmarks/device.py. Example:

    python -m benchmarks --device cuda --out gpu.json
"""

import contextlib
import datetime
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jsonargparse.typing import PositiveInt
from tqdm import tqdm

from benchmarks import arithmetic, inputs, jobs
from benchmarks.device import NO_GPU, measure
from benchmarks.measure import (
    Job,
    Run,
    Side,
    describe_machine,
    launch_throughput,
    measure_matrix_rate,
    time_copy,
)
from benchmarks.memory import Memory, compute_memory
from kddcup import stages
from kddcup.cli import parse_settings
from kddcup.config import ModelConfig
from kddcup.io.errors import run_script
from kddcup.io.files import write_json

TABLE_ROWS, SCORED_ROWS = 12_000, 600
SMALL_BATCH = 32
BATCH_IMAGES, BATCHES = 260, 20
SCALES = (1, 4, 16)
SCALED_TABLE_ROWS, SCALED_SCORED_ROWS = 1500, 120
ENOUGH_SECONDS = 25
MEGABYTE, GIGABYTE = 1e6, 1e9


@dataclass
class BenchSettings:
    """Settings of the benchmarks.

    Args:
        device: measure training and scoring on a GPU (cuda), or by the same code on the CPU; by default, what
            the whole pipeline costs on this machine's CPU.
        if_available: with --device cuda, end well where there is no GPU.
        size: with --device; small shows in a minute that all of it runs, and its figures mean nothing.
        out: a file for the figures as JSON; by default benchmarks/results.json, and none with --device.
        repeats: without --device: runs of each side, of which the best counts; fewer once those of the
            reference have taken 25 seconds.
    """

    device: Literal["cuda", "cpu"] | None = None
    if_available: bool = False
    size: Literal["full", "small"] = "full"
    out: str | None = None
    repeats: PositiveInt = 3


@dataclass
class Comparison:
    """A line of the first table; the ratio is of the seconds, the limit's share of those at the limit."""

    work: str
    seconds: float
    reference_seconds: float
    ratio: float
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
    ours: Callable[[], Job],
    plain: Callable[[], Job],
    repeats: int,
    time_limit: Callable[[], float] | None = None,
) -> Comparison:
    """Measure both sides in turn, and see that they come to the same.

    Args:
        work: what the line is called.
        ours: prepares this project's job.
        plain: prepares the reference's.
        repeats: runs of each at most.
        time_limit: gives the seconds that the machine needs at its own limit; asked after every run, and the
            fewest count.
    """
    runs: list[Run] = []
    reference_runs: list[Run] = []
    limits: list[float] = []
    with contextlib.closing(Side(ours)) as side, contextlib.closing(Side(plain)) as reference:
        for _ in tqdm(range(repeats), desc=work, disable=None):
            runs.append(side.run())
            reference_runs.append(reference.run())
            if time_limit:
                limits.append(time_limit())
            if sum(run.seconds for run in reference_runs) > ENOUGH_SECONDS:
                break
        np.testing.assert_allclose(side.result(), reference.result(), rtol=1e-3, atol=1e-4, err_msg=work)
    (seconds, peak), (reference_seconds, reference_peak) = map(summarize, (runs, reference_runs))
    return Comparison(
        work=work,
        seconds=seconds,
        reference_seconds=reference_seconds,
        ratio=reference_seconds / seconds,
        peak_mb=peak,
        reference_peak_mb=reference_peak,
        limit_share=min(limits) / seconds if limits else None,
    )


def summarize(runs: list[Run]) -> tuple[float, float]:
    """Give the seconds of the best run, and the highest peak in megabytes."""
    return min(run.seconds for run in runs), max(run.peak for run in runs) / MEGABYTE


def compare_all(folder: Path, repeats: int) -> Iterator[Comparison]:
    """Measure the first table."""
    config = ModelConfig()
    table, plain = folder / "train.tsv", folder / "plain"
    inputs.write_table(table, TABLE_ROWS, config.region_dim)
    for workers in (1, 2):
        store = folder / f"store{workers}"
        yield compare(
            f"preprocess, {workers} process{'es' * (workers > 1)}",
            partial(jobs.preprocess, table, store, workers),
            partial(jobs.plain_preprocess, table, plain),
            repeats,
            lambda store=store: time_copy(table, sum(path.stat().st_size for path in store.iterdir())),
        )
    yield compare(
        f"read {BATCHES} batches of {BATCH_IMAGES} images",
        partial(jobs.read_batches, folder / "store1", BATCHES, BATCH_IMAGES),
        partial(jobs.plain_read_batches, folder / "store1", plain, BATCHES, BATCH_IMAGES),
        repeats,
    )
    for stage, count_operations in arithmetic.STEPS.items():
        for rows in (SMALL_BATCH, stages.find(stage).recipes["full"].batch_size):
            batch = inputs.draw_batch(config, rows, stages.find(stage).kind == "matcher")
            operations = count_operations(config, batch)
            yield compare(
                f"{stage} step, batch {rows} ({operations / 1e9:.0f} GFLOP)",
                partial(jobs.train_step, stage, rows, plain=False),
                partial(jobs.train_step, stage, rows, plain=True),
                repeats,
                lambda operations=operations: operations / measure_matrix_rate(),
            )
    scored = folder / "valid.tsv"
    inputs.write_table(scored, SCORED_ROWS, config.region_dim)
    images, queries, words = inputs.read_contents(scored)
    for stage, count_operations in arithmetic.SCORES.items():
        operations = count_operations(config, images, queries, words)
        yield compare(
            f"{stage} scores {SCORED_ROWS} rows ({operations / 1e9:.0f} GFLOP)",
            partial(jobs.score, stage, scored, plain=False),
            partial(jobs.score, stage, scored, plain=True),
            repeats,
            lambda operations=operations: operations / measure_matrix_rate(),
        )
    yield compare(
        "blend, 100 weights, 496 queries",
        partial(jobs.blend, plain=False),
        partial(jobs.blend, plain=True),
        repeats,
    )


def measure_processes() -> dict[str, float]:
    """Measure the samples per second of model1's training with one process and with two, and their ratio."""
    rates = []
    for count in (1, 2):
        (printed,) = launch_throughput(count, "--batch_size", str(SMALL_BATCH))
        rates.append(printed["rows"] / printed["seconds"])
    return {"one": rates[0], "two": rates[1], "ratio": rates[1] / rates[0]}


def measure_growth(folder: Path) -> Iterator[Growth]:
    """Measure the second table."""
    dim = ModelConfig().region_dim
    table, store, scored = folder / "grow.tsv", folder / "grow", folder / "grow-valid.tsv"
    for scale in SCALES:
        rows, scored_rows = scale * SCALED_TABLE_ROWS, scale * SCALED_SCORED_ROWS
        inputs.write_table(table, rows, dim)
        inputs.write_table(scored, scored_rows, dim)
        for work, count, job in (
            ("preprocess", rows, partial(jobs.preprocess, table, store, 1)),
            ("read an epoch of batches", rows, partial(jobs.read_batches, store, None, BATCH_IMAGES)),
            ("score, model1", scored_rows, partial(jobs.score, "model1", scored, plain=False)),
        ):
            with contextlib.closing(Side(job)) as side:
                seconds, peak = summarize([side.run(), side.run()])
            yield Growth(work, scale, count, seconds, peak)


def format_tables(
    comparisons: list[Comparison],
    processes: dict[str, float],
    growths: list[Growth],
    memories: list[Memory],
) -> str:
    """Format the tables, and what is between them, as Markdown."""
    lines = [
        "| work | s | reference, s | ratio | peak, MB | reference, MB | share of limit |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in comparisons:
        share = f"{row.limit_share:.0%}" if row.limit_share else ""
        lines.append(
            f"| {row.work} | {row.seconds:.3g} | {row.reference_seconds:.3g} | {row.ratio:.1f} "
            f"| {row.peak_mb:,.0f} | {row.reference_peak_mb:,.0f} | {share} |"
        )
    lines += [
        "",
        f"model1 trains {processes['one']:.1f} rows/s with one process, {processes['two']:.1f} with two "
        f"(batch {SMALL_BATCH} each): ratio {processes['ratio']:.2f}.",
        "",
        "| work | rows | s | s per row, of 1× | peak, MB |",
        "|---|---|---|---|---|",
    ]
    first = {growth.work: growth for growth in growths if growth.scale == SCALES[0]}
    for growth in sorted(growths, key=lambda growth: (growth.work, growth.scale)):
        relative = growth.seconds / growth.scale / first[growth.work].seconds
        lines.append(
            f"| {growth.work} | {growth.rows:,} | {growth.seconds:.3g} | {relative:.2f} "
            f"| {growth.peak_mb:,.0f} |"
        )
    lines += [
        "",
        "| stage | batch | parameters, M | trained, M | fixed, GB | activations, GB | together, GB |",
        "|---|---|---|---|---|---|---|",
    ]
    for memory in memories:
        fixed, activations = memory.fixed / GIGABYTE, memory.activations / GIGABYTE
        lines.append(
            f"| {memory.stage} | {memory.batch} | {memory.parameters / 1e6:.1f} | {memory.trained / 1e6:.1f} "
            f"| {fixed:.2f} | {activations:.2f} | {fixed + activations:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    settings = parse_settings(BenchSettings, __doc__)
    if settings.if_available and settings.device == "cuda" and not torch.cuda.is_available():
        print(NO_GPU)
        return
    if settings.device:
        measure(settings.device, settings.size, settings.out)
    else:
        measure_pipeline(settings.out or "benchmarks/results.json", settings.repeats)


def measure_pipeline(out: str, repeats: int) -> None:
    """Measure all that is measured on a CPU."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        comparisons = list(compare_all(Path(folder), repeats))
        processes = measure_processes()
        growths = list(measure_growth(Path(folder)))
    memories = [compute_memory(stage) for stage in stages.STAGES]
    machine, date = describe_machine(), datetime.datetime.now(datetime.UTC).date().isoformat()
    print(f"{machine}; matrix products {measure_matrix_rate() / 1e9:.0f} GFLOP/s; load {load:.1f}; {date}\n")
    print(arithmetic.__doc__)
    print(format_tables(comparisons, processes, growths, memories))
    write_json(
        out,
        {
            "machine": machine,
            "date": date,
            "load": load,
            "rows": [asdict(comparison) for comparison in comparisons],
            "processes": processes,
            "growth": [asdict(growth) for growth in growths],
            "memory": [asdict(memory) for memory in memories],
        },
    )


if __name__ == "__main__":
    run_script(main)
