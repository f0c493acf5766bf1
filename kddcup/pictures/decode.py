"""The one door by which pictures are opened: named formats alone, upright, over white, in RGB."""

import os
import stat
import warnings
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from kddcup.io.errors import explain_error

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""The formats that Pillow may open. Of the others some run a program (EPS starts Ghostscript)."""
DRAFT_MARGIN = 2
"""The least factor of the size asked for at which a JPEG is decoded, so that scaling it still smooths."""


class BadPictureError(Exception):
    """A file that is not a picture that can be read; the message says why."""


class Picture(NamedTuple):
    """A picture in RGB, upright; it may be smaller than its file, which is ``height`` × ``width`` pixels."""

    image: Image.Image
    height: int
    width: int


def open_picture(path: str | os.PathLike, shortest: int | None = None) -> Picture:
    """Open a picture: turned as its EXIF says, laid over white where it is transparent, its first frame.

    Args:
        path: of the file.
        shortest: the pixels that are needed of the short side; a large JPEG is decoded at a fraction of its
            size, but not below that. By default it is decoded in full.

    Raises:
        BadPictureError: it is not a regular file of one of :data:`FORMATS`, is torn, or has more pixels than
            Pillow's limit, 179 million.
    """
    try:
        # A pipe would be waited for.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise BadPictureError("it is not a file")
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as file:
            width, height = file.size
            if shortest:
                file.draft(None, (DRAFT_MARGIN * shortest, DRAFT_MARGIN * shortest))
            if file.getexif().get(ExifTags.Base.Orientation, 1) >= 5:  # 5 to 8 lie on a side
                width, height = height, width
            return Picture(_to_rgb(ImageOps.exif_transpose(file)), height, width)
    except BadPictureError:
        raise
    except UnidentifiedImageError:
        raise BadPictureError("it is not a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF") from None
    except Image.DecompressionBombError:
        raise BadPictureError("it has more than 179 million pixels") from None
    except Exception as error:  # what is wrong with a picture shows itself in many ways
        raise BadPictureError(explain_error(error)) from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadPictureError("its pixels are fractions of no known range: save it as PNG")
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
