"""Where the products of an index come from: tables, and what stands beside them."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from kddcup.data.batch import scale_boxes
from kddcup.io.errors import UserError
from kddcup.io.folders import MARKER
from kddcup.pictures.extraction import (
    Extraction,
    ExtractorSettings,
    ExtractSettings,
    load_extractor,
    start_process,
)
from kddcup.pictures.pairs import read_catalogue
from kddcup.pictures.tables import BAD_PICTURES
from kddcup.rank.scoring import check_dimension
from kddcup.search.segment import Product
from kddcup.table.extractor import EXTRACTOR_FILE, Extractor, check_same_extractor, read_extractor
from kddcup.table.labels import read_labels
from kddcup.table.products import ListedPicture, ListedProduct, read_pictures, read_products
from kddcup.table.rows import BadRow
from kddcup.table.table import Table

PICTURES = ".pictures"
"""The folder, in that of an index, of tables of pictures while they are made."""
SPLITS = ("train", "valid", "testA", "testB")
SAMPLED_ROWS = 100
"""The rows by whose length the number of all is estimated."""


class Item(NamedTuple):
    """A product with its regions.

    ``features`` [n, D] float32, ``boxes`` [n, 5] as the models take them, ``labels`` the names of their
    classes, empty where they are unknown.
    """

    product: Product
    features: np.ndarray
    boxes: np.ndarray
    labels: tuple[str, ...]


@dataclass(frozen=True)
class CatalogueTable:
    """A table of products.

    Args:
        path: of the table.
        folder: of what stands beside it: ``extractor.json``, ``products.csv``, ``pictures.csv``.
    """

    path: Path
    folder: Path

    @classmethod
    def of(cls, path: Path) -> Self:
        """A table of any place, ``DATA/NAME/NAME.tsv`` or ``FOLDER/NAME.tsv``."""
        beside = [
            folder
            for folder in (path.parent, path.parent.parent)
            if any((folder / name).is_file() for name in (EXTRACTOR_FILE, "products.csv"))
        ]
        return cls(path, beside[0] if beside else path.parent)

    @cached_property
    def extractor(self) -> Extractor | None:
        """What made the features."""
        return read_extractor(self.folder)

    @cached_property
    def products(self) -> dict[int, ListedProduct]:
        """The products as the shop knows them, by number."""
        return read_products(self.folder)

    @cached_property
    def pictures(self) -> dict[int, list[ListedPicture]]:
        """The pictures of the products, by number."""
        return read_pictures(self.folder)

    @cached_property
    def labels(self) -> dict[int, str]:
        """The names of the regions' classes."""
        return read_labels(self.folder)

    def estimate_rows(self) -> int:
        """Estimate the number of rows from the file's size and its first rows."""
        table = Table(self.path)
        sizes = [row.size for row, _ in zip(table.read(), range(SAMPLED_ROWS), strict=False)]
        if not sizes:
            table.refuse_empty()
        # Of a compressed one, whose contents are about three quarters of their own size in base64.
        size = table.stamp[0] * (4 / 3 if table.compressed else 1)
        return len(sizes) if len(sizes) < SAMPLED_ROWS else int(size / np.mean(sizes))


def find_tables(data_dir: Path) -> list[CatalogueTable]:
    """Find the tables of ``DATA``, of all splits.

    Raises:
        UserError: there is none.
    """
    paths = [data_dir / split / f"{split}.tsv" for split in SPLITS]
    found = [path for path in paths if path.is_file() or path.with_name(f"{path.name}.gz").is_file()]
    if not found:
        raise UserError(f"{data_dir} has no table, such as {paths[0]}: name its folder with --data_dir")
    return [CatalogueTable(path, data_dir) for path in found]


@dataclass(kw_only=True)
class CatalogueSettings(ExtractorSettings):
    """Products.

    Args:
        tables: of the products.
        images: index the products of these pictures, seen by the flags of the regions: a folder in which
            PRODUCT_ID.* shows a product.
        pairs: with --images, a table of the products: product_id, and optionally image, title and url, as
            extract reads it.

    Raises:
        UserError: it is not clear which products are meant.
    """

    tables: list[str] = field(default_factory=list)
    images: str | None = None
    pairs: str | None = None

    def __post_init__(self) -> None:
        """Check that products come from one place."""
        super().__post_init__()
        if self.images and self.tables:
            raise UserError("--images and --tables both name products: give one of them")
        if self.pairs and not self.images:
            raise UserError("--pairs says what the pictures of --images show: name their folder too")


@contextlib.contextmanager
def open_catalogue(
    settings: CatalogueSettings, folder: Path, extractor: Extractor | None, trained: str
) -> Iterator[list[CatalogueTable]]:
    """Give the tables of the products that settings name, which are by the extractor of the models.

    Those of pictures are made in ``.pictures`` of the index' ``folder``, where a run that was killed goes on,
    and are removed behind the block.

    Args:
        settings: that name products.
        folder: of the index.
        extractor: of the features that the models know.
        trained: names the models.

    Raises:
        UserError: there are no such products, or of another extractor; pictures cannot be read.
    """
    if not settings.images:
        tables = [CatalogueTable.of(Path(path)) for path in settings.tables]
        check_extractors(tables, extractor, trained)
        yield tables
        return
    shop = read_catalogue(Path(settings.images), Path(settings.pairs) if settings.pairs else None)
    place = folder / PICTURES
    if (place / MARKER).is_file():  # of a run that was killed later on, and perhaps of other pictures
        shutil.rmtree(place)
    own = {each.name: getattr(settings, each.name) for each in dataclasses.fields(ExtractorSettings)}
    extract = ExtractSettings(
        images=settings.images, pairs=settings.pairs or settings.images, out=str(place), **own
    )
    with start_process(place) as process:
        network = load_extractor(extract, process.device)
        advice = "name the flags of the regions that the model's tables were extracted with"
        check_same_extractor(extractor, trained, network.description, settings.images, advice)
        Extraction(extract, shop, network, process).run()
    if len((place / BAD_PICTURES).read_text().splitlines()) > 1:
        shutil.copyfile(place / BAD_PICTURES, folder / BAD_PICTURES)
        print(f"{folder / BAD_PICTURES} lists the pictures that were skipped")
    yield find_tables(place)
    shutil.rmtree(place)


def check_extractors(tables: Sequence[CatalogueTable], extractor: Extractor | None, trained: str) -> None:
    """See that the features of tables are by the extractor that the models ``trained`` know.

    Raises:
        UserError: they are by another.
    """
    for table in tables:
        advice = "extract the tables as the models' were, or train on tables of the same kind"
        check_same_extractor(extractor, trained, table.extractor, str(table.path), advice)


def estimate_products(tables: Sequence[CatalogueTable]) -> int:
    """Say how many products tables have, at most and about: as many as rows, or as ``products.csv`` lists."""
    rows = sum(table.estimate_rows() for table in tables)
    listed = {table.folder: len(table.products) or rows for table in tables}
    return min(rows, sum(listed.values()))


def read_items(tables: Sequence[CatalogueTable], dim: int) -> Iterator[Item]:
    """Read each product of tables once, as its first row has it, under a progress bar.

    Args:
        tables: in their order.
        dim: D of the features.

    Raises:
        UserError: a table cannot be read, or its features are of another dimension.
    """
    seen: set[str] = set()
    for table in tables:
        rows = Table(table.path)
        known: dict[int, int] = {}
        count = 0
        with rows.show_progress(f"index {table.path.name}") as advance:
            for row in rows.read(known=known):
                if isinstance(row, BadRow):
                    rows.refuse_row(count, row.detail)
                count += 1
                advance(row.size, 1)
                if row.product_id in known:
                    continue
                known[row.product_id] = row.checksum
                listed = table.products.get(row.product_id)
                product = Product(
                    row.product_id,
                    listed.shop_id if listed else str(row.product_id),
                    listed.title if listed else "",
                    listed.url if listed else "",
                    row.image_h,
                    row.image_w,
                    tuple(table.pictures.get(row.product_id, ())),
                )
                if product.id in seen:
                    continue
                seen.add(product.id)
                check_dimension(table.path, row.features.shape[1], dim)
                labels = tuple(table.labels.get(label, "") for label in row.class_labels.tolist())
                boxes = scale_boxes(row.boxes, row.image_h, row.image_w)
                yield Item(product, row.features, boxes, labels)
        if count == 0:
            rows.refuse_empty()
