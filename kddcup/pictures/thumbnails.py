"""A product's pictures, small enough for a page."""

import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from kddcup.pictures.decode import open_picture


def join_pictures(paths: Iterable[Path], longest: int) -> Image.Image:
    """Lay pictures side by side, as a product's regions are laid in its row of a table.

    Args:
        paths: of at least one picture.
        longest: the longest side of any of them in the result, in pixels.

    Raises:
        BadPictureError: one is gone or cannot be read.
    """
    pictures = [open_picture(path, longest) for path in paths]
    scale = longest / max(max(picture.height, picture.width) for picture in pictures)
    parts = []
    for picture in pictures:
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        parts.append(picture.image.resize(size, Image.Resampling.LANCZOS))
    joined = Image.new(
        "RGB", (sum(part.width for part in parts), max(part.height for part in parts)), "white"
    )
    left = 0
    for part in parts:
        joined.paste(part, (left, 0))
        left += part.width
    return joined


def encode_webp(image: Image.Image, quality: int) -> bytes:
    """Encode a picture as WebP; ``quality`` is from 0 to 100."""
    buffer = io.BytesIO()
    image.save(buffer, "webp", quality=quality)
    return buffer.getvalue()
