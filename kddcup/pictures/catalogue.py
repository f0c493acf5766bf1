"""A drawn catalogue to try everything on: pictures of products, and the queries that ask for them. Example:

    python -m kddcup.catalogue --out data/catalogue

Bags, cups, shirts, lamps and shoes of fifteen forms, in eleven colours, with five patterns, of what materials
such things have. A query asks for a kind or a form and for one or two properties, in a shopper's words;
pairs.csv lists every product that has all of them.
"""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jsonargparse.typing import NonNegativeInt, PositiveInt
from tqdm import tqdm

from kddcup.cli import parse_settings
from kddcup.io.errors import UserError
from kddcup.io.files import format_csv, write_json, write_text
from kddcup.pictures.drawing import PATTERNS, Colour, Drawing, mix
from kddcup.pictures.wares import DARK, FORMS, PALE, Look

CATALOGUE_MARKER = "catalogue.json"
"""The marker in a folder of a drawn catalogue, which may be written over."""
QUALITY = 90
PLAIN_SHARE = 0.35
PRODUCTS_A_QUERY = 6
"""The number of products for each query."""
MOST_FITTING = 40
"""The most products that fit a query; one that more fit is too wide."""


class Kind(NamedTuple):
    """A kind of product: its name in English and Chinese, and the forms and materials that it comes in."""

    english: str
    chinese: str
    forms: tuple[tuple[str, str], ...]
    materials: tuple[str, ...]


KINDS = (
    Kind(
        "bag",
        "包包",
        (("tote", "托特包"), ("backpack", "双肩包"), ("handbag", "手提包")),
        ("leather", "canvas", "straw"),
    ),
    Kind(
        "cup",
        "杯子",
        (("mug", "马克杯"), ("teacup", "茶杯"), ("tumbler", "随行杯")),
        ("ceramic", "enamel", "glass"),
    ),
    Kind(
        "shirt",
        "上衣",
        (("t-shirt", "短袖"), ("polo", "翻领衫"), ("sweater", "长袖")),
        ("cotton", "denim", "knitted"),
    ),
    Kind(
        "lamp",
        "灯具",
        (("table lamp", "台灯"), ("floor lamp", "落地灯"), ("desk lamp", "工作灯")),
        ("wooden", "brass", "ceramic"),
    ),
    Kind(
        "shoes",
        "鞋子",
        (("sneakers", "运动鞋"), ("boots", "靴子"), ("heels", "高跟鞋")),
        ("leather", "suede", "canvas"),
    ),
)
COLOURS: dict[str, tuple[str, Colour]] = {
    "red": ("红色", (200, 42, 46)),
    "orange": ("橙色", (232, 122, 44)),
    "yellow": ("黄色", (238, 194, 56)),
    "green": ("绿色", (62, 142, 84)),
    "blue": ("蓝色", (46, 90, 176)),
    "purple": ("紫色", (122, 78, 162)),
    "pink": ("粉色", (238, 152, 176)),
    "brown": ("棕色", (130, 86, 54)),
    "black": ("黑色", (46, 44, 48)),
    "white": ("白色", (244, 242, 238)),
    "grey": ("灰色", (146, 148, 154)),
}
CHINESE = {
    "plain": "纯色",
    "striped": "条纹",
    "dotted": "波点",
    "checked": "格子",
    "floral": "碎花",
    "starry": "星星",
    "leather": "皮革",
    "canvas": "帆布",
    "straw": "草编",
    "ceramic": "陶瓷",
    "enamel": "搪瓷",
    "glass": "玻璃",
    "cotton": "纯棉",
    "denim": "牛仔",
    "knitted": "针织",
    "wooden": "木质",
    "brass": "黄铜",
    "suede": "绒面",
}
"""The patterns and materials."""
NOISE = {"en": ("new", "2020", "gift", "cheap", "popular"), "zh": ("新款", "2020", "礼物", "包邮", "网红")}
"""Words of queries that no picture shows."""


class Ware(NamedTuple):
    """A product of the catalogue: its id, its words by attribute in English, and what its accents are."""

    shop_id: str
    kind: int
    words: dict[str, str]
    accent: Colour

    @property
    def place(self) -> Path:
        """Of its picture, in the folder of pictures."""
        return Path(KINDS[self.kind].english, f"{self.shop_id}.jpg")


@dataclass
class CatalogueSettings:
    """Settings of the drawn catalogue.

    Args:
        out: folder of the pictures and of pairs.csv.
        language: of the queries and titles.
        products: how many are drawn.
        seed: of everything; the same seed gives the same bytes.
    """

    out: str = "data/catalogue"
    language: Literal["en", "zh"] = "en"
    products: PositiveInt = 1500
    seed: NonNegativeInt = 2020


def write_catalogue(settings: CatalogueSettings) -> int:
    """Draw the pictures, write ``pairs.csv`` and in Chinese ``user_dict.txt``; gives the number of queries.

    Raises:
        UserError: there are pairs that are not of a drawn catalogue.
    """
    out = Path(settings.out)
    if (out / "pairs.csv").exists() and not (out / CATALOGUE_MARKER).exists():
        raise UserError(f"{out} has other pairs, which stay as they are: name another folder with --out")
    write_json(out / CATALOGUE_MARKER, {"made_by": "python -m kddcup.catalogue"})
    wares = list(_invent(settings))
    rows = list(_ask(settings, wares))
    titles = {ware.shop_id: _title(ware, settings.language) for ware in wares}
    pictures = out / "pictures"
    shutil.rmtree(pictures, ignore_errors=True)  # another seed's products would stay among these
    jobs = [(pictures / ware.place, ware, (settings.seed, i)) for i, ware in enumerate(wares)]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        done = pool.map(_draw, *zip(*jobs, strict=True), chunksize=16)
        for _ in tqdm(done, desc="pictures", total=len(jobs), disable=None):
            pass
    listed = [[query, shop_id, titles[shop_id]] for query, shop_id in rows]
    write_text(out / "pairs.csv", format_csv([["query", "product_id", "title"], *listed]))
    if settings.language == "zh":
        write_text(out / "user_dict.txt", "".join(f"{word}\n" for word in _chinese_words()))
    return len({query for query, _ in rows})


def _invent(settings: CatalogueSettings) -> Iterator[Ware]:
    rng = np.random.default_rng(settings.seed)
    names = list(COLOURS)
    for number in range(settings.products):
        place = int(rng.integers(len(KINDS)))
        kind = KINDS[place]
        colour = names[rng.integers(len(names))]
        plain = rng.random() < PLAIN_SHARE
        words = {
            "kind": kind.english,
            "form": kind.forms[rng.integers(len(kind.forms))][0],
            "colour": colour,
            "pattern": "plain" if plain else PATTERNS[rng.integers(1, len(PATTERNS))],
            "material": kind.materials[rng.integers(len(kind.materials))],
        }
        yield Ware(f"{kind.english}-{number:04}", place, words, _accent(rng, COLOURS[colour][1]))


def _accent(rng: np.random.Generator, base: Colour) -> Colour:
    """A colour that is told from the base: light or dark mostly, or another one."""
    choices = [PALE, PALE, DARK, mix(base, PALE, 0.6), mix(base, DARK, 0.6)]
    choices += [colour for _, colour in COLOURS.values()][:: int(rng.integers(3, 6))]
    distant = [colour for colour in choices if np.abs(np.subtract(colour, base)).sum() > 170]
    return distant[rng.integers(len(distant))]


def _draw(path: Path, ware: Ware, seed: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    # The tone of a product is not quite that of its colour's name.
    tone = np.clip(np.add(COLOURS[ware.words["colour"]][1], rng.normal(0, 9, 3)), 0, 255).astype(int)
    wall = mix((250, 250, 250), tuple(rng.integers(140, 240, 3).tolist()), float(rng.uniform(0, 0.6)))
    drawing = Drawing(rng, (wall, mix(wall, (118, 108, 100), float(rng.uniform(0.1, 0.35)))))
    look = Look(rng, tuple(tone.tolist()), ware.accent, ware.words["pattern"], ware.words["material"])
    FORMS[ware.words["form"]](drawing, look)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.finish().save(path, quality=QUALITY)


def _ask(settings: CatalogueSettings, wares: list[Ware]) -> Iterator[tuple[str, str]]:
    """Each query with every product that has all of its properties; every product is listed."""
    rng = np.random.default_rng([settings.seed, 1])
    texts: set[str] = set()
    unlisted = dict.fromkeys(ware.shop_id for ware in wares)
    by_id = {ware.shop_id: ware for ware in wares}
    wanted = max(1, settings.products // PRODUCTS_A_QUERY)
    while len(texts) < wanted or unlisted:
        ware = by_id[next(iter(unlisted))] if unlisted else wares[rng.integers(len(wares))]
        noun = "form" if rng.random() < 0.6 else "kind"
        properties = ["colour", "material"] + ["pattern"] * (ware.words["pattern"] != "plain")
        chosen = rng.permutation(properties)[: rng.integers(1, 3)].tolist()
        fitting = [
            other.shop_id
            for other in wares
            if all(other.words[name] == ware.words[name] for name in (noun, *chosen))
        ]
        text = _phrase(rng, settings.language, ware.words[noun], [ware.words[name] for name in chosen])
        if text not in texts and len(fitting) <= MOST_FITTING:
            texts.add(text)
            for shop_id in fitting:
                unlisted.pop(shop_id, None)
            yield from ((text, shop_id) for shop_id in fitting)


def _phrase(rng: np.random.Generator, language: str, noun: str, properties: list[str]) -> str:
    noise = [NOISE[language][rng.integers(5)]] if rng.random() < 0.25 else []
    backward = rng.random() < 0.2
    if language == "zh":
        words = [_chinese(word) for word in properties]
        if rng.random() < 0.2:
            words[-1] += "的"
        return "".join([_chinese(noun), *noise, *words] if backward else [*noise, *words, _chinese(noun)])
    return " ".join([noun, *noise, *properties] if backward else [*noise, *properties, noun])


def _chinese(word: str) -> str:
    nouns = {kind.english: kind.chinese for kind in KINDS} | {
        english: chinese for kind in KINDS for english, chinese in kind.forms
    }
    colours = {english: chinese for english, (chinese, _) in COLOURS.items()}
    return (nouns | colours | CHINESE)[word]


def _chinese_words() -> list[str]:
    return sorted(
        {kind.chinese for kind in KINDS}
        | {chinese for kind in KINDS for _, chinese in kind.forms}
        | {chinese for chinese, _ in COLOURS.values()}
        | set(CHINESE.values())
    )


def _title(ware: Ware, language: str) -> str:
    words = [ware.words[name] for name in ("colour", "pattern", "material", "form")]
    return "".join(map(_chinese, words)) if language == "zh" else " ".join(words).capitalize()


def main() -> None:
    """Draw the catalogue."""
    settings = parse_settings(CatalogueSettings, __doc__)
    queries = write_catalogue(settings)
    print(f"{settings.products:,} products and {queries:,} queries: {settings.out}")
