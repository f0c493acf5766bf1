"""What travels beside tables of one's own products: the shop's ids and titles, the files of pictures."""

import csv
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from kddcup.io.errors import UserError, explain_error
from kddcup.io.files import format_csv, write_text
from kddcup.table.rows import MAX_DIGITS

MADE_BY = "python -m kddcup.extract"


class ListedProduct(NamedTuple):
    """A product as its shop knows it; the table's ``product_id`` is its ``number``."""

    number: int
    shop_id: str
    title: str
    url: str


class ListedPicture(NamedTuple):
    """A file that shows a product, ``height`` × ``width`` pixels, and how many regions it gave the table."""

    number: int
    path: Path
    height: int
    width: int
    regions: int


def find_link(url: str) -> str:
    """Give a product's ``url`` where it leads to the web, else nothing: other links can run a script."""
    return url if url.startswith(("https://", "http://")) else ""


def write_products(data_dir: Path, products: Iterable[ListedProduct]) -> None:
    """Write ``DATA/products.csv``."""
    rows = [["product_id", "shop_id", "title", "url"], *map(list, products)]
    write_text(data_dir / "products.csv", format_csv(rows))


def read_products(data_dir: Path) -> dict[int, ListedProduct]:
    """The products of ``DATA/products.csv`` by number; none where there is no such file.

    Raises:
        UserError: it is not as :func:`write_products` writes it.
    """
    path = data_dir / "products.csv"
    found = {}
    for line, (number, *texts) in _rows(path, ["product_id", "shop_id", "title", "url"]):
        product = ListedProduct(_number(path, line, number), *texts)
        found[product.number] = product
    return found


def write_pictures(data_dir: Path, pictures: Iterable[ListedPicture]) -> None:
    """Write ``DATA/pictures.csv``: a row a picture, those of a product together, in the order of its regions.

    Paths are relative to the folder, so that both can move together.
    """
    rows: list[list[object]] = [["product_id", "image", "height", "width", "regions"]]
    folder = data_dir.resolve()
    for number, path, *sizes in pictures:
        rows.append([number, os.path.relpath(path.resolve(), folder), *sizes])
    write_text(data_dir / "pictures.csv", format_csv(rows))


def read_pictures(data_dir: Path) -> dict[int, list[ListedPicture]]:
    """The pictures of ``DATA/pictures.csv`` by product; none where there is no such file.

    Raises:
        UserError: it is not as :func:`write_pictures` writes it.
    """
    path = data_dir / "pictures.csv"
    folder = data_dir.resolve()
    found: dict[int, list[ListedPicture]] = {}
    for line, (number, image, *sizes) in _rows(path, ["product_id", "image", "height", "width", "regions"]):
        numbers = [_number(path, line, text) for text in (number, *sizes)]
        found.setdefault(numbers[0], []).append(ListedPicture(numbers[0], folder / image, *numbers[1:]))
    return found


def _rows(path: Path, header: list[str]) -> Iterator[tuple[int, list[str]]]:
    """The rows of a file and the line on which each ends; none where there is no such file."""
    if not path.is_file():
        return
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            if next(reader, None) != header:
                raise UserError(f"{path}, line 1: expected {','.join(header)}: make it with '{MADE_BY}'")
            for row in reader:
                if len(row) != len(header):
                    raise UserError(
                        f"{path}, line {reader.line_num}: expected {len(header)} fields, found {len(row)}: "
                        f"make it with '{MADE_BY}'"
                    )
                yield reader.line_num, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({explain_error(error)}): make it with '{MADE_BY}'") from None


def _number(path: Path, line: int, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        raise UserError(f"{path}, line {line}: {text!r} is not a whole number: make it with '{MADE_BY}'")
    return int(text)
