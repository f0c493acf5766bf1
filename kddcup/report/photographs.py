"""Photographs of products, small enough to travel in a page."""

import base64
from collections.abc import Collection
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from kddcup.io.errors import UserError
from kddcup.pictures.decode import BadPictureError, open_picture
from kddcup.pictures.thumbnails import encode_webp, join_pictures
from kddcup.table.products import read_pictures

LONGEST_SIDE = 240
"""In pixels; a picture is about half as large on the page."""
QUALITY = 60
"""Of WebP, from 0 to 100."""


def read_photographs(folder: Path, products: Collection[int]) -> dict[int, str]:
    """The photographs ``PRODUCT_ID.jpg`` that there are, as base64 of WebP, by product id.

    Raises:
        UserError: the folder is absent or has none of the products, or a file is no image.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: name with --images one that has PRODUCT_ID.jpg")
    paths = {product: folder / f"{product}.jpg" for product in sorted(products)}
    present = {product: path for product, path in paths.items() if path.is_file()}
    if not present:
        raise UserError(
            f"{folder} has no photograph of these products: name with --images one that has "
            f"{min(products)}.jpg and the like"
        )
    bar = tqdm(present.items(), desc="photographs", disable=None)
    return {product: _small(path) for product, path in bar}


def read_listed_photographs(data_dir: Path, products: Collection[int]) -> dict[int, str]:
    """The pictures of products as ``DATA/pictures.csv`` lists them, as base64 of WebP, by product id.

    Several pictures of a product stand side by side, as its regions do in the table. A product is left out
    where one of them is gone or cannot be read any more; how many these are is printed.

    Raises:
        UserError: ``pictures.csv`` is of another form.
    """
    listed = read_pictures(data_dir)
    found, lost = {}, 0
    for product in tqdm(sorted(listed.keys() & set(products)), desc="photographs", disable=None):
        try:
            paths = [picture.path for picture in listed[product]]
            found[product] = _encode(join_pictures(paths, LONGEST_SIDE))
        except BadPictureError:
            lost += 1
    if lost:
        print(f"{lost:,} products are drawn as regions: their pictures are not where {data_dir} has them")
    return found


def _small(path: Path) -> str:
    try:
        image = open_picture(path, LONGEST_SIDE).image
    except BadPictureError as error:
        raise UserError(f"{path} cannot be read as an image ({error}): replace it or remove it") from None
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return _encode(image)


def _encode(image: Image.Image) -> str:
    return base64.b64encode(encode_webp(image, QUALITY)).decode()
