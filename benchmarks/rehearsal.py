"""A rehearsal of the whole training at the competition's shape, on made-up tables. Examples:

    python -m benchmarks.rehearsal
    python -m benchmarks.rehearsal --rows 2000

Two tables are made: one as wide as the competition's (regions of 2,048 numbers) with 100,000 rows, and one as
long (3 million rows, 1.35 million queries) with narrow regions; and a folder of a BERT with 30,522 words.
Stage 1 runs on both. On the wide one each training stage does 200 steps at the published size and batch: it
saves, is killed, resumes, and is exported; then the matchers score tables of 14,720 rows, and are blended.
With fewer rows all becomes smaller in proportion, but for the models and their batches. What is printed was
measured; the times of epochs and of the whole are reckoned from it.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jsonargparse.typing import PositiveInt
from torch.multiprocessing import active_children
from tqdm import tqdm

from benchmarks import inputs, jobs
from benchmarks.measure import describe_machine
from kddcup import stages
from kddcup.cli import parse_settings
from kddcup.config import ModelConfig
from kddcup.data.corpus import open_info
from kddcup.data.loader import TrainLoader
from kddcup.data.sampling import NegativeSampler
from kddcup.data.store import RegionStore
from kddcup.io.errors import UserError, run_script
from kddcup.io.files import read_json, write_json, write_text
from kddcup.io.tensors import write_safetensors
from kddcup.table.rows import COLUMNS, encode_base64
from kddcup.table.table import Table
from kddcup.train.folder import POINTER, STEP, checkpoint_path
from kddcup.train.log import describe_device
from kddcup.train.processes import pick_device
from model1.train import NEGATIVES

ROOT = Path(__file__).resolve().parent.parent
WIDE_ROWS, LONG_ROWS, LONG_QUERIES, VALID_ROWS = 100_000, 3_000_000, 1_350_000, 14_720
"""At full shape; the competition's table has as many rows and queries as the long one."""
STEPS, LEAST_STEPS = 200, 4
LEAST_ROWS = 1000
LONG_DIM = 64
PICTURES = 1000
"""Different pictures of a training table; products share them."""
WORDS = 29_000
"""Different words of a training table."""
FIRST_WORD = 1000
"""The id of the first of them, in BERT's vocabulary."""
CANDIDATES, RELEVANT = 30, 6
READERS = 2
POLL_SECONDS = 0.2
FIXED_BYTES, BYTES_PER_ROW = 9e9, 150_000
"""What it takes on the disk: the checkpoints, and the tables with what is made of them."""
HOUR, GIGABYTE = 3600, 1e9


@dataclass
class RehearsalSettings:
    """Settings of the rehearsal.

    Args:
        rows: of the wide table; of all the rest as many in proportion.
        folder: where to work; nothing is removed there. By default a temporary folder, which is.
    """

    rows: PositiveInt = WIDE_ROWS
    folder: str | None = None


@dataclass
class Usage:
    """What a command took: ``seconds``, and the most bytes that it had resident."""

    seconds: float
    peak: int


@dataclass
class Stage1:
    """What stage 1 took of a table: its rows, and bytes of the table and of what was made of it."""

    rows: int
    usage: Usage
    table_bytes: int
    made_bytes: int


@dataclass
class Training:
    """What a training stage came to.

    Args:
        stage: its name.
        batch_size: rows of a step.
        epochs: of the published recipe, up to the one that is used.
        speed: samples per second.
        waiting: share of the time in which the next batch was not there.
        scoring: seconds for the valid table's 14,720 rows, reckoned from those there were.
        peak: GB, of the GPU or of the process.
        checkpoint: bytes.
    """

    stage: str
    batch_size: int
    epochs: int
    speed: float
    waiting: float
    scoring: float
    peak: float
    checkpoint: int

    @property
    def epoch_seconds(self) -> float:
        """Seconds of an epoch on the competition's rows, without scoring."""
        return LONG_ROWS / self.speed

    @property
    def seconds(self) -> float:
        """Seconds of all epochs, each with its scoring of valid."""
        return self.epochs * (self.epoch_seconds + self.scoring)


class Rehearsal:
    """Works in a folder.

    Args:
        folder: to work in.
        rows: of the wide table.
    """

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder, self.rows = folder, rows
        share = rows / WIDE_ROWS
        self.long_rows, self.long_queries = int(LONG_ROWS * share), int(LONG_QUERIES * share)
        self.valid_rows = max(10 * CANDIDATES, int(VALID_ROWS * share))
        self.steps = max(LEAST_STEPS, int(STEPS * share))
        self.wide, self.long, self.bert = folder / "wide", folder / "long", folder / "bert"
        self.encoder, self.resources = folder / "image_encoder.pth", folder / "resources"

    def make_tables(self) -> None:
        """Make both training tables, the tables to score, and BERT's folder."""
        dim = ModelConfig().region_dim
        write_bert(self.bert)
        write_train(self.wide, self.rows, int(self.rows * LONG_QUERIES / LONG_ROWS), dim)
        write_train(self.long, self.long_rows, self.long_queries, LONG_DIM)
        for seed, split in enumerate(("valid", "testB")):
            table = self.wide / split / f"{split}.tsv"
            inputs.write_table(table, self.valid_rows, dim, CANDIDATES, seed)
        write_answers(self.wide / "valid")

    def preprocess(self, data: Path, rows: int) -> Stage1:
        """Run stage 1 on a table."""
        usage = run(".", "preprocess.py", "--data_dir", data, "--tokenizer", self.bert)
        made = sum(count_bytes(data / name) for name in ("features", "info"))
        return Stage1(rows, usage, (data / "train" / "train.tsv").stat().st_size, made)

    def read_batches(self) -> tuple[float, list[int]]:
        """Read model1's batches from the long table: seconds each, and each reader's bytes of its own."""
        settings = jobs.build_settings("model1", workers=READERS, data_dir=str(self.long))
        corpus, store = open_info(self.long).corpus, RegionStore(self.long / "features")
        loader = TrainLoader(
            corpus, store, corpus.tokens, settings, 0, 1, NegativeSampler(corpus, NEGATIVES, settings.seed)
        )
        # The last ones of an epoch, so that the readers end.
        count = min(STEPS, len(loader) - 1)
        batches = loader.epoch(0, torch.device("cpu"), len(loader) - 1 - count)
        next(batches)
        start = time.perf_counter()
        for _ in itertools.islice(batches, count // 2):
            pass
        seconds = (time.perf_counter() - start) / (count // 2)
        private = read_private_memory()
        for _ in batches:
            pass
        return seconds, private

    def train(self, stage: stages.Stage) -> Training:
        """Train a stage for some steps: save, kill, resume."""
        checkpoints, log = self.folder / stage.name, self.folder / f"{stage.name}.jsonl"
        flags = ["--data_dir", self.wide, "--checkpoints_dir", checkpoints, "--log_json", log]
        if stage.kind == "matcher":
            flags += ["--encoder", self.encoder]
        half = self.steps // 2
        kill(stage.name, "train.py", *flags, "--save_every", half, when=lambda: has_saved(checkpoints))
        run(stage.name, "train.py", *flags, "--resume", "--max_steps", self.steps - half)
        line = json.loads(log.read_text().splitlines()[-1])
        recipe = stage.recipes["full"]
        return Training(
            stage=stage.name,
            batch_size=recipe.batch_size,
            epochs=recipe.use_epoch + 1,
            speed=line["speed/samples/s"],
            waiting=line["speed/waiting for data"],
            scoring=line["valid/seconds"] * VALID_ROWS / self.valid_rows,
            peak=line["memory/peak GB"],
            checkpoint=checkpoint_path(checkpoints, 0).stat().st_size,
        )

    def apply(self, stage: stages.Stage) -> None:
        """Export the encoder, or score both tables with a matcher."""
        flags = ["--checkpoints_dir", self.folder / stage.name, "--epoch", 0]
        if stage.kind == "encoder":
            run(stage.name, "export_model.py", *flags, "--out_path", self.encoder)
            return
        flags += ["--data_dir", self.wide]
        for table in ("valid", "test"):
            flags += [f"--{table}_out_path", stages.predictions_path(self.resources, table, stage.name)]
        run(stage.name, "validation.py", *flags)

    def blend(self) -> Path:
        """Blend the matchers; gives the submission."""
        run(".", "ensemble.py", "--data_dir", self.wide, "--resources_dir", self.resources)
        return self.resources / "submission.csv"


def write_bert(folder: Path) -> None:
    """Write what stage 1 reads of a BERT: a vocabulary and random word vectors, with their norm."""
    config, special = ModelConfig(), {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    tokens = [special.get(i, f"[unused{i}]") for i in range(FIRST_WORD)]
    tokens += [f"w{i}" for i in range(config.vocabulary - FIRST_WORD)]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "vocab.txt", "\n".join(tokens) + "\n")
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "bert.embeddings.word_embeddings.weight": 0.05
        * torch.randn(config.vocabulary, config.width, generator=generator),
        "bert.embeddings.LayerNorm.weight": torch.ones(config.width),
        "bert.embeddings.LayerNorm.bias": torch.zeros(config.width),
    }
    write_safetensors(folder / "model.safetensors", tensors, {})


def write_train(data: Path, rows: int, queries: int, dim: int) -> None:
    """Write a training table, whose words are as unequally frequent as those of a language."""
    rng = np.random.default_rng(0)
    pictures = []
    for count in inputs.draw_region_counts(rng, PICTURES).tolist():
        boxes, features = inputs.draw_boxes(rng, count), inputs.draw_features(rng, count, dim)
        arrays = (boxes, features, rng.integers(0, 33, count))
        pictures.append("\t".join(["800", "800", str(count), *map(encode_base64, arrays)]))
    texts = []
    for length in tqdm(inputs.draw_word_counts(rng, queries).tolist(), desc="queries", disable=None):
        ranks = np.exp(rng.random(length) * np.log(WORDS)).astype(int)  # Zipf's law
        texts.append(" ".join(f"w{rank}" for rank in ranks.tolist()))
    query_of_row = rng.integers(0, queries, rows)
    query_of_row[:queries] = np.arange(queries)[:rows]
    path = data / "train" / "train.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write("\t".join(COLUMNS) + "\n")
        for row, query in enumerate(tqdm(query_of_row.tolist(), desc=str(path), disable=None)):
            file.write(f"{row}\t{pictures[row % PICTURES]}\t{texts[query]}\t{query}\n")


def write_answers(folder: Path) -> None:
    """Write answers beside a table to be scored: the first six candidates of each query."""
    candidates: dict[str, list[int]] = {}
    for row in Table(folder / f"{folder.name}.tsv").rows("answers"):
        candidates.setdefault(str(row.query_id), []).append(row.product_id)
    write_json(
        folder / f"{folder.name}_answer.json",
        {query: found[:RELEVANT] for query, found in candidates.items()},
    )


def has_saved(checkpoints: Path) -> bool:
    """Whether a run has saved within an epoch."""
    pointer = checkpoints / POINTER
    return pointer.is_file() and read_json(pointer, "train again")["checkpoint"] == STEP


def count_bytes(folder: Path) -> int:
    """Sum the sizes of a folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def read_private_memory() -> list[int]:
    """Read the bytes that each child process has for itself: pages that it alone has written to."""
    found = []
    for child in active_children():
        lines = Path(f"/proc/{child.pid}/smaps_rollup").read_text().splitlines()
        found.append(sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) * 1024)
    return found


def run(folder: str, *words: object) -> Usage:
    """Run a script in a folder of the repository.

    Raises:
        UserError: it failed; it has said why.
    """
    begin = time.perf_counter()
    process = _start(folder, *words)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"{folder}: {' '.join(map(str, words))} ended with {process.returncode}: see above")
    return Usage(time.perf_counter() - begin, usage.ru_maxrss * 1024)


def kill(folder: str, *words: object, when: Callable[[], bool]) -> None:
    """Run a script until something is the case, and kill it.

    Raises:
        UserError: it ended before.
    """
    with _start(folder, *words) as process:
        while not when():
            if process.poll() is not None:
                raise UserError(f"{folder}: {' '.join(map(str, words))} ended too early: see above")
            time.sleep(POLL_SECONDS)
        process.kill()
    print(f"killed process {process.pid}", flush=True)


def _start(folder: str, *words: object) -> subprocess.Popen:
    command = [sys.executable, *map(str, words)]
    print(f"\n+ cd {folder}; python {' '.join(command[1:])}", flush=True)
    return subprocess.Popen(command, cwd=ROOT / folder, stdin=subprocess.DEVNULL)


def format_stage1(name: str, found: Stage1) -> str:
    """Format a line of the first table."""
    sizes = f"{found.table_bytes / GIGABYTE:.2f} | {found.made_bytes / GIGABYTE:.2f}"
    usage = f"{found.usage.seconds:,.0f} | {found.usage.peak / GIGABYTE:.2f}"
    return f"| {name} | {found.rows:,} | {sizes} | {usage} |"


def format_training(found: Training) -> str:
    """Format a line of the second table."""
    cells = (
        found.stage,
        f"{found.batch_size}",
        f"{LONG_ROWS // found.batch_size:,}",
        f"{found.speed:,.1f}",
        f"{found.waiting:.1%}",
        f"{found.peak:.2f}",
        f"{found.checkpoint / GIGABYTE:.2f}",
        f"{found.epoch_seconds / HOUR:,.1f}",
        f"{found.scoring / 60:,.1f}",
        f"{found.epochs}",
        f"{found.seconds / HOUR:,.1f}",
    )
    return f"| {' | '.join(cells)} |"


def rehearse(folder: Path, rows: int) -> None:
    """Do all of it in a folder, and print what it took."""
    begin = time.perf_counter()
    device = describe_device(pick_device([]))
    rehearsal = Rehearsal(folder, rows)
    rehearsal.make_tables()
    wide = rehearsal.preprocess(rehearsal.wide, rehearsal.rows)
    long = rehearsal.preprocess(rehearsal.long, rehearsal.long_rows)
    batch_seconds, private = rehearsal.read_batches()
    trainings = []
    for stage in stages.STAGES:
        trainings.append(rehearsal.train(stage))
        rehearsal.apply(stage)
    submission = rehearsal.blend()
    lines = submission.read_text().count("\n")

    print(f"\n{device}; {describe_machine()}; PyTorch {torch.__version__}; load {os.getloadavg()[0]:.1f}\n")
    print("| stage 1 | rows | table, GB | made of it, GB | s | peak memory, GB |")
    print("|---|---|---|---|---|---|")
    print(format_stage1(f"regions of {ModelConfig().region_dim}", wide))
    print(format_stage1(f"regions of {LONG_DIM}", long))
    sizes = ", ".join(f"{size / 1e6:.0f}" for size in private)
    print(
        f"\na batch of model1 from the longer: {1000 * batch_seconds:.1f} ms; its readers have {sizes} MB\n"
    )
    print(
        "| stage | batch | steps an epoch | samples/s | waiting | peak memory, GB | checkpoint, GB "
        "| an epoch, h | scoring valid, min | epochs | together, h |"
    )
    print(f"|{'---|' * 11}")
    for training in trainings:
        print(format_training(training))
    # What grows with the width and what grows with the number of rows, one after the other.
    stage1 = wide.usage.seconds * LONG_ROWS / wide.rows + long.usage.seconds * LONG_ROWS / long.rows
    whole = stage1 + sum(training.seconds for training in trainings)
    minutes, used = (time.perf_counter() - begin) / 60, count_bytes(folder) / GIGABYTE
    print(
        f"\na submission of {lines} lines, after {minutes:,.0f} min; {used:.1f} GB of disk\n"
        f"the whole training on this device, reckoned for {LONG_ROWS:,} rows: {whole / HOUR:,.1f} h, "
        f"of which stage 1 takes {stage1 / HOUR:,.1f} h at most"
    )


def main() -> None:
    """Rehearse.

    Raises:
        UserError: there are too few rows or too little room.
    """
    settings = parse_settings(RehearsalSettings, __doc__)
    if settings.rows < LEAST_ROWS:
        raise UserError(f"--rows {settings.rows} do not fill enough batches: {LEAST_ROWS:,} at least")
    with tempfile.TemporaryDirectory() if settings.folder is None else nullcontext(settings.folder) as folder:
        folder = Path(folder).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        needed = int(FIXED_BYTES + BYTES_PER_ROW * settings.rows)
        if shutil.disk_usage(folder).free < needed:
            raise UserError(
                f"{folder} has less than the {needed / GIGABYTE:.0f} GB that it takes: name another --folder"
            )
        if any(folder.iterdir()):
            raise UserError(f"{folder} is not empty: name an empty --folder")
        rehearse(folder, settings.rows)


if __name__ == "__main__":
    run_script(main)
