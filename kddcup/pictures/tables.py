"""The competition's tables of a shop's products, and what stands beside them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from kddcup.io.atomic import atomic_write
from kddcup.io.files import format_csv, write_json, write_text
from kddcup.pictures.journal import RegionJournal, Seen
from kddcup.pictures.pairs import Product, Shop, SplitRows
from kddcup.table.products import ListedPicture, ListedProduct, write_pictures, write_products
from kddcup.table.rows import COLUMNS, encode_base64

BAD_PICTURES = "bad_pictures.csv"


class TableWriter:
    """Writes what was seen in a shop's pictures as the competition's tables.

    A product's row holds the regions of all its pictures as if they stood side by side, aligned at the top:
    ``image_w`` is the sum of their widths, ``image_h`` the largest height, and boxes lie in that picture.

    Args:
        out: ``DATA``, the folder of the tables.
        shop: of products each of which has a picture that could be read.
        journal: what was seen.
        places: the place of each picture's file in the journal.
    """

    def __init__(self, out: Path, shop: Shop, journal: RegionJournal, places: Mapping[Path, int]) -> None:
        self._out, self._shop, self._journal, self._places = out, shop, journal, places
        self._products = {product.number: product for product in shop.products}

    def write(self, labels: Sequence[str]) -> list[str]:
        """Write tables, answers, labels, products and pictures; gives the files' names in ``out``."""
        names = ["multimodal_labels.txt", "products.csv", "pictures.csv"]
        lines = [f"{number}\t{name}\n" for number, name in enumerate(labels)]
        write_text(self._out / names[0], "".join(["category_id\tcategory_name\n", *lines]))
        write_products(
            self._out,
            (ListedProduct(each.number, each.shop_id, each.title, each.url) for each in self._shop.products),
        )
        write_pictures(self._out, self._list_pictures())
        for split, rows in self._shop.splits.items():
            names.append(f"{split}/{split}.tsv")
            self._write_table(self._out / names[-1], rows)
            if split != "train":
                names.append(f"{split}/{split}_answer.json")
                write_json(
                    self._out / names[-1], {str(query): found for query, found in rows.answers.items()}
                )
        return names

    def _seen(self, product: Product) -> Iterator[tuple[Path, Seen]]:
        """The pictures of a product that could be read."""
        for path in product.pictures:
            seen = self._journal[self._places[path]]
            if isinstance(seen, Seen):
                yield path, seen

    def _list_pictures(self) -> Iterator[ListedPicture]:
        for product in self._shop.products:
            for path, seen in self._seen(product):
                yield ListedPicture(product.number, path, seen.height, seen.width, len(seen.regions.labels))

    def _write_table(self, path: Path, rows: SplitRows) -> None:
        with atomic_write(path) as part, open(part, "w", encoding="utf-8", newline="\n") as file:
            file.write("\t".join(COLUMNS) + "\n")
            for number, query in rows.rows:
                fields = self._format_image(self._products[number])
                file.write("\t".join([str(number), *fields, self._shop.queries[query], str(query)]) + "\n")

    def _format_image(self, product: Product) -> list[str]:
        """The columns from image_h to class_labels."""
        pictures = [seen for _, seen in self._seen(product)]
        boxes, left = [], 0
        for seen in pictures:
            sides = np.array([seen.height, seen.width] * 2, np.float32)
            boxes.append(seen.regions.boxes * sides + np.array([0, left] * 2, np.float32))
            left += seen.width
        arrays = [
            np.concatenate(boxes),
            np.concatenate([seen.regions.features for seen in pictures]),
            np.concatenate([seen.regions.labels for seen in pictures]),
        ]
        sizes = max(seen.height for seen in pictures), left, len(arrays[0])
        return [*map(str, sizes), *map(encode_base64, arrays)]


def write_bad_pictures(out: Path, bad: Sequence[tuple[str, str]]) -> None:
    """List the name of each bad picture and its reason in ``bad_pictures.csv``."""
    write_text(out / BAD_PICTURES, format_csv([["image", "reason"], *map(list, bad)]))
