"""Files beside tables of one's own products."""

from pathlib import Path

import pytest

from kddcup.io.errors import UserError
from kddcup.table.products import (
    ListedPicture,
    ListedProduct,
    read_pictures,
    read_products,
    write_pictures,
    write_products,
)

PRODUCTS = [ListedProduct(1, "007", 'A "red", bag', "https://a.b/?c,d"), ListedProduct(2, "包\n1", "", "")]


def test_products_come_back_as_they_were_written(tmp_path: Path) -> None:
    write_products(tmp_path, PRODUCTS)
    assert read_products(tmp_path) == {1: PRODUCTS[0], 2: PRODUCTS[1]}


def test_pictures_move_with_the_folder(tmp_path: Path) -> None:
    data, photos = tmp_path / "old" / "data", tmp_path / "old" / "photos"
    listed = [ListedPicture(5, photos / name, 30, 40, 6) for name in ("b.jpg", "a, b.jpg")]
    write_pictures(data, [*listed, ListedPicture(4, photos / "c.jpg", 1, 2, 3)])
    assert str(tmp_path) not in (data / "pictures.csv").read_text()
    (tmp_path / "old").rename(tmp_path / "new")
    found = read_pictures(tmp_path / "new" / "data")
    assert [one.path.resolve() for one in found[5]] == [
        tmp_path / "new" / "photos" / name for name in ("b.jpg", "a, b.jpg")
    ]
    assert found[4][0][2:] == (1, 2, 3)


def test_tables_of_the_competition_have_neither(tmp_path: Path) -> None:
    assert read_products(tmp_path) == read_pictures(tmp_path) == {}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("id,title\n", "line 1: expected product_id,shop_id,title,url"),
        ("product_id,shop_id,title,url\n1,a,b\n", "line 2: expected 4 fields, found 3"),
        ("product_id,shop_id,title,url\n1,a,b,c\n-1,a,b,c\n", "line 3: '-1' is not a whole number"),
        ('product_id,shop_id,title,url\n1,"a,b,c\n', "cannot be read"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "products.csv").write_text(content)
    with pytest.raises(UserError) as error:
        read_products(tmp_path)
    assert reason in str(error.value)
