"""Public sets as pairs.csv: small files of the forms that they are published in."""

import base64
import csv
import io
import json
import sys
from pathlib import Path

import pytest
from conftest import assert_one_line_error, run_script
from PIL import Image

from kddcup.pictures import esci
from kddcup.pictures.pairs import read_pairs


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, 40, 90)).save(buffer, "jpeg")
    return buffer.getvalue()


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


EXAMPLES = [
    {
        "example_id": number,
        "query": f"query\t{number // 4}",
        "query_id": number // 4,
        "product_id": f"B{number % 30:03}",
        "product_locale": "jp" if number % 10 == 9 else "us",
        "esci_label": "ESCI"[number % 4],
        "small_version": 1,
        "large_version": 1,
        "split": "test",
    }
    for number in range(800)
]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """ESCI's and SQID's files: B000 to B024 have an address, B000 to B019 a picture; B009 and B019 are jp."""
    lines = [f"B{number:03},https://a.b/{number}.png?x=1" for number in range(25)]
    (tmp_path / esci.URLS).write_text("\n".join(["product_id,image_url", *lines, "B029,"]) + "\n")
    (tmp_path / "images").mkdir()
    for number in range(20):
        (tmp_path / "images" / f"B{number:03}.jpg").write_bytes(jpeg(number))
    return tmp_path


def write_parquet(folder: Path, rows: list[dict[str, object]]) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow, which reads ESCI's parquet, is not installed")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / esci.EXAMPLES)


def convert_esci(folder: Path) -> None:
    esci.main(["--source", str(folder), "--images", str(folder / "images"), "--out", str(folder / "out")])


def check_esci(folder: Path) -> None:
    images = read_csv(folder / "out" / "images.csv")
    assert [row["product_id"] for row in images if row["missing"] == "1"] == [
        f"B{n:03}" for n in range(20, 25)
    ]
    assert images[0] == {
        "product_id": "B000",
        "image": "B000.png",
        "url": "https://a.b/0.png?x=1",
        "missing": "0",
    }
    rows = read_csv(folder / "out" / "pairs.csv")
    expected = [
        (f"query {one['query_id']}", one["product_id"], str(int(one["esci_label"] == "E")))
        for one in EXAMPLES
        if one["product_locale"] == "us" and one["product_id"] < "B020"
    ]
    assert [(row["query"], row["product_id"], row["relevance"]) for row in rows] == expected
    splits = {row["query"]: row["split"] for row in rows}
    assert all(splits[row["query"]] == row["split"] for row in rows)
    shares = [list(splits.values()).count(split) / len(splits) for split in ("train", "valid", "testB")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.07)
    shop = read_pairs(folder / "out" / "pairs.csv", folder / "images")
    assert list(shop.splits) == ["train", "valid", "testB"]
    assert not shop.missing


def test_esci_becomes_pairs(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(esci, "read_examples", lambda path: iter(EXAMPLES))
    convert_esci(published)
    check_esci(published)


def test_esci_is_read_from_parquet(published: Path) -> None:
    write_parquet(published, EXAMPLES)
    done = run_script(
        ".", "-m", "kddcup.datasets", "esci", "--source", published, "--images", published / "images",
        "--out", published / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "18 of 23 pictures are in" in done.stdout
    check_esci(published)


def test_esci_without_pictures_says_where_they_are(published: Path) -> None:
    write_parquet(published, EXAMPLES)
    done = run_script(
        ".", "-m", "kddcup.datasets", "esci", "--source", published, "--images", published / "none",
        "--out", published / "out",
    )  # fmt: skip
    assert_one_line_error(done, "none of the 23 pictures", "images.csv")
    assert len(read_csv(published / "out" / "images.csv")) == 23


def test_parquet_of_another_form_is_refused(published: Path) -> None:
    write_parquet(published, [{"query": "a"}])
    command = (".", "-m", "kddcup.datasets", "esci", "--source", published)
    assert_one_line_error(run_script(*command), esci.EXAMPLES, "cannot be read")
    (published / esci.EXAMPLES).write_text("no parquet")
    assert_one_line_error(run_script(*command), esci.EXAMPLES, "cannot be read")
    (published / esci.EXAMPLES).unlink()
    assert_one_line_error(run_script(*command), esci.EXAMPLES, "does not exist")


def test_parquet_without_its_library_ends_in_one_line(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Exception, match="pyarrow"):
        convert_esci(published)


def write_muge(folder: Path) -> None:
    """Train has images 0 to 39, valid 100 to 139; image 7 of train and 107 of valid are in no file."""
    for split, first in (("train", 0), ("valid", 100)):
        texts = [
            {"text_id": first + i, "text": f"红色 包{i}", "image_ids": [first + i, first + (i + 1) % 40]}
            for i in range(40)
        ]
        lines = (json.dumps(text, ensure_ascii=False) + "\n" for text in texts)
        (folder / f"{split}_texts.jsonl").write_text("".join(lines), encoding="utf-8")
        encode = base64.urlsafe_b64encode if split == "valid" else base64.b64encode
        pictures = (f"{first + i}\t{encode(jpeg(i)).decode()}\n" for i in range(40) if i != 7)
        (folder / f"{split}_imgs.tsv").write_text("".join(pictures))


def run_muge(folder: Path) -> tuple[object, ...]:
    return (
        ".",
        "-m",
        "kddcup.datasets",
        "muge",
        "--source",
        folder,
        "--images",
        folder / "p",
        "--out",
        folder,
    )


def test_muge_becomes_pictures_and_pairs(tmp_path: Path) -> None:
    write_muge(tmp_path)
    done = run_script(*run_muge(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "78 of 80 pictures are in" in done.stdout
    assert [row["product_id"] for row in read_csv(tmp_path / "images.csv") if row["missing"] == "1"] == [
        "7",
        "107",
    ]
    for number in (0, 139):
        assert (tmp_path / "p" / f"{number}.jpg").read_bytes() == jpeg(number % 100)
    shop = read_pairs(tmp_path / "pairs.csv", tmp_path / "p")
    assert list(shop.splits) == ["train", "valid", "testB"]
    assert shop.queries[0] == "红色 包0"
    for name in ("valid", "testB"):
        rows, answers = shop.splits[name]
        assert all(product >= 100 for product, _ in rows)
        assert max(sum(other == query for _, other in rows) for query in answers) > 10


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("train_texts.jsonl", '{"text": "a"}', "line 41: it does not hold a text and image_ids"),
        ("train_texts.jsonl", '{"text": "a", "image_ids": ["../x"]}', "line 41: it does not hold"),
        ("valid_texts.jsonl", "no json", "line 41: it does not hold"),
        ("train_imgs.tsv", "../x\tAAAA", "line 40: it is not an id"),
        ("train_imgs.tsv", "7\t???", "line 40: it is not an id"),
    ],
)
def test_muge_of_another_form_is_refused(tmp_path: Path, name: str, line: str, reason: str) -> None:
    write_muge(tmp_path)
    with open(tmp_path / name, "a") as file:
        file.write(line + "\n")
    assert_one_line_error(run_script(*run_muge(tmp_path)), name, reason)
    assert not (tmp_path / "pairs.csv").exists()


def test_a_set_that_is_not_known_is_refused(tmp_path: Path) -> None:
    for args in ((), ("coco",)):
        assert_one_line_error(run_script(".", "-m", "kddcup.datasets", *args), "esci or muge")
    assert_one_line_error(run_script(*run_muge(tmp_path)), "train_texts.jsonl does not exist")
