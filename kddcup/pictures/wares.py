"""The things of the drawn catalogue: how a bag, a mug, a shirt, a lamp and a shoe of each form look."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kddcup.pictures.drawing import Colour, Drawing, Surface, cover, ellipse, mix, trace

DARK, PALE = (46, 42, 44), (244, 241, 235)
GOLD, STEEL = (214, 172, 84), (176, 180, 186)
TEXTURE_OF = {
    "leather": ("grain", 0.35),
    "canvas": ("weave", 0.0),
    "straw": ("weave", 0.0),
    "ceramic": ("smooth", 0.75),
    "enamel": ("speckled", 0.5),
    "glass": ("smooth", 0.8),
    "cotton": ("smooth", 0.0),
    "denim": ("twill", 0.0),
    "knitted": ("knit", 0.0),
    "wooden": ("wood", 0.1),
    "brass": ("brushed", 0.7),
    "suede": ("felt", 0.0),
}
"""The texture and the gloss of a material."""


class Look(NamedTuple):
    """How a product looks.

    Args:
        rng: of what differs between products that are described alike.
        colour: of most of it.
        accent: of its pattern and its details.
        pattern: of :data:`kddcup.pictures.drawing.PATTERNS`.
        material: of :data:`TEXTURE_OF`.
    """

    rng: np.random.Generator
    colour: Colour
    accent: Colour
    pattern: str
    material: str

    def cloth(self) -> Surface:
        """Its main surface."""
        texture, gloss = TEXTURE_OF[self.material]
        opacity = 0.62 if self.material == "glass" else 1.0
        return cover(self.rng, self.colour, self.accent, self.pattern, texture, gloss, opacity)

    def plain(self, colour: Colour | None = None, texture: str | None = None, gloss: float = 0.0) -> Surface:
        """A surface without the pattern; of its colour and its material's texture unless said otherwise."""
        chosen = TEXTURE_OF[self.material][0] if texture is None else texture
        return cover(self.rng, colour or self.colour, self.accent, "plain", chosen, gloss)


def draw_tote(drawing: Drawing, look: Look) -> None:
    """A shopping bag with two handles."""
    cloth, strap = look.cloth(), look.plain(mix(look.colour, DARK, 0.25))
    high = look.rng.uniform(6, 22)
    handle = trace(f"M 36 44 C 36 {high} 64 {high} 64 44")
    drawing.stroke([(x + 3, y - 4) for x, y in handle], 3.2, strap, dim=0.6)
    drawing.fill(trace("M 24 36 L 76 36 L 82 84 Q 82 90 76 90 L 24 90 Q 18 90 18 84 Z"), cloth)
    drawing.stroke(trace("M 24.5 39 L 75.5 39"), 1.0, look.plain(mix(look.colour, DARK, 0.3)))
    drawing.stroke(handle, 3.2, strap)
    for x in (36, 64):
        drawing.fill(ellipse(x, 44, 1.6, 1.6), look.plain(GOLD, "smooth", 0.6), 1)


def draw_backpack(drawing: Drawing, look: Look) -> None:
    """A backpack from the front."""
    cloth, strap = look.cloth(), look.plain(mix(look.colour, DARK, 0.4))
    for side in (trace("M 29 30 C 12 42 12 70 24 86"), trace("M 71 30 C 88 42 88 70 76 86")):
        drawing.stroke(side, 6, strap, dim=0.75)
    drawing.stroke(trace("M 43 18 C 43 6 57 6 57 18"), 3, strap)
    body = trace("M 25 36 C 25 13 75 13 75 36 L 78 84 Q 78 92 70 92 L 30 92 Q 22 92 22 84 Z")
    drawing.fill(body, cloth)
    drawing.stroke(trace("M 26 42 C 40 36 60 36 74 42"), 1.2, look.plain(DARK, "smooth"))
    drawing.fill(ellipse(62, 40, 1.2, 2.4), look.plain(GOLD, "smooth", 0.6), 1)
    pocket = trace(
        "M 30 62 Q 30 57 35 57 L 65 57 Q 70 57 70 62 L 71 82 Q 71 87 66 87 L 34 87 Q 29 87 29 82 Z"
    )
    drawing.fill(pocket, look.plain(mix(look.colour, look.accent, 0.3)), 4)
    drawing.stroke(trace("M 32 65 L 68 65"), 1.0, look.plain(DARK, "smooth"))
    drawing.fill(trace("M 46 48 L 54 48 L 54 54 L 46 54 Z"), look.plain(GOLD, "smooth", 0.5), 1)


def draw_handbag(drawing: Drawing, look: Look) -> None:
    """A handbag with a flap and a clasp."""
    high = look.rng.uniform(4, 20)
    drawing.stroke(
        trace(f"M 31 45 C 31 {high} 69 {high} 69 45"), 3.8, look.plain(mix(look.colour, DARK, 0.3))
    )
    cloth = look.cloth()
    body = "M 20 46 Q 20 42 24 42 L 76 42 Q 80 42 80 46"
    drawing.fill(trace(f"{body} L 88 82 Q 88 88 82 88 L 18 88 Q 12 88 12 82 Z"), cloth, 6)
    deep = look.rng.uniform(68, 78)
    drawing.fill(trace(f"{body} L 83 58 C 70 {deep} 30 {deep} 17 58 Z"), cloth, 3, 0.94)
    clasp = look.plain(GOLD, "smooth", 0.6)
    drawing.fill(ellipse(50, 0.75 * deep + 14.5, 3.4, 3), clasp, 1)
    for x in (31, 69):
        drawing.fill(ellipse(x, 45, 1.8, 1.8), clasp, 1)


def _opening(drawing: Drawing, look: Look, y: float, wide: float, high: float, x: float = 47) -> None:
    rim = DARK if look.material == "enamel" else mix(look.colour, PALE, 0.4)
    drawing.fill(ellipse(x, y, wide, high), look.plain(rim, "smooth", 0.3), 1)
    drawing.fill(
        ellipse(x, y + 0.4, wide - 2, high - 1.2), look.plain(mix(look.colour, DARK, 0.35), "smooth"), 2
    )
    if look.rng.random() < 0.4:  # something to drink
        drink = ((92, 58, 36), (176, 112, 52))[int(look.rng.integers(2))]
        drawing.fill(ellipse(x, y + 1.4, wide - 4, high - 2.2), look.plain(drink, "smooth"), 1)


def draw_mug(drawing: Drawing, look: Look) -> None:
    """A straight mug with a handle."""
    drawing.stroke(trace("M 68 38 C 93 34 92 72 67 70"), 6, look.plain(), 2.2)
    drawing.fill(trace("M 24 26 L 26 82 C 26 92 68 92 68 82 L 70 26 Z"), look.cloth(), 7)
    _opening(drawing, look, 26, 23, 6)


def draw_teacup(drawing: Drawing, look: Look) -> None:
    """A round cup on a saucer."""
    drawing.fill(ellipse(47, 83, 40, 8), look.plain(gloss=0.4), 3, 0.9)
    drawing.fill(ellipse(47, 81.5, 22, 4), look.plain(mix(look.colour, DARK, 0.3)), 2)
    drawing.stroke(trace("M 73 46 C 92 42 90 66 66 66"), 4, look.plain(), 1.6)
    drawing.fill(trace("M 18 38 C 20 70 34 82 47 82 C 60 82 74 70 76 38 Z"), look.cloth(), 7)
    _opening(drawing, look, 38, 29, 7)


def draw_tumbler(drawing: Drawing, look: Look) -> None:
    """A tall beaker with a lid, to be taken along."""
    drawing.fill(trace("M 31 24 L 35 88 Q 36 93 41 93 L 59 93 Q 64 93 65 88 L 69 24 Z"), look.cloth(), 7)
    lid = look.plain(mix(look.accent, DARK, 0.55), "smooth", 0.4)
    drawing.fill(
        trace("M 30 15 Q 30 11 34 11 L 66 11 Q 70 11 70 15 L 71 22 Q 71 25 68 25 L 32 25 Q 29 25 29 22 Z"),
        lid,
        3,
    )
    drawing.fill(trace("M 40 11 Q 40 7 44 7 L 52 7 Q 56 7 56 11 Z"), lid, 1.5)
    if look.rng.random() < 0.5:
        band = look.plain((178, 134, 92), "felt")
        drawing.fill(trace("M 33 48 L 34.2 68 L 65.8 68 L 67 48 Z"), band, 4)


def _folds(drawing: Drawing, look: Look, *lines: str) -> None:
    shade = Surface(look.plain(mix(look.colour, DARK, 0.7), "smooth").image, 0, 0.35)
    for line in lines:
        drawing.stroke(trace(line), 0.8, shade, 0.4)


def draw_t_shirt(drawing: Drawing, look: Look) -> None:
    """A shirt with short sleeves."""
    drawing.fill(ellipse(50, 18, 13, 6), look.plain(mix(look.colour, DARK, 0.45)), 2)
    drawing.fill(
        trace(
            "M 36 15 C 40 26 60 26 64 15 L 76 19 Q 90 28 97 42 L 84 52 L 75 43 L 76 90 Q 76 93 73 93 "
            "L 27 93 Q 24 93 24 90 L 25 43 L 16 52 L 3 42 Q 10 28 24 19 Z"
        ),
        look.cloth(),
        4,
    )
    drawing.stroke(trace("M 36 15 C 40 26 60 26 64 15"), 2, look.plain(mix(look.colour, look.accent, 0.35)))
    _folds(drawing, look, "M 25 43 C 28 36 28 30 25 22", "M 75 43 C 72 36 72 30 75 22")


def draw_polo(drawing: Drawing, look: Look) -> None:
    """A shirt with short sleeves, a collar and three buttons."""
    drawing.fill(
        trace(
            "M 36 15 L 64 15 L 76 19 Q 90 28 97 44 L 84 53 L 75 44 L 76 90 Q 76 93 73 93 "
            "L 27 93 Q 24 93 24 90 L 25 44 L 16 53 L 3 44 Q 10 28 24 19 Z"
        ),
        look.cloth(),
        4,
    )
    trim = look.plain(mix(look.colour, look.accent, 0.5))
    drawing.fill(trace("M 46 18 L 54 18 L 54 44 L 46 44 Z"), trim, 2)
    drawing.fill(ellipse(50, 15, 10, 4), look.plain(mix(look.colour, DARK, 0.55)), 2)
    for collar in ("M 37 11 L 50 21 L 42 31 L 31 17 Z", "M 63 11 L 50 21 L 58 31 L 69 17 Z"):
        drawing.fill(trace(collar), trim, 2)
    for y in (27, 34, 41):
        drawing.fill(ellipse(50, y, 1.3, 1.3), look.plain(PALE, "smooth", 0.4), 0.6)
    for cuff in ("M 3 44 L 16 53", "M 97 44 L 84 53"):
        drawing.stroke(trace(cuff), 3, trim)
    _folds(drawing, look, "M 25 44 C 28 36 28 30 25 22", "M 75 44 C 72 36 72 30 75 22")


def draw_sweater(drawing: Drawing, look: Look) -> None:
    """A shirt with long sleeves and ribs at its ends."""
    drawing.fill(ellipse(50, 16, 12, 5), look.plain(mix(look.colour, DARK, 0.45)), 2)
    drawing.fill(
        trace(
            "M 38 13 C 42 22 58 22 62 13 L 74 17 C 84 24 92 60 95 84 L 83 87 L 75 52 L 76 92 L 24 92 L 25 52 "
            "L 17 87 L 5 84 C 8 60 16 24 26 17 Z"
        ),
        look.cloth(),
        5,
    )
    rib = look.plain(mix(look.colour, look.accent, 0.4))
    for line in ("M 38 13 C 42 22 58 22 62 13", "M 25 91 L 75 91", "M 6 82 L 17 85", "M 94 82 L 83 85"):
        drawing.stroke(trace(line), 3.2, rib)
    _folds(drawing, look, "M 25 52 C 27 42 28 34 27 26", "M 75 52 C 73 42 72 34 73 26")


def _metal(look: Look) -> Surface:
    """What carries a lamp."""
    if look.material == "brass":
        return look.plain(GOLD, "brushed", 0.6)
    if look.material == "wooden":
        return look.plain((176, 126, 78), "wood", 0.1)
    return look.plain(mix(PALE, STEEL, 0.25), "smooth", 0.7)


def _glow(drawing: Drawing, look: Look, x: float, y: float, wide: float, high: float) -> None:
    """The lower opening of a shade, lit on some."""
    lit = (255, 238, 178) if look.rng.random() < 0.5 else mix(look.colour, DARK, 0.5)
    drawing.fill(ellipse(x, y, wide, high), look.plain(lit, "smooth"), 1)


def _shade(look: Look) -> Surface:
    """A lampshade's cloth, whatever carries it."""
    return cover(look.rng, look.colour, look.accent, look.pattern)


def draw_table_lamp(drawing: Drawing, look: Look) -> None:
    """A lamp on a round foot."""
    base = _metal(look)
    belly = look.rng.uniform(60, 70)
    drawing.fill(
        trace(
            f"M 47 48 L 53 48 C 53 60 {belly} 64 {belly} 75 C {belly} 84 57 86 57 90 L 43 90 C 43 86 "
            f"{100 - belly} 84 {100 - belly} 75 C {100 - belly} 64 47 60 47 48 Z"
        ),
        base,
        4,
    )
    drawing.fill(trace("M 36 90 L 64 90 Q 67 91 67 95 L 33 95 Q 33 91 36 90 Z"), base, 2)
    top = look.rng.uniform(30, 38)
    drawing.fill(trace(f"M {top} 10 L {100 - top} 10 L 80 50 L 20 50 Z"), _shade(look), 6)
    _glow(drawing, look, 50, 50, 30, 4)


def draw_floor_lamp(drawing: Drawing, look: Look) -> None:
    """A lamp on a pole, or on three legs."""
    base = _metal(look)
    if look.rng.random() < 0.5:
        drawing.stroke(trace("M 50 30 L 50 92"), 2.4, base)
        drawing.fill(ellipse(50, 93, 19, 3.6), base, 2)
    else:
        for foot in (30, 70, 54):
            drawing.stroke(trace(f"M 50 38 L {foot} 96"), 2.4, base, dim=0.8 if foot == 54 else 1)
        drawing.stroke(trace("M 50 30 L 50 40"), 3, base)
    drawing.fill(trace("M 36 4 L 64 4 L 74 31 L 26 31 Z"), _shade(look), 5)
    _glow(drawing, look, 50, 31, 24, 3)


def draw_desk_lamp(drawing: Drawing, look: Look) -> None:
    """A lamp with a jointed arm and a head."""
    base = _metal(look)
    drawing.fill(ellipse(34, 91, 22, 5), base, 2)
    drawing.fill(ellipse(34, 89, 20, 4.4), base, 2)
    drawing.stroke(trace("M 34 88 L 22 52 L 52 24"), 3, base)
    for x, y in ((22, 52), (34, 87)):
        drawing.fill(ellipse(x, y, 3.2, 3.2), base, 1)
    drawing.fill(trace("M 48 16 C 52 12 60 12 63 17 L 90 40 C 84 54 72 62 58 62 Z"), _shade(look), 5)
    mouth = [
        (74 + 20 * np.cos(a) * 0.83 + 5 * np.sin(a) * 0.55, 51 - 20 * np.cos(a) * 0.55 + 5 * np.sin(a) * 0.83)
        for a in np.linspace(0, 2 * np.pi, 40, endpoint=False)
    ]
    lit = (255, 238, 178) if look.rng.random() < 0.6 else DARK
    drawing.fill(mouth, look.plain(lit, "smooth"), 1)


def _laces(drawing: Drawing, look: Look, *lines: str) -> None:
    lace = look.plain(PALE, "smooth")
    for line in lines:
        drawing.stroke(trace(line), 1.6, lace, 0.6)


def _sneaker(drawing: Drawing, look: Look, cloth: Surface, dim: float) -> None:
    drawing.fill(
        trace(
            "M 10 40 C 16 39 20 45 28 45 C 34 45 36 38 42 35 C 50 47 62 55 76 59 C 88 62 93 67 93 75 L 93 79 "
            "L 8 79 C 6 66 5 50 10 40 Z"
        ),
        cloth,
        5,
        dim,
    )
    sole = look.plain(PALE, "smooth")
    drawing.fill(trace("M 78 60 C 88 63 94 68 94 78 L 75 78 C 72 70 73 64 78 60 Z"), sole, 3, dim)
    drawing.fill(trace("M 6 77 L 94 77 C 96 83 94 88 88 88 L 12 88 C 6 88 5 83 6 77 Z"), sole, 2.5, dim)
    drawing.stroke(trace("M 7 83 L 94 83"), 0.9, look.plain(look.accent, "smooth"), 0.5, dim)
    drawing.stroke(trace("M 22 76 C 30 66 34 60 52 62"), 3, look.plain(look.accent), 1, dim)
    _laces(drawing, look, "M 40 44 L 47 39", "M 46 50 L 53 45", "M 52 55 L 60 50", "M 59 59 L 67 55")


def _boot(drawing: Drawing, look: Look, cloth: Surface, dim: float) -> None:
    drawing.fill(
        trace(
            "M 24 18 L 55 18 C 55 30 55 40 58 48 C 68 55 90 55 92 72 L 92 81 L 20 81 C 18 58 21 36 24 18 Z"
        ),
        cloth,
        5,
        dim,
    )
    drawing.stroke(trace("M 23.5 21 L 55 21"), 3, look.plain(mix(look.colour, DARK, 0.4)), 1, dim)
    sole = look.plain((70, 52, 40), "smooth")
    drawing.fill(trace("M 19 80 L 94 80 L 94 86 L 50 86 L 47 84 L 45 91 L 19 91 Z"), sole, 1.5, dim)
    _laces(drawing, look, "M 47 30 L 56 28", "M 47 36 L 56 34", "M 48 42 L 58 40", "M 51 48 L 62 45")


def _heel(drawing: Drawing, look: Look, cloth: Surface, dim: float) -> None:
    drawing.fill(trace("M 9 44 L 22 56 L 18 89 L 13 89 Z"), look.plain(mix(look.colour, DARK, 0.3)), 2, dim)
    drawing.fill(
        trace(
            "M 9 30 C 20 40 30 56 46 62 C 56 65 62 61 70 65 C 84 70 94 78 95 87 C 80 89 60 87 46 79 "
            "C 34 71 28 62 20 59 C 10 54 7 42 9 30 Z"
        ),
        cloth,
        4,
        dim,
    )
    drawing.stroke(trace("M 20 61 C 30 66 38 80 56 86 L 94 88"), 1.4, look.plain(DARK, "smooth"), 0.5, dim)
    drawing.fill(
        trace("M 13 36 C 22 45 31 58 45 63 C 36 66 26 58 20 54 C 15 50 12 44 13 36 Z"),
        look.plain(mix(look.colour, DARK, 0.5), "smooth"),
        2,
        dim,
    )


def _pair(draw: Callable[[Drawing, Look, Surface, float], None]) -> Callable[[Drawing, Look], None]:
    def draw_pair(drawing: Drawing, look: Look) -> None:
        """Two of a kind, one behind the other."""
        cloth = look.cloth()
        drawing.nearer = (5, -11)
        draw(drawing, look, cloth, 0.8)
        drawing.nearer = (-6, 2)
        draw(drawing, look, cloth, 1.0)

    return draw_pair


FORMS: dict[str, Callable[[Drawing, Look], None]] = {
    "tote": draw_tote,
    "backpack": draw_backpack,
    "handbag": draw_handbag,
    "mug": draw_mug,
    "teacup": draw_teacup,
    "tumbler": draw_tumbler,
    "t-shirt": draw_t_shirt,
    "polo": draw_polo,
    "sweater": draw_sweater,
    "table lamp": draw_table_lamp,
    "floor lamp": draw_floor_lamp,
    "desk lamp": draw_desk_lamp,
    "sneakers": _pair(_sneaker),
    "boots": _pair(_boot),
    "heels": _pair(_heel),
}
"""How each form is drawn."""
