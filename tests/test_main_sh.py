"""main.sh on the smallest tables, and how it ends where it cannot run through."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kddcup.io.folders import lock_folder
from tests.conftest import ROOT, assert_one_line_error, table_row, write_table
from tests.test_stages import copy_scripts

SETTINGS = {"PYTHON": sys.executable, "SIZE": "small", "TOKENIZER": "lexicon", "NPROC": "1"}


def start(folder: Path, data: Path, **settings: str) -> subprocess.Popen:
    """Start main.sh of ``folder``, in a process group of its own."""
    return subprocess.Popen(
        ["bash", "main.sh", data],
        cwd=folder,
        env={**os.environ, **SETTINGS, **settings},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(folder: Path, data: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    started = start(folder, data, **settings)
    said, complained = started.communicate(timeout=600)
    return subprocess.CompletedProcess(started.args, started.returncode, said, complained)


def read_until(process: subprocess.Popen, beginning: str) -> str:
    """Read what it prints up to a line that begins so."""
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith(beginning):
            return said
    raise AssertionError(process.stderr.read())


def write_tables(data: Path, rows: list[dict]) -> Path:
    """A training table, and three candidates of one query in each of the others."""
    write_table(data / "train" / "train.tsv", rows)
    for split in ("valid", "testA", "testB"):
        candidates = [table_row(product, 7, "red dress") for product in (101, 102, 103)]
        write_table(data / split / f"{split}.tsv", candidates)
    (data / "valid" / "valid_answer.json").write_text(json.dumps({"7": [102]}))
    return data


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    folder = tmp_path / "scripts"
    folder.mkdir()
    copy_scripts(folder)
    return folder


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """The smallest that main.sh runs on: two queries share a word, and neither lists all products."""
    return write_tables(tmp_path / "tables", [table_row(1, 1, "red dress"), table_row(2, 2, "blue dress")])


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("rows", [2, 20])
def test_the_smallest_tables_run_to_the_end(scripts, tmp_path, rows, processes):
    queries = ["red dress", "blue dress", "the of"]
    data = write_tables(tmp_path / "data", [table_row(i, i % 3, queries[i % 3]) for i in range(rows)])
    done = run(scripts, data, NPROC=processes)
    assert done.returncode == 0, done.stderr
    assert "--batch_size is" in done.stdout
    assert (scripts / "external_resources" / "data" / "submission.csv").is_file()
    assert "Warning" not in done.stderr.replace("FutureWarning: The module torch.distributed.launch", "")


@pytest.mark.parametrize(
    ("rows", "settings", "expected"),
    [
        ([table_row(1, 1, "red dress"), table_row(2, 2, "blue coat")], {}, "no word occurs in two"),
        ([table_row(1, 1, "dress"), table_row(1, 2, "red dress")], {}, "lists every product"),
        ([table_row(i, i, "dress") for i in range(3)], {"NPROC": "4"}, "in each of 4 processes"),
        ([table_row(i, i, "dress") for i in range(9)], {"SIZE": "full"}, "do not fill one batch of 200"),
    ],
    ids=["no lexicon", "no negative image", "processes", "full size"],
)
def test_what_cannot_be_trained_on_is_said_in_stage_1(scripts, tmp_path, rows, settings, expected):
    done = run(scripts, write_tables(tmp_path / "data", rows), **settings)
    assert_one_line_error(done, expected)
    assert not list(scripts.glob("*/checkpoints"))


@pytest.mark.parametrize(
    "name", ["train/train.tsv", "valid/valid.tsv", "valid/valid_answer.json", "testA/testA.tsv"]
)
def test_an_absent_file_is_named_before_stage_1(scripts, tables, name):
    (tables / name).unlink()
    assert_one_line_error(run(scripts, tables, SPLIT="testA"), f"{tables / name} does not exist")
    assert not (tables / "info").exists()


def test_with_several_processes_the_line_that_matters_comes_last(scripts, tables):
    with lock_folder(scripts / "multilabel" / "checkpoints" / "tables"):
        done = run(scripts, tables, NPROC="2")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: checkpoints/tables is being written by another run (process")


def interrupt(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does at Ctrl-C


def kill_rank(process: subprocess.Popen) -> None:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if "--local-rank=1" in words and str(process.args[-1]) in words:
            os.kill(int(folder.name), signal.SIGKILL)
            return
    raise AssertionError("there is no rank 1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "expected"), [(interrupt, "interrupted"), (kill_rank, "error: rank 0 lost the other processes")]
)
def test_however_several_processes_end_the_last_line_says_why(scripts, tables, end, expected):
    process = start(scripts, tables, NPROC="2")
    read_until(process, "epoch 1:")
    end(process)
    _, complained = process.communicate(timeout=100)
    assert process.returncode == 1
    assert complained.splitlines()[-1].startswith(expected)


def test_a_port_in_use_is_named(trained, tmp_path):
    with socket.create_server(("", 0)) as server:
        address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(server.getsockname()[1])}
        done = subprocess.run(
            [sys.executable, "train.py", "--data_dir", trained / "data", "--checkpoints_dir", tmp_path],
            cwd=ROOT / "multilabel",
            env={**os.environ, **address, "RANK": "0", "WORLD_SIZE": "2"},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert_one_line_error(done, f"port {address['MASTER_PORT']} is in use")


@pytest.mark.slow
def test_two_runs_at_once_have_ports_of_their_own(scripts, tables, tmp_path):
    rows = [table_row(i, i, f"{colour} dress") for i, colour in enumerate(("red", "blue", "red"))]
    others = write_tables(tmp_path / "others", rows)
    processes = [start(scripts, data, NPROC="2") for data in (tables, others)]
    said = [read_until(process, "epoch 1:") for process in processes]
    for process in processes:
        interrupt(process)
        process.communicate(timeout=100)
    ports = [re.findall(r"--master_port=(\d+)", lines) for lines in said]
    assert len(ports[0]) == len(ports[1]) == 1
    assert ports[0] != ports[1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["full"], ["matcher model1 --explain", "matcher model2"]),
        (
            ["small"],
            ["encoder multilabel", "matcher model1 --explain", "matcher model2", "baseline logistic"],
        ),
        (["full", "neighbours", "model2"], ["baseline neighbours", "matcher model2"]),
    ],
)
def test_what_is_blended_follows_from_the_size_or_is_named(words, expected):
    command = [sys.executable, "-m", "kddcup.stages", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.splitlines() == expected


def test_a_model_that_there_is_not_is_refused_before_stage_1(scripts, tables):
    done = run(scripts, tables, MODELS="model1 model9")
    assert_one_line_error(done, "MODELS names model9, which is none of multilabel, model1")
    assert not (tables / "info").exists()
