import json
import re
import shutil
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kddcup.data.batch import scale_boxes
from kddcup.data.corpus import open_info, read_size
from kddcup.data.store import STORE_FILES, RegionStore
from kddcup.io.errors import UserError
from kddcup.io.files import read_pickle
from kddcup.io.folders import MARKER
from kddcup.table import conversion
from kddcup.table.ingest import Ingest
from kddcup.table.table import Table
from kddcup.text.bert import read_bert
from kddcup.text.lexicon import build_lexicon
from tests.conftest import DIM, ROOT, assert_one_line_error, run_script, table_row, write_table
from tests.test_corpus import read_texts

FIRST = table_row(5, 10, "red dress", 3)
OUTSIDE = np.array([[10, 10, 60, 60], [-1, 0, 50, 50], [0, 0, 50, 401], [0, 0, 200, 400]], np.float32)
ROWS = [
    FIRST,
    table_row(3, 11, "blue dress", 1),
    {**table_row(5, 12, "red jacket", 3), "features": FIRST["features"] + 1},
    table_row(3, 10, "red dress", 1),
    table_row(8, 14, "blue jacket", 4, boxes=OUTSIDE),
    table_row(9, 13, "the of", 2),
    table_row(5, 14, "blue jacket", 3, boxes=FIRST["boxes"] + 1),
    table_row(9, 10, 'red "dress"', 2),
]
PRODUCTS = [ROWS[i] for i in (0, 1, 4, 5)]
FILES = {
    "features": {*STORE_FILES, MARKER},
    "info": {"data.pkl", "query2product2.pkl", "data_info2.pkl", MARKER, "vocabulary"},
    "info/vocabulary": {"vocab.txt", "vocabulary.json", "vectors.npz"},
}


def run(data, *args):
    return run_script(
        ".", "preprocess.py", "--tokenizer", "lexicon", "--size", "small", "--data_dir", data, *args
    )


def contents(data):
    return {
        path.relative_to(data): path.read_bytes()
        for folder in ("features", "info")
        for path in (data / folder).rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder that stage 1 has gone through, and what it said."""
    data = tmp_path_factory.mktemp("data")
    write_table(data / "train" / "train.tsv", ROWS)
    done = run(data)
    assert done.returncode == 0, done.stderr
    return data, done.stdout


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "copied")


def test_it_writes_what_it_promises_and_nothing_else(finished):
    data, _ = finished
    assert {path.name for path in data.iterdir()} == {"train", "features", "info", ".lock"}
    for folder, names in FILES.items():
        assert {path.name for path in (data / folder).iterdir()} == names


def test_the_store_has_each_product_once_in_order_of_appearance(finished):
    features = finished[0] / "features"
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in features.glob("*.npy")}
    assert arrays["product_ids"].tolist() == [5, 3, 8, 9]
    assert arrays["offsets"].tolist() == [0, 3, 4, 8, 10]
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "features": "float16",
        "boxes": "float32",
        "offsets": "int64",
        "product_ids": "int64",
    }
    assert arrays["features"].shape == (10, DIM)
    assert arrays["boxes"].shape == (10, 5)


def test_the_first_row_of_a_product_gives_its_regions_and_boxes_outside_are_kept(finished):
    store = RegionStore(finished[0] / "features")
    for row in PRODUCTS:
        found = store.gather(store.positions(np.array([row["product_id"]])))
        np.testing.assert_array_equal(found.features, row["features"].astype(np.float16).astype(np.float32))
        np.testing.assert_array_equal(found.boxes, scale_boxes(row["boxes"], 200, 400))


def test_what_is_kept_all_the_same_is_counted_and_reported(finished):
    _, said = finished
    assert re.search(r"\b2 boxes outside their image", said)
    assert re.search(r"\b2 later rows of a product that differ from its first", said)
    assert re.search(r"\b1 rows whose query text differs", said)
    assert "8 rows, 4 products, 10 regions, 5 queries" in said


def test_the_table_is_kept_without_its_base64_columns(finished):
    table = read_pickle(finished[0] / "info" / "data.pkl", "x")
    for name in ("product_id", "image_h", "image_w", "query_id"):
        assert table[name].tolist() == [row[name] for row in ROWS]
    offsets = table["class_label_offsets"]
    labels = [table["class_label"][a:b].tolist() for a, b in pairwise(offsets)]
    assert labels == [row["class_labels"].tolist() for row in ROWS]


def test_queries_have_their_first_text_and_all_their_products(finished):
    corpus = open_info(finished[0]).corpus
    assert corpus.query_ids.tolist() == [10, 11, 12, 14, 13]
    texts = ["red dress", "blue dress", "red jacket", "blue jacket", "the of"]
    assert read_texts(finished[0] / "info", "query2product2.pkl", "text") == texts
    assert [corpus.products[i].tolist() for i in range(5)] == [[3, 5, 9], [3], [5], [5, 8], [9]]
    assert (corpus.head_class >= 0).tolist() == [True] * 4 + [False]
    assert corpus.row_product.tolist() == [row["product_id"] for row in ROWS]


def test_the_vocabulary_is_the_lexicon_of_the_distinct_queries_at_the_sizes_width(finished):
    info = open_info(finished[0])
    texts = read_texts(finished[0] / "info", "query2product2.pkl", "text")
    vocabulary, words = build_lexicon(texts, 128, seed=2020)
    assert info.vocabulary.tokens == vocabulary.tokens
    np.testing.assert_array_equal(info.words.vectors, words.vectors)
    assert read_size(finished[0]) == "small"


@pytest.fixture(scope="module")
def with_bert(tmp_path_factory, bert_folder):
    """A folder that stage 1 has gone through with a BERT folder and float32."""
    data = tmp_path_factory.mktemp("bert_data")
    write_table(data / "train" / "train.tsv", ROWS)
    done = run(data, "--tokenizer", bert_folder, "--feature_dtype", "float32")
    assert done.returncode == 0, done.stderr
    return data


def test_float32_keeps_every_bit(with_bert):
    found = np.load(with_bert / "features" / "features.npy")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.concatenate([row["features"] for row in PRODUCTS]))


def test_a_bert_folder_gives_the_vocabulary(with_bert, bert_folder):
    info = open_info(with_bert)
    vocabulary, words = read_bert(str(bert_folder))
    assert info.vocabulary.to_dict() == vocabulary.to_dict()
    np.testing.assert_array_equal(info.words.vectors, words.vectors)
    np.testing.assert_array_equal(info.words.norm_bias, words.norm_bias)
    assert info.corpus.tokens[2].tolist() == vocabulary.encode("red jacket")
    names = read_texts(with_bert / "info", "data_info2.pkl", "head_class_name")
    assert names[info.corpus.head_class[2]] == "jacket"


def test_a_feature_too_large_for_float16_is_refused(tmp_path):
    features = np.full((1, DIM), 1e6, np.float32)
    rows = [*ROWS, table_row(77, 10, "red dress", 1, features=features)]
    write_table(tmp_path / "train" / "train.tsv", rows)
    assert_one_line_error(run(tmp_path), "train.tsv", "too large for float16", "--feature_dtype float32")
    assert contents(tmp_path) == {}


def test_run_again_it_says_that_the_work_is_finished_and_leaves_it(copied):
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.name != ".lock"}
    done = run(copied)
    assert done.returncode == 0, done.stderr
    assert "finished" in done.stdout
    assert "--force" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {path for path in copied.rglob("*") if path.name != ".lock"} == before.keys()


def test_other_settings_are_refused_and_leave_the_work(copied):
    before = contents(copied)
    done = run(copied, "--seed", "1", "--feature_dtype", "float32")
    assert_one_line_error(done, copied / "info" / MARKER, "seed 2020", "feature_dtype float16", "--force")
    for flag in ("--feature_dtype float32", "--bad_rows stop", "--seed 1", "--size small"):
        assert flag in done.stderr  # of the command that redoes it
    assert contents(copied) == before


def test_another_table_is_noticed(copied):
    write_table(copied / "train" / "train.tsv", ROWS[:-1])
    assert_one_line_error(run(copied), copied / "info" / MARKER, "train.tsv has changed since", "--force")


def test_force_redoes_the_work_to_the_same_bytes(copied):
    run(copied, "--force")  # the table's times, which the store's marker has, are those of the copy
    before = contents(copied)
    (copied / "features" / "features.npy").write_bytes(b"torn")
    (copied / "info" / "data.pkl").unlink()
    done = run(copied, "--force")
    assert done.returncode == 0, done.stderr
    assert contents(copied) == before


def test_the_marker_is_the_last_thing_written(finished):
    data, _ = finished
    marker = data / "info" / MARKER
    assert json.loads(marker.read_text())["tokenizer"] == "lexicon"
    times = [path.stat().st_mtime_ns for path in data.rglob("*") if path.is_file()]
    assert marker.stat().st_mtime_ns == max(times)


# getrusage would also count what pytest had in memory when it started the process.
PEAK = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(open("/proc/self/status").read())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from Linux' /proc")
def test_memory_does_not_grow_with_the_features(tmp_path):
    def peak(name, products):
        features = np.random.default_rng(0).random((10, 2048), np.float32)
        rows = (table_row(i, i % 9, f"red dress {i % 9}", 10, features=features) for i in range(products))
        table = write_table(tmp_path / name / "train" / "train.tsv", rows)
        size = ("--tokenizer", "lexicon", "--size", "small", "--data_dir", tmp_path / name)
        done = run_script(".", "-c", PEAK, ROOT / "preprocess.py", *size)
        assert done.returncode == 0, done.stderr
        table.unlink()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", done.stdout)[1])

    # 82 kB of features a product: 82 and 246 MB, both more than is held at a time.
    assert peak("large", 3000) - peak("small", 1000) < 40e6


def test_chunks_and_workers_change_nothing_in_the_output(tmp_path, monkeypatch):
    rows = [table_row(i % 40, i % 9, f"red dress {i % 9}", 1 + i % 5) for i in range(150)]
    for i in (77, 117):  # of product 37, whose first image is another
        rows[i]["image_h"] = 201
    table = Table(write_table(tmp_path / "t.tsv", rows))
    found = {}
    for workers, size in ((1, 1 << 25), (1, 1), (1, 1000), (2, 5000)):
        monkeypatch.setattr(conversion, "CHUNK_BYTES", size)
        folder = tmp_path / f"{workers}-{size}"
        done = Ingest(table, folder, "float16", workers)
        done.run()
        done.forget()
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        read = done.contents
        columns = {name: column.tolist() for name, column in read.join_columns().items()}
        counts = read.rows, read.products, read.regions, read.differing
        found[folder.name] = files, columns, read.texts, *counts
    first = found.pop("1-33554432")
    assert first[3:] == (150, 40, sum(1 + i % 5 for i in range(40)), 2)
    for name, other in found.items():
        assert other == first, name


def test_features_go_through_shared_memory_as_far_as_they_fit():
    features = [np.full((regions, 4), regions, np.float16) for regions in (2, 3, 1)]
    chunk = SimpleNamespace(features=[features[0], None, *features[1:]], columns=SimpleNamespace(digests=[1]))
    blocks = conversion.Blocks(count=2, size=30)
    taken = blocks.free.popleft()
    blocks.place(chunk, taken)
    # Of 16 bytes, of 24 which are too many then, and of 8.
    assert [isinstance(feature, tuple) for feature in chunk.features] == [True, False, False, True]
    future = Future()
    future.set_result(chunk)
    for found in blocks.collect(future, taken):
        assert found.features[1] is None
        for feature, expected in zip((found.features[i] for i in (0, 2, 3)), features, strict=True):
            assert feature.dtype == expected.dtype
            np.testing.assert_array_equal(feature, expected)
        assert taken not in blocks.free
    assert taken in blocks.free


@pytest.mark.parametrize("size", [1, 2000, 1 << 25])
def test_a_bad_row_is_named_by_its_line_in_whichever_chunk_it_is(tmp_path, monkeypatch, size):
    monkeypatch.setattr(conversion, "CHUNK_BYTES", size)
    rows = [table_row(i, i, "red dress") for i in range(30)]
    rows[20]["num_boxes"] = 0
    table = Table(write_table(tmp_path / "t.tsv", rows))
    with pytest.raises(UserError, match=r"t\.tsv, line 22: num_boxes must be"):
        Ingest(table, tmp_path / "store", "float16", 1).run()
    assert not (tmp_path / "store" / "features.npy").exists()


@pytest.mark.parametrize("size", [1, 1 << 25])
def test_features_of_another_dimension_are_refused_also_in_a_later_chunk(tmp_path, monkeypatch, size):
    monkeypatch.setattr(conversion, "CHUNK_BYTES", size)
    rows = [table_row(i, i, "red dress") for i in range(4)]
    rows[2]["features"] = np.zeros((2, DIM + 1), np.float32)
    table = Table(write_table(tmp_path / "t.tsv", rows))
    with pytest.raises(UserError, match=r"t\.tsv, line 4: features"):
        Ingest(table, tmp_path / "store", "float16", 1).run()


def test_the_dimension_is_that_of_the_first_good_row(tmp_path):
    rows = [table_row(i, i, "red dress") for i in range(5)]
    rows[0]["num_boxes"] = 0
    rows[3]["features"] = rows[3]["features"][:, : DIM // 2]
    write_table(tmp_path / "train" / "train.tsv", rows)
    done = run(tmp_path, "--bad_rows", "skip")
    assert done.returncode == 0, done.stderr
    assert "3 rows" in done.stdout
    listed = (tmp_path / "info" / "bad_rows.tsv").read_text()
    assert "features has 32 bytes, expected 2 × 8 × 4 = 64" in listed


@pytest.mark.parametrize("stamp", [[], None, ["a", 1, 2, 3], [1e400, 1, 2, 3], 7])
def test_a_marker_with_another_stamp_is_of_unfinished_work(copied, stamp):
    marker = copied / "features" / MARKER
    content = json.loads(marker.read_text())
    marker.write_text(json.dumps(content | {"table_stamp": stamp}).replace("Infinity", "1e400"))
    done = run(copied)
    assert done.returncode == 0, done.stderr
    assert "tokens" in done.stdout


def test_a_mistyped_tokenizer_leaves_finished_work_finished(tmp_path):
    write_table(tmp_path / "train" / "train.tsv", ROWS)
    told = ["preprocess.py", "--data_dir", tmp_path, "--size", "small"]
    assert run_script(".", *told, "--tokenizer", "lexicon").returncode == 0
    assert_one_line_error(run_script(".", *told, "--force", "--tokenizer", "lexikon"), "lexikon")
    assert "finished" in run_script(".", *told, "--tokenizer", "lexicon").stdout
    (tmp_path / "info" / MARKER).write_text("[1]")
    assert "tokens" in run_script(".", *told, "--tokenizer", "lexicon").stdout


def test_finished_work_that_lost_a_file_is_done_again(tmp_path):
    write_table(tmp_path / "train" / "train.tsv", ROWS)
    told = ["preprocess.py", "--data_dir", tmp_path, "--size", "small", "--tokenizer", "lexicon"]
    assert run_script(".", *told).returncode == 0
    (tmp_path / "features" / "boxes.npy").unlink()
    assert run_script(".", *told).returncode == 0
    assert (tmp_path / "features" / "boxes.npy").is_file()


def test_converting_processes_start_after_pytorch_has_worked(tmp_path):
    # A forked process that starts PyTorch's threads anew, as large arrays make it, waits forever.
    large = np.ones((20, 4096), np.float32)
    table = write_table(tmp_path / "train.tsv", [table_row(1, 1, "red dress", 20, features=large)])
    program = (
        "import sys, torch; from pathlib import Path;"
        "from kddcup.table.ingest import Ingest; from kddcup.table.table import Table;"
        "torch.rand(1 << 22).half();"
        "Ingest(Table(sys.argv[1]), Path(sys.argv[2]), 'float16', 2).run()"
    )
    done = run_script(".", "-c", program, table, tmp_path / "features")
    assert done.returncode == 0, done.stderr


def train_rows(count, queries):
    """So many rows of queries that share a word, each of a product of its own."""
    return [table_row(i, i % queries, f"dress {'abc'[i % queries]}{i % queries}") for i in range(count)]


# The training rows, further flags, and what the one line says.
UNTRAINABLE = {
    "a query lists all products": (
        [*train_rows(4, 1), table_row(2, 5, "dress")],
        (),
        "query 0 lists every product there is",
    ),
    "more processes than rows": (
        train_rows(3, 3),
        ("--processes", 4),
        "multilabel: 3 training products with words do not fill one batch of 1 in each of 4 processes",
    ),
    "the full size": (
        train_rows(40, 3),
        ("--size", "full", "--processes", 2),
        "multilabel: 40 training rows with words do not fill one batch of 200 in each of 2 processes",
    ),
}


@pytest.mark.parametrize("case", UNTRAINABLE)
def test_a_table_that_no_later_stage_could_train_on_is_refused_in_stage_1(tmp_path, case):
    rows, flags, expected = UNTRAINABLE[case]
    write_table(tmp_path / "train" / "train.tsv", rows)
    assert_one_line_error(run(tmp_path, *flags), f"{tmp_path} cannot be trained on", expected)
    assert not (tmp_path / "info" / MARKER).exists()


def test_finished_work_is_refused_for_more_processes_than_it_has_rows(copied):
    assert "finished" in run(copied, "--processes", 2).stdout
    assert_one_line_error(run(copied, "--processes", 50), "in each of 50 processes")


def test_a_table_as_editors_save_it_gives_the_same_files(finished, tmp_path):
    content = (finished[0] / "train" / "train.tsv").read_bytes()
    path = tmp_path / "train" / "train.tsv"
    path.parent.mkdir()
    path.write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n") + b"\r\n\n")
    done = run(tmp_path, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    expected, found = contents(finished[0]), contents(tmp_path)
    assert expected.keys() == found.keys()
    assert {name for name in found if found[name] != expected[name]} == {
        Path(folder, MARKER) for folder in ("features", "info")
    }
    assert "are finished" in run(tmp_path).stdout
