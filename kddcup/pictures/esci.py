"""Amazon's ESCI with SQID's pictures, as pairs.csv. Example:

    python -m kddcup.datasets esci --source esci --images esci/images --out data/esci

The folder esci has ESCI's examples.parquet (Reddy et al., 2022) and SQID's product_image_urls.csv (Al
Ghossein et al., 2024). Where no pictures are there yet, images.csv says where each is to be had; run again
when they are. Label E (exact) is relevant; S, C and I are not. SQID has pictures of products of ESCI's test
split alone, so queries are dealt anew, by a hash of their text: 80 % to train, 10 % to valid and testB each.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kddcup.cli import parse_settings
from kddcup.io.errors import UserError, explain_error
from kddcup.pictures.listing import WantedPicture, choose_split, write_listing
from kddcup.pictures.spreadsheet import Spreadsheet

EXAMPLES, URLS = "examples.parquet", "product_image_urls.csv"
EXAMPLE_COLUMNS = ("query", "product_id", "product_locale", "esci_label")
RELEVANT = "E"
SHARES = (("train", 80), ("valid", 10), ("testB", 10))


@dataclass
class EsciSettings:
    """Settings of the conversion of ESCI.

    Args:
        source: folder of examples.parquet and product_image_urls.csv.
        images: folder of the pictures, PRODUCT_ID.jpg or the like.
        out: folder of pairs.csv and images.csv.
        locale: of the products, us, es or jp.
    """

    source: str = "esci"
    images: str = "esci/images"
    out: str = "data/esci"
    locale: str = "us"


def read_examples(path: Path) -> Iterator[dict[str, str]]:
    """Read the judged pairs of ``examples.parquet``, as :data:`EXAMPLE_COLUMNS`.

    Raises:
        UserError: it is absent or has other columns, or pyarrow is not installed.
    """
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            f"{path} needs pyarrow to be read: install it with 'pip install -e .[parquet]'"
        ) from None
    if not path.is_file():
        raise UserError(f"{path} does not exist: put ESCI's file there, or name its folder with --source")
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=list(EXAMPLE_COLUMNS)):
                rows = batch.to_pylist()
                if rows and len(rows[0]) != len(EXAMPLE_COLUMNS):
                    raise ValueError(f"expected the columns {', '.join(EXAMPLE_COLUMNS)}")
                yield from rows
    except Exception as error:  # what is wrong with a file shows itself in many ways
        raise UserError(f"{path} cannot be read ({explain_error(error)}): get it again") from None


def read_urls(path: Path) -> dict[str, str]:
    """Read the address of each product's picture.

    Raises:
        UserError: it is absent or lacks a column.
    """
    sheet = Spreadsheet(path, ("product_id", "image_url"))
    if len(sheet.columns) != 2:
        raise UserError(f"{path}, line 1: expected the columns product_id and image_url: get SQID's file")
    urls = {}
    for _, fields in sheet.records():
        if fields["product_id"] and fields["image_url"]:
            urls.setdefault(fields["product_id"], fields["image_url"])
    sheet.misfits.check()
    return urls


def main(args: list[str]) -> None:
    """Convert the set."""
    settings = parse_settings(EsciSettings, __doc__, args=args)
    source = Path(settings.source)
    urls = read_urls(source / URLS)
    rows, products = [], {}
    for example in read_examples(source / EXAMPLES):
        product = example["product_id"]
        if example["product_locale"] != settings.locale or product not in urls:
            continue
        query = " ".join(example["query"].split())
        products[product] = None
        relevance = int(example["esci_label"] == RELEVANT)
        rows.append((query, product, choose_split(query, SHARES), relevance))
    if not rows:
        raise UserError(f"{source / EXAMPLES} has no product of {URLS} in locale {settings.locale}")
    pictures = [
        WantedPicture(product, f"{product}{_suffix(urls[product])}", urls[product]) for product in products
    ]
    columns = ("query", "product_id", "split", "relevance")
    write_listing(Path(settings.out), Path(settings.images), pictures, columns, rows)


def _suffix(url: str) -> str:
    suffix = Path(url.partition("?")[0]).suffix.lower()
    return suffix if suffix in (".jpg", ".jpeg", ".png", ".gif", ".webp") else ".jpg"
