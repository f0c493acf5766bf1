"""What training and scoring cost on one kind of device: ``python -m benchmarks --device cuda``.

All is measured in this process, the reference too. It needs what the training scripts import, and 4 GB in the
folder for temporary files.
"""

import datetime
import gc
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

import model1.train
import model2.train
from benchmarks import arithmetic, inputs, jobs
from benchmarks.measure import (
    Job,
    describe_machine,
    launch_throughput,
    measure_matrix_rate,
    wait_for,
)
from kddcup import stages
from kddcup.config import ModelConfig
from kddcup.data.batch import scale_boxes
from kddcup.data.corpus import Corpus
from kddcup.data.loader import TrainLoader
from kddcup.data.sampling import NegativeSampler
from kddcup.data.store import STORE_FILES, GrowingArray, RegionStore, write_array
from kddcup.io.errors import UserError
from kddcup.io.files import write_json
from kddcup.io.folders import write_marker
from kddcup.io.ragged import Ragged
from kddcup.train.log import describe_device, measure_peak_memory
from kddcup.train.processes import Process, pick_device

PRECISIONS = ("float32", "tf32", "bf16")
READERS = (0, 1, 4)
"""Reading processes of a rank."""
WARM_STEPS, LEAST_STEPS, MOST_STEPS = 5, 10, 200
BLOCKS = 3
RULES = {"multilabel": None, "model1": model1.train.NEGATIVES, "model2": model2.train.NEGATIVES}
"""Which negatives a stage draws, if any."""
NO_MEMORY = "out of memory"
NO_GPU = f"there is no GPU here that PyTorch {torch.__version__} can use: nothing was measured"
ROWS_PER_QUERY = 3.0 / 1.35
"""The competition's rows and queries, in millions."""
DRAWN_IMAGES = 1000
"""Different images in a store."""


@dataclass(frozen=True)
class Scope:
    """How much is measured.

    Args:
        config: widths.
        batch_size: rows of a step; by default each stage's published ones.
        side: of the square matrices whose product is the limit.
        scored_rows: of the table that is scored.
        products: in the store from which batches are read.
        seconds: that each measurement takes, about.
    """

    config: ModelConfig = field(default_factory=ModelConfig)
    batch_size: int | None = None
    side: int = 8192
    scored_rows: int = 3000
    products: int = 200_000
    seconds: float = 2.0

    def count_rows(self, stage: str) -> int:
        """The rows of a stage's step."""
        return self.batch_size or stages.find(stage).recipes["full"].batch_size


SCOPES = {
    "full": Scope(),
    "small": Scope(
        ModelConfig(region_dim=64, width=32, vocabulary=2000, ff=64),
        batch_size=16,
        side=128,
        scored_rows=60,
        products=600,
        seconds=0.05,
    ),
}
"""``full`` is what was published; ``small`` shows that all of it runs, and its figures mean nothing."""


@dataclass
class Timing:
    """What a job costs: ``seconds``, ``peak`` bytes on the device, ``launches`` of kernels on a GPU."""

    seconds: float
    peak: int
    launches: int


@dataclass
class Comparison:
    """A line of the first table; the reference's figures are None where the device's memory did not suffice.

    Args:
        work: what is done.
        precision: of its layers.
        samples: rows.
        ours: of this project.
        reference: of its plain twin.
        limit_share: seconds at the device's limit of matrix products in that precision, by the seconds taken.
        difference: the largest difference of the two sides' results, by the largest result.
    """

    work: str
    precision: str
    samples: int
    ours: Timing | None
    reference: Timing | None
    limit_share: float | None
    difference: float | None

    HEADER: ClassVar = (
        "| work | precision | ms | samples/s | peak, GB | kernels | share of limit "
        "| reference, ms | reference, GB | reference, kernels | ratio | differ by |"
    )

    def format(self) -> str:
        """Format the line as Markdown."""
        cells = [self.work, self.precision]
        if self.ours:
            rate = f"{self.samples / self.ours.seconds:,.0f}"
            cells += [_format_ms(self.ours), rate, *_format_rest(self.ours), f"{self.limit_share:.0%}"]
        else:
            cells += [NO_MEMORY, *[""] * 4]
        if self.reference:
            cells += [_format_ms(self.reference), *_format_rest(self.reference)]
        else:
            cells += [NO_MEMORY, "", ""]
        if self.ours and self.reference:
            cells += [f"{self.reference.seconds / self.ours.seconds:.1f}", f"{self.difference:.0e}"]
        else:
            cells += ["", ""]
        return _format_line(*cells)


@dataclass
class Waiting:
    """A line of the second table: ``seconds`` of a step with its batch read, ``fixed`` where it is there."""

    stage: str
    precision: str
    readers: int
    seconds: float
    fixed: float
    rows: float

    HEADER: ClassVar = (
        "| stage | precision | reading processes | ms a step "
        "| of a batch that is there | samples/s | waiting |"
    )

    def format(self) -> str:
        """Format the line as Markdown."""
        return _format_line(
            self.stage,
            self.precision,
            f"{self.readers}",
            f"{self.seconds * 1000:,.1f}",
            f"{self.fixed * 1000:,.1f}",
            f"{self.rows / self.seconds:,.0f}",
            f"{max(0.0, 1 - self.fixed / self.seconds):.0%}",
        )


@dataclass
class Parallel:
    """A line of the third table: ``efficiency`` is the rate, by that of one process as many times."""

    stage: str
    precision: str
    processes: int
    rate: float
    efficiency: float

    HEADER: ClassVar = "| stage | precision | GPUs | samples/s | efficiency |"

    def format(self) -> str:
        """Format the line as Markdown."""
        cells = (f"{self.processes}", f"{self.rate:,.0f}", f"{self.efficiency:.0%}")
        return _format_line(self.stage, self.precision, *cells)


def _format_line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _format_ms(timing: Timing) -> str:
    return f"{timing.seconds * 1000:,.1f}"


def _format_rest(timing: Timing) -> list[str]:
    return [f"{timing.peak / 1e9:.2f}", f"{timing.launches:,}"]


def time_job(job: Job, device: torch.device, seconds: float) -> Timing:
    """Measure a job in blocks of several runs, of which the best counts, since a GPU runs behind its CPU."""
    job.work()  # kernels are chosen
    wait_for(device)
    start = time.perf_counter()
    job.work()
    wait_for(device)
    first = time.perf_counter() - start
    count = int(np.clip(seconds / BLOCKS / first, 1, MOST_STEPS))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for _ in range(BLOCKS):
        start = time.perf_counter()
        for _ in range(count):
            job.work()
        wait_for(device)
        times.append((time.perf_counter() - start) / count)
    return Timing(min(times), measure_peak_memory(device), count_launches(job.work, device))


def count_launches(work: Callable[[], object], device: torch.device) -> int:
    """Count the kernels that the CPU starts on a GPU."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # which is silent
    gpu = [ProfilerActivity.CUDA] if device.type == "cuda" else []
    with profile(activities=[ProfilerActivity.CPU, *gpu]) as profiler:
        work()
        wait_for(device)
    return sum(event.count for event in profiler.key_averages() if "LaunchKernel" in event.key)


def compare(
    work: str,
    precision: str,
    samples: int,
    prepare: Callable[..., Job],
    device: torch.device,
    scope: Scope,
    limit: float,
) -> Comparison:
    """Measure both sides, one after the other.

    Args:
        work: what the line is called.
        precision: of its layers.
        samples: rows of a run.
        prepare: makes the job, ``plain`` or not.
        device: where to compute.
        scope: how much.
        limit: seconds that the device needs at its own limit.
    """
    timings, results = [], []
    for plain in (False, True):
        try:
            job = prepare(plain=plain, config=scope.config, device=device, precision=precision)
            timings.append(time_job(job, device, scope.seconds))
            results.append(np.concatenate([np.ravel(part) for part in job.result()]))
        except torch.OutOfMemoryError:
            timings.append(None)
        job = None
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    ours, reference = timings
    difference = None
    if ours and reference:
        difference = float(abs(results[0] - results[1]).max() / abs(results[1]).max())
    return Comparison(
        work, precision, samples, ours, reference, limit / ours.seconds if ours else None, difference
    )


def compare_all(
    folder: Path, device: torch.device, scope: Scope, rates: Mapping[str, float]
) -> Iterator[Comparison]:
    """Measure the first table: steps and scorings in each precision, whose products have the ``rates``."""
    table, config = folder / "valid.tsv", scope.config
    inputs.write_table(table, scope.scored_rows, config.region_dim)
    for stage, count_operations in arithmetic.STEPS.items():
        rows = scope.count_rows(stage)
        batch = inputs.draw_batch(config, rows, stages.find(stage).kind == "matcher")
        operations = count_operations(config, batch)
        for precision in PRECISIONS:
            job, limit = partial(jobs.train_step, stage, rows), operations / rates[precision]
            yield compare(f"{stage} step, batch {rows}", precision, rows, job, device, scope, limit)
    images, queries, words = inputs.read_contents(table)
    for stage, count_operations in arithmetic.SCORES.items():
        operations = count_operations(config, images, queries, words)
        for precision in PRECISIONS:
            job, limit = partial(jobs.score, stage, table), operations / rates[precision]
            work = f"{stage} scores {scope.scored_rows} rows"
            yield compare(work, precision, scope.scored_rows, job, device, scope, limit)


def write_store(folder: Path, products: int, dim: int) -> RegionStore:
    """Write a store of so many products, whose images come again and again, as stage 1 would."""
    rng = np.random.default_rng(0)
    lengths = inputs.draw_region_counts(rng, min(products, DRAWN_IMAGES))
    regions = int(lengths.sum())
    features = inputs.draw_features(rng, regions, dim).astype(np.float16)
    boxes = scale_boxes(inputs.draw_boxes(rng, regions), 800, 800)
    folder.mkdir(parents=True)
    repeats = -(-products // len(lengths))
    for name, block, dtype in (("features.npy", features, "float16"), ("boxes.npy", boxes, "float32")):
        with open(folder / name, "wb") as file:
            array = GrowingArray(file, block.shape[1], dtype)
            for _ in tqdm(range(repeats), desc=name, disable=None):
                array.append(block)
            array.close()
    counts = np.tile(lengths, repeats)
    write_array(folder / "offsets.npy", np.concatenate([[0], np.cumsum(counts)]))
    write_array(folder / "product_ids.npy", np.arange(len(counts)))
    write_marker(folder, STORE_FILES, {})
    return RegionStore(folder)


def draw_corpus(products: int, vocabulary: int) -> Corpus:
    """Draw a row for each product, and queries, classes and clusters in the competition's proportions."""
    rng = np.random.default_rng(0)
    count = max(4, int(products / ROWS_PER_QUERY))
    row_query = np.concatenate([np.arange(count), rng.integers(0, count, products)])[:products]
    tokens = inputs.draw_queries(rng, count, vocabulary)
    groups = min(1000, count // 2)
    head_class, cluster = rng.integers(0, groups, (2, count))
    return Corpus(
        row_query=row_query,
        row_product=np.arange(products),
        query_ids=np.arange(count),
        products=Ragged.group(row_query, count),
        tokens=Ragged.from_lists((row[row > 0].tolist() for row in tokens.ids.numpy()), np.int64),
        head_class=head_class,
        cluster=cluster,
        by_head_class=Ragged.group(head_class, groups),
        by_cluster=Ragged.group(cluster, groups),
    )


def measure_waiting(folder: Path, device: torch.device, scope: Scope) -> Iterator[Waiting]:
    """Measure the second table: how long the device waits for batches, in bf16, where a step is shortest."""
    precision, config = PRECISIONS[-1], scope.config
    store = write_store(folder / "features", scope.products, config.region_dim)
    corpus = draw_corpus(scope.products, config.vocabulary)
    for stage in stages.STAGES:
        rows = scope.count_rows(stage.name)
        rule = RULES[stage.name]
        model = jobs.build_model(stage.name, config, plain=False, device=device).train()
        trainer = jobs.build_trainer(Process(0, 1, device), stage.name, model, precision)
        batch = inputs.draw_batch(config, rows, stage.kind == "matcher").to(device)
        fixed = time_job(Job(partial(trainer.step, [batch]), list), device, scope.seconds).seconds
        steps = int(np.clip(scope.seconds / fixed, LEAST_STEPS, MOST_STEPS))
        for readers in READERS:
            settings = jobs.build_settings(stage.name, batch_size=rows, workers=readers)
            sampler = NegativeSampler(corpus, rule, settings.seed) if rule else None
            loader = TrainLoader(corpus, store, corpus.tokens, settings, 0, 1, sampler)
            # The last batches of an epoch, so that what reads them ends.
            batches = loader.epoch(0, device, max(0, len(loader) - WARM_STEPS - steps))
            for parts in itertools.islice(batches, WARM_STEPS):
                trainer.step(parts)
            wait_for(device)
            start, count, read = time.perf_counter(), 0, 0
            for parts in batches:
                trainer.step(parts)
                count += 1
                read += sum(map(len, parts))
            wait_for(device)
            seconds = (time.perf_counter() - start) / count
            yield Waiting(stage.name, precision, readers, seconds, fixed, read / count)


def measure_processes(device: torch.device, size: str) -> Iterator[Parallel]:
    """Measure the third table, where there are several GPUs: steps on one, on two, on all."""
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    flags = ["--size", size, "--steps", "20", "--stages", *RULES, "--precisions", *PRECISIONS]
    alone: dict[tuple[str, str], float] = {}
    for processes in sorted({1, 2, count}) if count > 1 else ():
        for line in launch_throughput(processes, *flags):
            key, rate = (line["stage"], line["precision"]), line["rows"] / line["seconds"]
            yield Parallel(*key, processes, rate, rate / processes / alone.setdefault(key, rate))


def describe(device: torch.device) -> str:
    """Describe the device, the machine and the versions."""
    versions = [f"PyTorch {torch.__version__}"]
    if device.type == "cuda":
        versions.append(f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    return "; ".join([describe_device(device), describe_machine(), *versions])


def measure(kind: str, size: str, out: str | None) -> None:
    """Measure all three tables, print each line when it is there, and write what there is after each table.

    Args:
        kind: ``cuda`` or ``cpu``.
        size: of :data:`SCOPES`.
        out: the file for the figures; None writes none.

    Raises:
        UserError: there is no GPU.
    """
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(NO_GPU)
    device = pick_device([]) if kind == "cuda" else torch.device("cpu")
    scope = SCOPES[size]
    figures: dict[str, Any] = {
        "device": describe(device),
        "size": size,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    print(f"{figures['device']}; {figures['date']}; size {size}")
    figures["matrix rates"] = rates = {
        precision: measure_matrix_rate(device, precision, scope.side) for precision in PRECISIONS
    }
    print(
        "matrix products: " + ", ".join(f"{name} {rate / 1e12:.3g} TFLOP/s" for name, rate in rates.items())
    )
    with tempfile.TemporaryDirectory() as folder:
        tables = (
            ("rows", Comparison, compare_all(Path(folder), device, scope, rates)),
            ("waiting", Waiting, measure_waiting(Path(folder), device, scope)),
            ("processes", Parallel, measure_processes(device, size)),
        )
        for name, kind_of_line, lines in tables:
            figures[name] = []
            for line in lines:
                if not figures[name]:
                    print(f"\n{kind_of_line.HEADER}\n|{'---|' * kind_of_line.HEADER.count(' | ')}---|")
                print(line.format(), flush=True)
                figures[name].append(asdict(line))
            if out:
                write_json(out, figures)
