"""A shop as it lists itself: which query belongs to which product, and where the product's pictures are."""

import os
import re
import unicodedata
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from kddcup.io.errors import UserError
from kddcup.pictures.dealing import Pairs, deal_products, draw_candidates
from kddcup.pictures.spreadsheet import SHOWN, Spreadsheet
from kddcup.table.rows import MAX_DIGITS

PAIR_COLUMNS = ("query", "product_id", "split", "relevance", "image", "title", "url")
PRODUCT_COLUMNS = ("product_id", "image", "title", "url")
CATALOGUE_QUERY = "catalogue"
"""The query under which the products of a catalogue stand in its table."""
SPLITS = ("train", "valid", "testA", "testB")
RELEVANCES = {"": True, "1": True, "0": False}
_WHOLE_NUMBER = re.compile(f"0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}}")


class Product(NamedTuple):
    """A product.

    Args:
        number: its id in tables and predictions.
        shop_id: its id in the shop, any text.
        pictures: the files that show it, in order; at least one.
        title: for display; may be empty.
        url: likewise.
    """

    number: int
    shop_id: str
    pictures: tuple[Path, ...]
    title: str = ""
    url: str = ""


class SplitRows(NamedTuple):
    """The rows of one table, and what of it is relevant.

    Args:
        rows: (number of a product, id of a query) in the table's order, each once.
        answers: the relevant products' numbers by query id; none for train, whose rows are all relevant.
    """

    rows: list[tuple[int, int]]
    answers: dict[int, list[int]]


class MissingPicture(NamedTuple):
    """A picture that is not there, as it was named, and the id of the product that it should show."""

    name: str
    shop_id: str


@dataclass(frozen=True)
class Shop:
    """Products, queries, and the tables to be written of them.

    Args:
        products: those with a picture, in order of first appearance.
        queries: the text of each query id, counted from 0; without tabs and line ends.
        splits: rows by the name of the table, in the order of :data:`SPLITS`; those without a row are absent.
        missing: pictures that are named and not there. A product that has no other is left out.
    """

    products: list[Product]
    queries: list[str]
    splits: dict[str, SplitRows]
    missing: list[MissingPicture]

    def without(self, numbers: Collection[int]) -> "Shop":
        """The shop without some products, by their numbers; queries keep their ids."""
        lost = set(numbers)
        splits = {}
        for name, (rows, answers) in self.splits.items():
            kept = [row for row in rows if row[0] not in lost]
            found = {
                query: [number for number in right if number not in lost] for query, right in answers.items()
            }
            if kept:
                splits[name] = SplitRows(kept, {query: right for query, right in found.items() if right})
        products = [product for product in self.products if product.number not in lost]
        return replace(self, products=products, splits=splits)


def read_pairs(path: Path, images_dir: Path) -> Shop:
    """Read a table of pairs and find the pictures.

    The columns are ``query`` and ``product_id`` (any text), and optionally ``split``, ``relevance`` (0 or 1,
    1 by default), ``image`` (a path from ``images_dir`` or from the table's folder; by default every
    ``PRODUCT_ID.*`` in ``images_dir`` and below), ``title`` and ``url``. A row without a query takes its
    title for one. A product's pictures are those of all its rows.

    Product ids that are whole numbers are kept, if all of them are; else products are numbered from 1 in
    order of first appearance.

    Without ``split``, products are dealt to train, valid and testB by what their pictures hold. Without
    ``split`` or without ``relevance``, the queries of valid, testA and testB get candidates, as
    :func:`kddcup.pictures.dealing.draw_candidates` says.

    Args:
        path: CSV, TSV or JSON lines, as :class:`kddcup.pictures.spreadsheet.Spreadsheet` reads them.
        images_dir: the folder of pictures.

    Raises:
        UserError: the table cannot be read, has rows that do not fit, of which the first ten are named, or no
            product has a picture.
    """
    _check_folder(images_dir)
    sheet = Spreadsheet(path, PAIR_COLUMNS)
    lacking = [name for name in ("product_id", "query") if name not in sheet.columns]
    if lacking and not (lacking == ["query"] and "title" in sheet.columns):
        raise UserError(
            f"{path}, line 1: there is no column {' and no column '.join(lacking)}; "
            f"expected query and product_id, and as you like {', '.join(PAIR_COLUMNS[2:])}"
        )
    split_given = "split" in sheet.columns
    listing = _Listing(split_given)
    _read_rows(sheet, listing.add_pair)

    products, missing = listing.products(path, images_dir)
    places = {listing.places[product.shop_id]: product for product in products}
    pairs = {
        split: {pair: relevant for pair, relevant in found.items() if pair[0] in places}
        for split, found in listing.pairs.items()
    }
    if not split_given:
        pictures = {place: product.pictures for place, product in places.items()}
        pairs = deal_products(pairs.get("", {}), pictures, path)
    splits = {}
    for name in SPLITS:
        found = pairs.get(name, {})
        if name == "train":
            found = {pair: relevant for pair, relevant in found.items() if relevant}
        elif not (split_given and "relevance" in sheet.columns):
            titles = {place: product.title for place, product in places.items()}
            found = draw_candidates(found, list(listing.queries), titles)
        if found:
            splits[name] = _numbered(found, places, name)
    return Shop(products, list(listing.queries), splits, missing)


def read_catalogue(images_dir: Path, path: Path | None = None) -> Shop:
    """Find the products of a catalogue, of which nobody has to have asked for any.

    Args:
        images_dir: the folder of pictures.
        path: a table as :func:`read_pairs` reads it, of which ``product_id`` alone is needed; by default each
            ``NAME.*`` in the folder and below shows the product NAME.

    Returns:
        All of them, as rows of train under one query.

    Raises:
        UserError: as :func:`read_pairs`.
    """
    _check_folder(images_dir)
    listing = _Listing(split_given=False)
    if path is None:
        for name in find_pictures(images_dir):
            listing.add_product({**dict.fromkeys(PRODUCT_COLUMNS, ""), "product_id": name})
    else:
        sheet = Spreadsheet(path, PRODUCT_COLUMNS)
        if "product_id" not in sheet.columns:
            raise UserError(f"{path}, line 1: there is no column product_id, which names the products")
        _read_rows(sheet, listing.add_product)
    products, missing = listing.products(path or images_dir, images_dir)
    rows = SplitRows([(product.number, 0) for product in products], {})
    return Shop(products, [CATALOGUE_QUERY], {"train": rows}, missing)


def _read_rows(sheet: Spreadsheet, take: Callable[[dict[str, str]], object]) -> None:
    """Take up all rows of a table.

    Raises:
        UserError: some do not fit.
    """
    for line, fields in sheet.records():
        try:
            take(fields)
        except ValueError as error:
            sheet.misfits.add(line, str(error))
    sheet.misfits.check()


def _check_folder(images_dir: Path) -> None:
    if not images_dir.is_dir():
        raise UserError(f"{images_dir} is not a folder: name with --images the one that has the pictures")


def _numbered(found: Pairs, places: dict[int, Product], name: str) -> SplitRows:
    rows = [(places[place].number, query) for place, query in found]
    answers: dict[int, list[int]] = {}
    for row, relevant in zip(rows, found.values(), strict=True):
        if relevant and name != "train":
            answers.setdefault(row[1], []).append(row[0])
    return SplitRows(rows, answers)


@dataclass
class _Entry:
    """What the rows of a product say of it."""

    title: str = ""
    url: str = ""
    images: dict[str, None] = field(default_factory=dict)


class _Listing:
    """The rows of a table of pairs, joined by product and by query.

    Args:
        split_given: whether each row must name its split.

    Attributes:
        places: of the shop's ids, in order of first appearance, from 0.
        queries: their ids, likewise.
        pairs: by split (``""`` where rows have none), whether a product's place and a query belong together.
    """

    def __init__(self, split_given: bool) -> None:
        self._split_given = split_given
        self._entries: list[_Entry] = []
        self.places: dict[str, int] = {}
        self.queries: dict[str, int] = {}
        self.pairs: dict[str, Pairs] = {}

    def add_pair(self, fields: dict[str, str]) -> None:
        """Take up a row's product, and the query that it belongs to.

        Raises:
            ValueError: it does not fit; says why.
        """
        place = self.add_product(fields)
        text = " ".join((fields["query"] or fields["title"]).split())
        split, relevance = fields["split"], fields["relevance"]
        if not text:
            raise ValueError("it has no query")
        if relevance not in RELEVANCES:
            raise ValueError(f"relevance is {relevance!r}, expected 0 or 1")
        if self._split_given and split not in SPLITS:
            raise ValueError(f"split is {split!r}, expected {', '.join(SPLITS)}")
        pair = place, self.queries.setdefault(text, len(self.queries))
        relevant = RELEVANCES[relevance]
        if self.pairs.setdefault(split, {}).setdefault(pair, relevant) != relevant:
            raise ValueError("relevance is not what an earlier row of this query and product has")

    def add_product(self, fields: dict[str, str]) -> int:
        """Take up a row's product alone; gives its place.

        Raises:
            ValueError: there is none.
        """
        shop_id = fields["product_id"]
        if not shop_id:
            raise ValueError("it has no product_id")
        place = self.places.setdefault(shop_id, len(self.places))
        if place == len(self._entries):
            self._entries.append(_Entry())
        entry = self._entries[place]
        entry.title = entry.title or " ".join(fields["title"].split())
        entry.url = entry.url or fields["url"]
        if fields["image"]:
            entry.images[fields["image"]] = None
        return place

    def products(self, path: Path, images_dir: Path) -> tuple[list[Product], list[MissingPicture]]:
        """The products that have a picture, and the pictures that are not there.

        Raises:
            UserError: no product has one.
        """
        whole = all(_WHOLE_NUMBER.fullmatch(shop_id) for shop_id in self.places)
        by_stem = {} if all(entry.images for entry in self._entries) else find_pictures(images_dir)
        products: list[Product] = []
        missing: list[MissingPicture] = []
        for (shop_id, place), entry in zip(self.places.items(), self._entries, strict=True):
            pictures: list[Path] = []
            for image in entry.images:
                there = [folder / image for folder in (images_dir, path.parent) if (folder / image).is_file()]
                if there:
                    pictures.append(there[0])
                else:
                    missing.append(MissingPicture(image, shop_id))
            if not entry.images:
                pictures = by_stem.get(unicodedata.normalize("NFC", shop_id), [])
                if not pictures:
                    missing.append(MissingPicture(f"{shop_id}.*", shop_id))
            if pictures:
                number = int(shop_id) if whole else place + 1
                products.append(Product(number, shop_id, tuple(pictures), entry.title, entry.url))
        if not self.places:
            raise UserError(f"{path} has a header and no row: list the products there")
        if not products:
            names = ", ".join(picture.name for picture in missing[:SHOWN])
            more = f" and {len(missing) - SHOWN:,} more" if len(missing) > SHOWN else ""
            raise UserError(f"{images_dir} has none of the pictures of {path}: {names}{more} are missing")
        return products, missing


def find_pictures(folder: Path) -> dict[str, list[Path]]:
    """The pictures in a folder and below by their names without suffix, in the order of their paths.

    A picture is a file with a suffix of a format that Pillow reads. Names are in Unicode's composed form, in
    which lists are, whatever form the file system keeps them in.
    """
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}
    found: dict[str, list[Path]] = {}
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in suffixes:
                found.setdefault(unicodedata.normalize("NFC", stem), []).append(Path(parent, name))
    return found
