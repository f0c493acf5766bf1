"""From a folder of pictures to tables, through the command and in this process with a small network."""

import json
import os
import signal

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torch import nn

from kddcup.io.errors import UserError
from kddcup.pictures import extraction, pipeline
from kddcup.pictures.backbones import Backbone, Pixels
from kddcup.pictures.decode import open_picture
from kddcup.pictures.journal import RegionJournal
from kddcup.pictures.regions import CROPS
from kddcup.table.extractor import Extractor, read_extractor
from kddcup.table.labels import read_labels
from kddcup.table.products import read_pictures
from kddcup.table.table import Table
from tests.conftest import call_main, run_script

COLOURS = ("red", "green", "blue", "black", "white", "yellow", "navy", "pink", "grey", "brown")


@pytest.fixture
def shop(tmp_path):
    """Ten pictures of two shapes, and a table in which each colour's query finds its picture."""
    images = tmp_path / "images"
    (images / "below").mkdir(parents=True)
    rows = ["query,product_id,split,relevance"]
    for i, colour in enumerate(COLOURS):
        folder = images / "below" if i % 2 else images
        Image.new("RGB", (40, 20) if i % 3 else (20, 20), colour).save(folder / f"{i}.png")
        rows += [f"{colour},{i},train,1", f"{colour},{i},valid,1", f"{colour},{(i + 1) % 10},valid,0"]
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def flags(shop, out="out", **more):
    given = {"images": shop / "images", "pairs": shop / "pairs.csv", "out": shop / out, "workers": 1, **more}
    return [text for name, value in given.items() for text in (f"--{name}", value)]


@pytest.fixture
def small_network(monkeypatch):
    """Of 8 dimensions; chunks have three pictures."""
    torch.manual_seed(0)
    network = nn.Conv2d(3, 8, 32, 32).eval()

    def load(precision):
        return Backbone("small", "0" * 64, Pixels(side=64), network, nn.Module.__call__, 8, precision)

    monkeypatch.setattr(extraction, "load_default", load)
    monkeypatch.setitem(pipeline.CHUNK, "cpu", 3)


def extract(*given):
    return call_main("kddcup.extract", *given)


def read_files(out):
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in (".lock", "complete.json")
    }


def rows_of(out, split="train"):
    return list(Table(out / split / f"{split}.tsv").rows("test"))


def test_the_command_writes_tables_that_torchrun_writes_too(shop):
    done = run_script(".", "-m", "kddcup.extract", *flags(shop))
    assert done.returncode == 0, done.stderr
    assert "10 products, 10 pictures and 30 rows: up to 1 MB of tables (41 kB a row)" in done.stdout
    row = rows_of(shop / "out")[0]
    assert row.features.shape == (6, 1280)
    assert row.features.min() == 0
    assert read_extractor(shop / "out").backbone == "efficientnet-lite0"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "kddcup.extract")
    done = run_script(".", *launcher, *flags(shop, "shared"))
    assert done.returncode == 0, done.stderr
    assert read_files(shop / "shared") == read_files(shop / "out")


def test_a_row_holds_the_regions_of_a_picture(shop, small_network):
    printed = extract(*flags(shop))
    assert "train: 10 queries, 10 rows" in printed
    out = shop / "out"
    rows = {row.product_id: row for row in rows_of(out)}
    assert (rows[0].image_h, rows[0].image_w, rows[1].image_w) == (20, 20, 40)
    np.testing.assert_allclose(rows[1].boxes, CROPS * [20, 40, 20, 40], rtol=1e-6)
    assert rows[1].class_labels.tolist() == [0] * 6
    assert rows[1].features.shape == (6, 8)
    # Of a picture of one colour all regions are alike; red and green are not.
    assert np.ptp(rows[1].features, axis=0).max() < 1e-5
    assert np.abs(rows[0].features[0] - rows[1].features[0]).max() > 1e-2
    assert read_labels(out) == {0: "picture"}
    answers = json.loads((out / "valid" / "valid_answer.json").read_text())
    texts = {str(row.query_id): row.query for row in rows_of(out, "valid")}
    assert {texts[query]: products for query, products in answers.items()} == {
        colour: [i] for i, colour in enumerate(COLOURS)
    }
    assert read_extractor(out) == Extractor("6 crops", 8, str(Pixels(side=64)), "small", "0" * 64)


def test_a_grid(shop, small_network):
    extract(*flags(shop, grid=2))
    assert rows_of(shop / "out")[0].boxes.tolist() == [
        [0, 0, 10, 10],
        [0, 10, 10, 20],
        [10, 0, 20, 10],
        [10, 10, 20, 20],
    ]
    assert read_extractor(shop / "out").regions == "2 x 2 crops"


def test_several_pictures_of_a_product_stand_side_by_side(shop, small_network):
    Image.new("RGB", (30, 50), "red").save(shop / "images" / "back.png")
    with open(shop / "pairs.csv", "w") as file:
        file.write(
            "query,product_id,split,image\nred,0,train,0.png\nred,0,train,back.png\nblue,2,train,2.png\n"
        )
    extract(*flags(shop))
    row = next(row for row in rows_of(shop / "out") if row.product_id == 0)
    assert (row.image_h, row.image_w, len(row.boxes)) == (50, 50, 12)
    np.testing.assert_allclose(row.boxes[6], [0, 20, 50, 50])
    np.testing.assert_allclose(row.boxes[7], [10, 26, 40, 44])
    pictures = read_pictures(shop / "out")[0]
    assert [(picture.path.name, *picture[2:]) for picture in pictures] == [
        ("0.png", 20, 20, 6),
        ("back.png", 50, 30, 6),
    ]


class Killed(BaseException):
    pass


def test_killed_at_any_moment_it_goes_on_and_ends_with_the_same_bytes(shop, small_network, monkeypatch):
    extract(*flags(shop, "undisturbed"))
    replace, runs = os.replace, 0
    for runs in range(1, 100):
        left = [2]  # files that each run can write

        def counted(*args, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            replace(*args)

        monkeypatch.setattr(os, "replace", counted)
        # A table takes a write of its own each time; so does the plan, the first time.
        if runs > 6:
            left[0] = 100
        try:
            extract(*flags(shop))
        except Killed:
            continue
        break
    assert runs > 3
    assert read_files(shop / "out") == read_files(shop / "undisturbed")
    assert not (shop / "out" / ".extraction").exists()


def test_what_was_seen_is_not_seen_again(shop, small_network, monkeypatch):
    written = []
    write = RegionJournal.write

    def stop_after_two(self, chunk, pictures, dim):
        if len(written) == 2:
            raise Killed
        written.append(chunk)
        write(self, chunk, pictures, dim)

    monkeypatch.setattr(RegionJournal, "write", stop_after_two)
    with pytest.raises(Killed):
        extract(*flags(shop))
    monkeypatch.setattr(RegionJournal, "write", lambda *args: (written.append(args[1]), write(*args)))
    extract(*flags(shop))
    assert written == [0, 1, 2, 3]


def test_finished_work_is_not_done_again(shop, small_network, monkeypatch):
    extract(*flags(shop))
    before = read_files(shop / "out")
    assert "finished; '--force' redoes it" in extract(*flags(shop))
    with pytest.raises(UserError, match="tables of other pictures or of other settings"):
        extract(*flags(shop, grid=2))
    extract(*flags(shop), "--force", "--grid", 2)
    assert read_files(shop / "out") != before
    extract(*flags(shop), "--force")
    assert read_files(shop / "out") == before


def test_other_tables_are_left_alone(shop, small_network):
    (shop / "out" / "train").mkdir(parents=True)
    (shop / "out" / "train" / "train.tsv").write_text("precious")
    for more in ([], ["--force"]):
        with pytest.raises(UserError, match="tables that were not made by"):
            extract(*flags(shop), *more)
    assert (shop / "out" / "train" / "train.tsv").read_text() == "precious"


def test_a_changed_picture_is_seen_anew(shop, small_network, monkeypatch):
    write = RegionJournal.write

    def stop(self, chunk, pictures, dim):
        if chunk == 2:
            raise Killed
        write(self, chunk, pictures, dim)

    monkeypatch.setattr(RegionJournal, "write", stop)
    with pytest.raises(Killed):
        extract(*flags(shop))
    monkeypatch.setattr(RegionJournal, "write", write)
    Image.new("RGB", (20, 20), "purple").save(shop / "images" / "0.png")
    extract(*flags(shop))
    extract(*flags(shop, "fresh"))
    assert read_files(shop / "out") == read_files(shop / "fresh")


def test_bad_pictures_are_listed_and_skipped(shop, small_network):
    (shop / "images" / "0.png").write_text("no picture")
    (shop / "images" / "below" / "1.png").unlink()
    printed = extract(*flags(shop))
    assert "skipped 2 pictures" in printed
    out = shop / "out"
    listed = (out / "bad_pictures.csv").read_text().splitlines()
    assert listed[0] == "image,reason"
    assert listed[1].endswith(",there is no such file")
    assert listed[2].endswith('0.png,"it is not a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"')
    assert {row.product_id for row in rows_of(out)} == set(range(2, 10))
    answers = json.loads((out / "valid" / "valid_answer.json").read_text())
    assert sorted(map(tuple, answers.values())) == [(i,) for i in range(2, 10)]
    with pytest.raises(
        UserError, match=r"2 pictures are missing or cannot be read, listed in .*bad_pictures\.csv"
    ):
        extract(*flags(shop, "strict", max_bad_pictures=1))
    assert (shop / "strict" / "bad_pictures.csv").read_text().count("\n") == 3


def test_nothing_but_bad_pictures(shop, small_network):
    for path in (shop / "images").rglob("*.png"):
        path.write_text("no picture")
    with pytest.raises(UserError, match="no product of train has a picture that can be read"):
        extract(*flags(shop))


def test_a_process_that_is_killed_ends_the_run_in_one_line(shop, small_network, monkeypatch):
    parent = os.getpid()

    def die(path, shortest):
        assert os.getpid() != parent
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(pipeline, "open_picture", die)
    with pytest.raises(UserError, match="a process that reads pictures was killed .* fewer --workers"):
        extract(*flags(shop))


def test_a_run_that_is_killed_leaves_no_process(shop, small_network, monkeypatch):
    """Its workers wait for it to take what they have seen, which fills the pipe to it."""
    wide = nn.Conv2d(3, 4096, 32, 32).eval()
    backbone = Backbone("wide", "0" * 64, Pixels(side=32), wide, nn.Module.__call__, 4096, "float32")
    monkeypatch.setattr(extraction, "load_default", lambda _: backbone)
    pids = shop / "pids"
    pids.mkdir()

    def note(path, shortest):
        (pids / str(os.getpid())).touch()
        return open_picture(path, shortest)

    monkeypatch.setattr(pipeline, "open_picture", note)
    monkeypatch.setattr(RegionJournal, "write", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    child = os.fork()
    if not child:
        extract(*flags(shop, workers=2))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    workers = [int(path.name) for path in pids.iterdir()]
    assert workers
    _, left = psutil.wait_procs([psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)], 60)
    assert left == []


def test_bf16_is_another_extractor(shop, small_network):
    extract(*flags(shop))
    extract(*flags(shop, "half", precision="bf16"))
    first, second = (rows_of(shop / out)[0].features for out in ("out", "half"))
    np.testing.assert_allclose(first, second, atol=0.05)
    assert not np.array_equal(first, second)
    assert read_extractor(shop / "out") != read_extractor(shop / "half")


def test_decoding_beside_the_network_gives_what_decoding_within_gives(shop, small_network, monkeypatch):
    extract(*flags(shop))
    # As where there is a GPU.
    monkeypatch.setattr(pipeline.Pipeline, "_compute_within", pipeline.Pipeline._compute_beside)
    extract(*flags(shop, "beside"))
    assert read_files(shop / "beside") == read_files(shop / "out")


@pytest.mark.parametrize("lacking", ["images", "pairs", "out"])
def test_what_is_needed_is_asked_for(shop, lacking):
    given = flags(shop)
    at = given.index(f"--{lacking}")
    with pytest.raises(UserError, match=f"--{lacking} is needed; see --help"):
        extract(*given[:at], *given[at + 2 :])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"images": "nowhere"}, "nowhere is not a folder"),
        ({"pairs": "nowhere.csv"}, "nowhere.csv"),
        ({"grid": -1}, "grid"),
        ({"grid": 17}, "--grid 17 is too fine"),
        ({"precision": "fp8"}, "precision"),
    ],
)
def test_mistakes_end_in_one_line(shop, given, expected):
    with pytest.raises(UserError, match=expected):
        extract(*flags(shop, **given))
