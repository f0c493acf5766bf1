"""Photographs of products, small enough to travel in a page."""

import base64
import io
from collections.abc import Collection
from pathlib import Path

from tqdm import tqdm

from kddcup.io.errors import UserError
from kddcup.pictures.decode import BadPictureError, open_picture

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


def _small(path: Path) -> str:
    try:
        image = open_picture(path, LONGEST_SIDE).image
    except BadPictureError as error:
        raise UserError(f"{path} is no image that can be read ({error}): mend it or take it out") from None
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "webp", quality=QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()
