"""What a converter of a public set writes: pairs.csv, and which pictures there are and which are missing."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import xxhash

from kddcup.io.errors import UserError
from kddcup.io.files import format_csv, write_text
from kddcup.pictures.pairs import find_pictures

PAIRS, IMAGES = "pairs.csv", "images.csv"


class WantedPicture(NamedTuple):
    """A picture that a set has: of which product, the name that its file should have, and where to get it."""

    product_id: str
    name: str
    url: str = ""


def choose_split(query: str, shares: Sequence[tuple[str, int]]) -> str:
    """Choose the split of a query by a hash of its text.

    Args:
        query: its text.
        shares: the splits, and how many of a hundred queries each gets.
    """
    place = xxhash.xxh3_64_intdigest(query.encode()) % 100
    for name, share in shares:
        place -= share
        if place < 0:
            return name
    raise ValueError(f"the shares {shares} are less than a hundred")


def write_listing(
    out: Path,
    folder: Path,
    pictures: Iterable[WantedPicture],
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
) -> None:
    """Write ``images.csv`` of all pictures, and ``pairs.csv`` of the products whose picture is there.

    Args:
        out: folder of both files.
        folder: of the pictures; it may be absent as yet.
        pictures: those of the set.
        columns: of the pairs, ``query`` and ``product_id`` first.
        rows: the pairs.

    Raises:
        UserError: no picture is there yet; ``images.csv`` says where to get them.
    """
    there = find_pictures(folder)
    listed, missing = [], 0
    for product_id, name, url in pictures:
        is_missing = product_id not in there
        missing += is_missing
        listed.append([product_id, name, url, int(is_missing)])
    write_text(out / IMAGES, format_csv([["product_id", "image", "url", "missing"], *listed]))
    if missing == len(listed):
        raise UserError(
            f"{folder} has none of the {len(listed):,} pictures: get them under the names that "
            f"{out / IMAGES} has, and run again"
        )
    kept = [list(row) for row in rows if row[1] in there]
    write_text(out / PAIRS, format_csv([list(columns), *kept]))
    print(f"{len(listed) - missing:,} of {len(listed):,} pictures are in {folder}; {out / IMAGES} lists all")
    print(f"{len(kept):,} pairs: {out / PAIRS}")
