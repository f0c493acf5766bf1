"""The drawn catalogue: what is drawn is what is said, and it is the same every time."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_one_line_error, run_script
from PIL import Image

from kddcup.io.errors import UserError
from kddcup.pictures.catalogue import COLOURS, KINDS, CatalogueSettings, write_catalogue
from kddcup.pictures.drawing import SIDE, ellipse, trace
from kddcup.pictures.pairs import read_pairs
from kddcup.pictures.wares import FORMS, TEXTURE_OF

PRODUCTS = 60


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("catalogue")
    write_catalogue(CatalogueSettings(out=str(out), products=PRODUCTS))
    return out


def read_rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "pairs.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_seed_gives_the_same_bytes(drawn: Path, tmp_path: Path) -> None:
    done = run_script(".", "-m", "kddcup.catalogue", "--out", tmp_path, "--products", PRODUCTS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{PRODUCTS} products and ")
    assert digests(tmp_path) == digests(drawn)
    write_catalogue(CatalogueSettings(out=str(tmp_path), products=3, seed=7))
    others = digests(tmp_path / "pictures")
    assert len(others) == 3
    assert not set(others.values()) & set(digests(drawn / "pictures").values())


def test_every_product_has_a_picture_and_a_query(drawn: Path) -> None:
    shop = read_pairs(drawn / "pairs.csv", drawn / "pictures")
    assert len(shop.products) == PRODUCTS
    assert not shop.missing
    assert {product.pictures[0].parent.name for product in shop.products} == {kind.english for kind in KINDS}
    for product in shop.products:
        with Image.open(product.pictures[0]) as picture:
            assert picture.size == (SIDE, SIDE)
            assert np.asarray(picture).std() > 10


def test_a_query_lists_all_products_that_have_its_words_and_no_other(drawn: Path) -> None:
    rows = read_rows(drawn)
    kinds = {form: kind.english for kind in KINDS for form, _ in kind.forms}
    said = {}
    for row in rows:
        title = row["title"].lower()
        form = next(form for form in FORMS if title.endswith(form))
        said[row["product_id"]] = {*title.split(), kinds[form]}
    known = set().union(*said.values())
    for query in {row["query"] for row in rows}:
        wanted = set(query.split()) & known
        assert {row["product_id"] for row in rows if row["query"] == query} == {
            shop_id for shop_id, words in said.items() if wanted <= words
        }


def test_a_product_has_the_colour_that_is_said(drawn: Path) -> None:
    """On plain things that shine little, the middle of the picture is near the colour, as hues go."""
    nearest = []
    for row in {row["product_id"]: row for row in read_rows(drawn)}.values():
        colour, pattern, material, form = row["title"].lower().split(maxsplit=3)
        if pattern != "plain" or material not in ("cotton", "canvas", "leather", "suede") or "lamp" in form:
            continue
        path = next((drawn / "pictures").rglob(f"{row['product_id']}.jpg"))
        with Image.open(path) as picture:
            middle = picture.crop((SIDE // 3, SIDE // 2, 2 * SIDE // 3, 2 * SIDE // 3)).resize((1, 1))
        seen = np.array(middle.getpixel((0, 0)), float)
        distances = {
            name: np.linalg.norm(seen / np.linalg.norm(seen) - np.array(rgb) / np.linalg.norm(rgb))
            for name, (_, rgb) in COLOURS.items()
        }
        nearest.append(colour in sorted(distances, key=distances.get)[:4])
    assert len(nearest) >= 5
    assert np.mean(nearest) >= 0.8


def test_chinese_queries_come_with_a_dictionary(tmp_path: Path) -> None:
    write_catalogue(CatalogueSettings(out=str(tmp_path), products=12, language="zh"))
    words = (tmp_path / "user_dict.txt").read_text().split()
    assert "马克杯" in words
    assert all(not word.isascii() for word in words)
    assert all(any(word in row["query"] for word in words) for row in read_rows(tmp_path))


def test_every_form_and_material_can_be_drawn() -> None:
    assert {form for kind in KINDS for form, _ in kind.forms} == set(FORMS)
    assert {material for kind in KINDS for material in kind.materials} <= set(TEXTURE_OF)


def test_other_pairs_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("query,product_id\n")
    with pytest.raises(UserError, match="has other pairs"):
        write_catalogue(CatalogueSettings(out=str(tmp_path)))
    assert_one_line_error(
        run_script(".", "-m", "kddcup.catalogue", "--out", tmp_path), "other pairs", tmp_path
    )


def test_outlines_are_read_as_svg_writes_them() -> None:
    assert trace("M 1 2 L 3 4 5 6 Z") == [(1, 2), (3, 4), (5, 6)]
    curve = trace("M 0 0 Q 10 0 10 10")
    assert curve[7] == pytest.approx((7.5, 2.5))  # its middle: a quarter of the ends, a half of the corner
    assert trace("M 0 0 C 0 8 8 8 8 0")[7] == pytest.approx((4, 6))
    assert np.ptp(ellipse(5, 6, 3, 2), axis=0) == pytest.approx((6, 4))
