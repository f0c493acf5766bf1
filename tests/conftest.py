"""What tests share: tables made by hand, the embedded sample, and scripts run as a user runs them."""

import contextlib
import importlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported
# Before PyTorch is: the models of tests are small, and threads that wait for one another by spinning make
# everything slow where tests share their cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
from torch import nn

from kddcup.sample import SampleSettings, write_sample
from kddcup.table.rows import COLUMNS, encode_base64

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
DIM = 8


def write_table(path: Path, rows: Iterable[dict[str, object]], columns: Iterable[str] = COLUMNS) -> Path:
    """Write rows of :func:`table_row` as a table; a value that is an array becomes base64."""
    columns = tuple(columns)
    lines = ["\t".join(columns)]
    for row in rows:
        values = (row[column] for column in columns)
        lines.append(
            "\t".join(
                encode_base64(value) if isinstance(value, np.ndarray) else str(value) for value in values
            )
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + "\n" for line in lines).encode())
    return path


def table_row(product_id: int, query_id: int, query: str, regions: int = 2, **others: object) -> dict:
    """A sound row, whose image follows from ``product_id``; ``others`` replaces or adds columns."""
    rng = np.random.default_rng(product_id)
    top_left = rng.uniform(0, 100, (regions, 2))
    return {
        "product_id": product_id,
        "image_h": 200,
        "image_w": 400,
        "num_boxes": regions,
        "boxes": np.concatenate([top_left, top_left + 50], axis=1).astype(np.float32),
        "features": rng.random((regions, DIM), dtype=np.float32),
        "class_labels": rng.integers(0, 33, regions),
        "query": query,
        "query_id": query_id,
        **others,
    }


def run_script(folder: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run ``python ARGS`` in a folder of the repository, ``"."`` for its root."""
    return subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=ROOT / folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def call_main(module: str, *args: object) -> str:
    """Run a script, ``model1.train`` say, in this process, to save its start; gives what it printed."""
    folder, _, script = module.rpartition(".")
    printed = io.StringIO()
    argv = [f"{script}.py", *map(str, args)]
    place = ROOT / folder.replace(".", "/")
    with contextlib.chdir(place), contextlib.redirect_stdout(printed), mock.patch("sys.argv", argv):
        importlib.import_module(module).main()
    return printed.getvalue()


def assert_one_line_error(done: subprocess.CompletedProcess[str], *expected: object) -> None:
    """A user's mistake: exit code 1 and one line on stderr, which has all that is expected in it."""
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for text in expected:
        assert str(text) in done.stderr


@pytest.fixture(scope="session")
def sample_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded sample, small; tests that write into it copy it first."""
    out = tmp_path_factory.mktemp("data") / "sample"
    write_sample(SampleSettings(out=str(out), train_queries=300, eval_queries=12, dim=32))
    return out


@pytest.fixture(scope="session")
def trained(sample_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stages 1 and 2 on the sample: ``data``, ``multilabel/model-epoch0.pth`` and ``encoder.pth``."""
    folder = tmp_path_factory.mktemp("trained")
    data, checkpoints = folder / "data", folder / "multilabel"
    shutil.copytree(sample_dir, data)
    saved = ("--checkpoints_dir", checkpoints)
    call_main("preprocess", "--data_dir", data, "--size", "small", "--tokenizer", "lexicon")
    call_main("multilabel.train", "--data_dir", data, *saved, "--epochs", 1, "--use_epoch", 0)
    call_main("multilabel.export_model", *saved, "--out_path", folder / "encoder.pth")
    return folder


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT as transformers saves it, with a WordPiece vocabulary."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    tokens = (
        "[PAD] [unused0] [UNK] [CLS] [SEP] [MASK] red blue dress jack wool ##et ##es ##s a s the ' - . ms"
    )
    (folder / "vocab.txt").write_text("\n".join(tokens.split()) + "\n")
    model = BertModel(
        BertConfig(
            vocab_size=len(tokens.split()),
            hidden_size=DIM,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=DIM,
            max_position_embeddings=DIM,
        )
    )
    for parameter in model.embeddings.parameters():
        nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def chromium():
    """One browser for all pages of a process."""
    from tests.browser import start_chromium

    driver = start_chromium()
    yield driver
    driver.quit()
