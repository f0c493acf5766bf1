"""MUGE in the form of Chinese-CLIP, as pictures and pairs.csv. Example:

    python -m kddcup.datasets muge --source MUGE --images data/muge/pictures --out data/muge

The folder MUGE has train_texts.jsonl and valid_texts.jsonl (text_id, text, image_ids) and train_imgs.tsv and
valid_imgs.tsv (id, tab, JPEG in base64). The test split has no answers and is left out; the queries of valid
are dealt to valid and testB by a hash of their text, half each.
"""

import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pybase64
from tqdm import tqdm

from kddcup.cli import parse_settings
from kddcup.io.errors import UserError
from kddcup.pictures.listing import WantedPicture, choose_split, write_listing
from kddcup.pictures.spreadsheet import Misfits

SHARES = {"train": (("train", 100),), "valid": (("valid", 50), ("testB", 50))}
"""What the queries of each published split become."""


@dataclass
class MugeSettings:
    """Settings of the conversion of MUGE.

    Args:
        source: folder of {train,valid}_texts.jsonl and {train,valid}_imgs.tsv.
        images: folder that the pictures are written to, ID.jpg each.
        out: folder of pairs.csv and images.csv.
    """

    source: str = "MUGE"
    images: str = "data/muge/pictures"
    out: str = "data/muge"


def read_texts(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Read queries and the ids of their pictures from a ``*_texts.jsonl``.

    Raises:
        UserError: it is absent, or has lines that are not of the form; the first ten are named.
    """
    misfits = Misfits(path)
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            try:
                content = json.loads(line)
                query, images = (
                    " ".join(content["text"].split()),
                    [_read_id(image) for image in content["image_ids"]],
                )
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                misfits.add(number, "it does not hold a text and image_ids")
                continue
            yield query, images
    misfits.check()


def write_pictures(path: Path, folder: Path) -> None:
    """Write the pictures of a ``*_imgs.tsv`` into a folder.

    Raises:
        UserError: it is absent, or has lines that are not of the form; the first ten are named.
    """
    misfits = Misfits(path)
    with _open(path) as file:
        for number, line in enumerate(tqdm(file, desc=path.name, unit="picture", disable=None), 1):
            name, _, content = line.rstrip("\n").partition("\t")
            try:
                # Both alphabets of base64 are in use.
                picture = pybase64.b64decode(content.translate({ord("-"): "+", ord("_"): "/"}), validate=True)
                (folder / f"{_read_id(name)}.jpg").write_bytes(picture)
            except (ValueError, binascii.Error):
                misfits.add(number, "it is not an id, a tab and base64")
    misfits.check()


def _read_id(content: object) -> str:
    """A picture's id, which is a whole number and so can be a file's name."""
    text = str(content)
    if not (text.isascii() and text.isdecimal()):
        raise ValueError
    return text


def _open(path: Path) -> TextIO:
    try:
        return open(path, encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist: put MUGE's file there, or name its folder with --source"
        ) from None


def main(args: list[str]) -> None:
    """Convert the set."""
    settings = parse_settings(MugeSettings, __doc__, args=args)
    source, images = Path(settings.source), Path(settings.images)
    images.mkdir(parents=True, exist_ok=True)
    rows, wanted = [], {}
    for published, shares in SHARES.items():
        for query, found in read_texts(source / f"{published}_texts.jsonl"):
            split = choose_split(query, shares)
            rows += [(query, product, split) for product in found]
            wanted.update(dict.fromkeys(found))
        write_pictures(source / f"{published}_imgs.tsv", images)
    pictures = [WantedPicture(product, f"{product}.jpg") for product in wanted]
    write_listing(Path(settings.out), images, pictures, ("query", "product_id", "split"), rows)
