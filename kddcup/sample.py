"""The embedded data set: synthetic products in the competition's exact table format. Example:

    python -m kddcup.sample --out data/sample

A product has a category, a colour, a material, a style and an audience. Each value has a direction in feature
space; a region's feature is a rectified, noisy mixture of the directions of what it shows. Queries are the
marketplace's English, or Chinese, in which some words mean nothing visually.

NDCG@5 on its valid and testB tables, at the default seed and size (tests/test_sample.py holds it to these):
an oracle 1.0; a random order 0.21; a ranker that knows the category and nothing else 0.27. The category alone
does not do: most candidates share it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jsonargparse.typing import NonNegativeInt, PositiveInt
from tqdm import tqdm

from kddcup.cli import parse_settings
from kddcup.io.atomic import atomic_write
from kddcup.io.errors import UserError, run_script
from kddcup.io.files import write_json, write_text
from kddcup.table.labels import COMPETITION_LABELS
from kddcup.table.rows import COLUMNS, encode_base64

SAMPLE_MARKER = "sample.json"
"""The marker in a folder of a sample, which may be written over."""
BODY_PARTS = range(29, 33)

# Value: (English, Chinese); a category has its class label besides.
CATEGORIES = (
    ("jacket", "夹克", 0),
    ("dress", "连衣裙", 1),
    ("trousers", "裤子", 2),
    ("backpack", "背包", 3),
    ("boots", "靴子", 4),
    ("sofa", "沙发", 9),
    ("curtain", "窗帘", 13),
    ("lamp", "台灯", 19),
    ("pajamas", "睡衣", 21),
    ("quilt", "被子", 23),
)
COLOURS = (
    ("red", "红色"),
    ("black", "黑色"),
    ("white", "白色"),
    ("blue", "蓝色"),
    ("green", "绿色"),
    ("pink", "粉色"),
)
MATERIALS = (
    ("cotton", "纯棉"),
    ("leather", "皮革"),
    ("silk", "丝绸"),
    ("wool", "羊毛"),
    ("linen", "亚麻"),
)
STYLES = (
    ("retro", "复古"),
    ("casual", "休闲"),
    ("elegant", "优雅"),
    ("minimalist", "简约"),
    ("sporty", "运动"),
)
AUDIENCES = (("women", "女式"), ("men", "男式"), ("children", "儿童"), ("baby", "婴儿"))
ATTRIBUTES = (CATEGORIES, COLOURS, MATERIALS, STYLES, AUDIENCES)

# Share of images with 1, 2, … regions, after the competition's testA.
REGIONS_SHARE = np.array([196, 188, 164, 123, 91, 69, 52, 32, 25, 18, 14, 9, 6, 4, 2, 2, 1, 1, 1, 1]) / 999
BODY_PART_SHARE = 0.1
SHOWN_SHARE = 0.6
STRENGTH = 4.0
NOISE = 0.4
SHADOW = 0.3
"""The value subtracted before the rectification, so that features are sparse."""
CANDIDATES = 30
SMALL_LISTS = (8, 21)
SMALL_LIST_SHARE = 0.1
SAME_CATEGORY_SHARE = 0.75
FIRST_PRODUCT_ID = 103_000_000


class Product(NamedTuple):
    """A product: the place of each attribute's value in :data:`ATTRIBUTES`, and its picture."""

    values: tuple[int, ...]
    fields: str
    """The table's columns up to class_labels, tab-separated."""


@dataclass
class SampleSettings:
    """Settings of the embedded data set.

    Args:
        out: folder of the tables.
        language: of the queries.
        train_queries: queries in the training table; a query has 2.5 products on average.
        eval_queries: queries in valid and in testB; testA has half as many.
        dim: size of a region's feature.
        seed: of everything; the same seed gives the same bytes.
    """

    out: str = "data/sample"
    language: Literal["en", "zh"] = "en"
    train_queries: PositiveInt = 1150
    eval_queries: PositiveInt = 50
    dim: PositiveInt = 256
    seed: NonNegativeInt = 2020


class Shop:
    """Products and queries, all from one random generator.

    Args:
        settings: language, dim and seed.
    """

    def __init__(self, settings: SampleSettings) -> None:
        self._rng = np.random.default_rng(settings.seed)
        self._language = settings.language
        self._dim = settings.dim
        self._directions = [
            self._rng.standard_normal((len(values), settings.dim), dtype=np.float32) / np.sqrt(settings.dim)
            for values in ATTRIBUTES
        ]
        self.products: list[Product] = []
        self.wanted: dict[int, dict[int, int]] = {}
        """The attributes that a query asks for and their values, by query id."""
        self._texts: set[str] = set()

    def add_product(self, wanted: dict[int, int]) -> int:
        """Add a product with the wanted values, others at random; gives its id."""
        values = tuple(
            wanted.get(attribute, int(self._rng.integers(len(names))))
            for attribute, names in enumerate(ATTRIBUTES)
        )
        product_id = FIRST_PRODUCT_ID + len(self.products)
        self.products.append(Product(values, self._draw_picture(product_id, values)))
        return product_id

    def product(self, product_id: int) -> Product:
        """The product of an id."""
        return self.products[product_id - FIRST_PRODUCT_ID]

    def _draw_picture(self, product_id: int, values: tuple[int, ...]) -> str:
        rng = self._rng
        n = 1 + int(rng.choice(len(REGIONS_SHARE), p=REGIONS_SHARE))
        height, width = rng.integers(300, 1000, 2).tolist()
        shown = rng.random((n, len(values))) < SHOWN_SHARE
        body = rng.random(n) < BODY_PART_SHARE
        body[0] = False
        shown[body] = False
        for attribute in np.flatnonzero(~shown.any(0)):  # each value is to be seen somewhere
            shown[rng.choice(np.flatnonzero(~body)), attribute] = True
        directions = np.stack([self._directions[attribute][value] for attribute, value in enumerate(values)])
        mixture = STRENGTH * shown.astype(np.float32) @ directions
        noise = (
            NOISE
            * rng.standard_normal((n, self._dim), dtype=np.float32)
            / np.float32(np.sqrt(self._dim / 16))
        )
        features = np.maximum(mixture + noise - SHADOW * STRENGTH / np.float32(np.sqrt(self._dim)), 0)
        top, left = rng.uniform(0, 0.5, (2, n))
        tall, wide = rng.uniform(0.1, 0.5, (2, n))
        boxes = np.stack([top, left, top + tall, left + wide], 1) * [height, width, height, width]
        labels = np.where(body, rng.choice(BODY_PARTS, n), CATEGORIES[values[0]][2])
        columns = (
            product_id,
            height,
            width,
            n,
            encode_base64(boxes.astype(np.float32)),
            encode_base64(features.astype(np.float32)),
            encode_base64(labels.astype(np.int64)),
        )
        return "\t".join(map(str, columns))

    def _choose_wish(self) -> dict[int, int]:
        """Choose the category and the one or two further attributes that a query asks for."""
        further = 1 + self._rng.permutation(len(ATTRIBUTES) - 1)[: self._rng.integers(1, 3)]
        return {
            attribute: int(self._rng.integers(len(ATTRIBUTES[attribute])))
            for attribute in [0, *further.tolist()]
        }

    def _write_query(self, wanted: dict[int, int]) -> str:
        """Write a query that asks for the wanted values."""
        rng = self._rng
        words = [
            ATTRIBUTES[attribute][value][self._language == "zh"]
            for attribute, value in wanted.items()
            if attribute
        ]
        category = CATEGORIES[wanted[0]][self._language == "zh"]
        rng.shuffle(words)
        if self._language == "zh":
            noise = [
                ("2019", "新款", "韩版", "旗舰店", "女士")[i]
                for i in rng.permutation(5)[: rng.integers(0, 3)]
            ]
            return "".join([*noise, *words, category] if rng.random() < 0.8 else [category, *words, *noise])
        start = ("", "", "ms. ", "2019 ", "korean version of ", "new ", "ms. korean version ")[
            rng.integers(7)
        ]
        if 4 in wanted and rng.random() < 0.5:
            audience = AUDIENCES[wanted[4]][0]
            words = [f"{audience}'s" if word == audience else word for word in words]
        if rng.random() < 0.1:
            words[0] = f'"{words[0]}"'
        if rng.random() < 0.7:
            return f"{start}{' '.join(words)} {category}"
        return (
            f"{start}{category} - {' '.join(words)}",
            f"{start}{' '.join(words)} {category} flagship store",
            f"{start}{category} with {' and '.join(words)}",
        )[rng.integers(3)]

    def add_query(self) -> tuple[int, str, dict[int, int]]:
        """Add a query with a text of its own; gives its id, its text, and the values that it asks for."""
        wanted = self._choose_wish()
        text = self._write_query(wanted)
        while text in self._texts:
            wanted = self._choose_wish()
            text = self._write_query(wanted)
        self._texts.add(text)
        query_id = len(self.wanted)
        self.wanted[query_id] = wanted
        return query_id, text, wanted

    def fits(self, product_id: int, wanted: dict[int, int]) -> bool:
        """Whether a product has all the wanted values."""
        return all(self.product(product_id).values[attribute] == value for attribute, value in wanted.items())

    def pick_positives(self, known: list[int], wanted: dict[int, int]) -> list[int]:
        """Pick 1 to 4 products that fit, perhaps a known one among them; new ones are added to ``known``."""
        fitting = [product for product in known[-400:] if self.fits(product, wanted)]
        fitting = fitting[: self._rng.integers(0, 2)]
        new = [self.add_product(wanted) for _ in range(self._rng.integers(1, 4))]
        known.extend(new)
        return [*fitting, *new]

    def pick_candidates(self, known: list[int], wanted: dict[int, int]) -> tuple[list[int], list[int]]:
        """Pick a candidate list in random order and its relevant products, about 6 of 30."""
        rng = self._rng
        small = rng.random() < SMALL_LIST_SHARE
        count = int(rng.choice(SMALL_LISTS)) if small else CANDIDATES
        good = [self.add_product(wanted) for _ in range(max(1, round(count / 5) + int(rng.integers(-1, 2))))]
        mates = round(SAME_CATEGORY_SHARE * (count - len(good)))
        near = [
            product
            for product in known
            if self.product(product).values[0] == wanted[0] and not self.fits(product, wanted)
        ]
        bad = rng.permutation(near)[: mates // 2].tolist()
        while len(bad) < mates:
            product = self.add_product({0: wanted[0]})
            known.append(product)
            if not self.fits(product, wanted):
                bad.append(product)
        while len(good) + len(bad) < count:
            product = self.add_product({})
            known.append(product)
            if self.product(product).values[0] != wanted[0]:
                bad.append(product)
        known.extend(good)
        return rng.permutation(good + bad).tolist(), good


def write_sample(settings: SampleSettings) -> Shop:
    """Write the tables and answers into ``settings.out``; gives the products and queries that are in them.

    Raises:
        UserError: there are tables that are not a sample.
    """
    out = Path(settings.out)
    if (out / "train" / "train.tsv").exists() and not (out / SAMPLE_MARKER).exists():
        raise UserError(f"{out} has other tables, which stay as they are: name another folder with --out")
    write_json(out / SAMPLE_MARKER, {"made_by": "python -m kddcup.sample"})
    shop = Shop(settings)
    known: list[int] = []
    rows = []
    for _ in tqdm(range(settings.train_queries), desc="train", disable=None):
        query_id, text, wanted = shop.add_query()
        rows += [(product, text, query_id) for product in shop.pick_positives(known, wanted)]
    order = np.random.default_rng(settings.seed).permutation(len(rows))
    _write_table(out, "train", shop, [rows[i] for i in order])
    sizes = {
        "valid": settings.eval_queries,
        "testA": settings.eval_queries // 2,
        "testB": settings.eval_queries,
    }
    for split, queries in sizes.items():
        known, rows, answers = [], [], {}
        for _ in tqdm(range(queries), desc=split, disable=None):
            query_id, text, wanted = shop.add_query()
            products, answers[str(query_id)] = shop.pick_candidates(known, wanted)
            rows += [(product, text, query_id) for product in products]
        _write_table(out, split, shop, rows)
        write_text(out / split / f"{split}_answer.json", json.dumps(answers) + "\n")
    labels = "".join(f"{number}\t{name}\n" for number, name in enumerate(COMPETITION_LABELS))
    write_text(out / "multimodal_labels.txt", f"category_id\tcategory_name\n{labels}")
    return shop


def _write_table(out: Path, split: str, shop: Shop, rows: list[tuple[int, str, int]]) -> None:
    path = out / split / f"{split}.tsv"
    with atomic_write(path) as part, open(part, "w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join(COLUMNS) + "\n")
        for product, text, query_id in rows:
            file.write(f"{shop.product(product).fields}\t{text}\t{query_id}\n")


def main() -> None:
    """Write the data set."""
    settings = parse_settings(SampleSettings, __doc__)
    shop = write_sample(settings)
    print(f"{len(shop.products):,} products and {len(shop.wanted):,} queries: {settings.out}")


if __name__ == "__main__":
    run_script(main)
