"""Drawing with Pillow: outlines as SVG writes them, cloth with patterns, parts shaded towards their edges.

Coordinates are those of a square of 100 × 100, x to the right and y down.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]
SIDE = 288
"""Pixels of a picture."""
FINER = 2
"""The factor by which a picture is drawn larger, which makes edges smooth."""
DRAWN = SIDE * FINER
STEPS = 14
"""Straight pieces of a curve."""
PATTERNS = ("plain", "striped", "dotted", "checked", "floral", "starry")
TEXTURES = ("smooth", "grain", "weave", "twill", "knit", "wood", "brushed", "speckled", "felt")


def trace(path: str) -> Points:
    """The points of an outline, given as an SVG path of absolute M, L, Q and C."""
    points: Points = []
    command, numbers = "", []
    for word in path.split():
        if word.isalpha():
            command, numbers = word, []
            continue
        numbers.append(float(word))
        if len(numbers) == {"M": 2, "L": 2, "Q": 4, "C": 6}[command]:
            pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
            points += pairs if command in "ML" else _bend([points[-1], *pairs])
            numbers = []
    return points


def _bend(corners: Points) -> Points:
    """A Bézier curve without its first point, by de Casteljau."""
    found = []
    for step in range(1, STEPS + 1):
        rest = np.array(corners)
        while len(rest) > 1:
            rest = rest[:-1] + (rest[1:] - rest[:-1]) * (step / STEPS)
        found.append((float(rest[0, 0]), float(rest[0, 1])))
    return found


def ellipse(x: float, y: float, wide: float, high: float) -> Points:
    """The outline of an ellipse by its middle and its half axes."""
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return [(x + wide * float(np.cos(angle)), y + high * float(np.sin(angle))) for angle in angles]


def mix(colour: Colour, other: Colour, share: float) -> Colour:
    """A colour between two; ``share`` is of the other."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


class Surface(NamedTuple):
    """What a part is covered with.

    Args:
        image: [DRAWN, DRAWN] its colours, over the whole picture.
        gloss: how strong the light is that it throws back, 0 to 1.
        opacity: 1 hides what is behind.
    """

    image: Image.Image
    gloss: float = 0.0
    opacity: float = 1.0


def cover(
    rng: np.random.Generator,
    base: Colour,
    accent: Colour,
    pattern: str = "plain",
    texture: str = "smooth",
    gloss: float = 0.0,
    opacity: float = 1.0,
) -> Surface:
    """A surface of a colour with a pattern of another, and of the texture of a material."""
    image = _pattern(rng, base, accent, pattern)
    if texture != "smooth":
        left, top = rng.integers(0, 64, 2).tolist()
        tile = ImageChops.offset(_texture(texture), left, top)
        image = ImageChops.overlay(image, Image.merge("RGB", [tile] * 3))
    return Surface(image, gloss, opacity)


def _pattern(rng: np.random.Generator, base: Colour, accent: Colour, pattern: str) -> Image.Image:
    if pattern == "plain":
        return Image.new("RGB", (DRAWN, DRAWN), base)
    wide = int(DRAWN * 1.42)
    image = Image.new("RGB", (wide, wide), base)
    draw = ImageDraw.Draw(image)
    step = int(rng.integers(34, 58))
    if pattern == "striped":
        share = rng.uniform(0.3, 0.55)
        for place in range(0, wide, step):
            draw.rectangle((0, place, wide, place + step * share), accent)
        turn = float(rng.choice([0, 90, 45]))
    elif pattern == "checked":
        half = mix(base, accent, 0.55)
        for place in range(0, wide, step):
            draw.rectangle((0, place, wide, place + step // 2), half)
        for place in range(0, wide, step):
            for across in range(0, wide, step):
                draw.rectangle((place, across, place + step // 2, across + step // 2), accent)
                draw.rectangle((place, across + step // 2, place + step // 2, across + step), half)
        turn = float(rng.choice([0, 45]))
    else:
        _scatter(rng, draw, wide, step, accent, pattern)
        turn = float(rng.uniform(-20, 20))
    inset = (wide - DRAWN) // 2
    turned = image.rotate(turn, Image.Resampling.BILINEAR)
    return turned.crop((inset, inset, inset + DRAWN, inset + DRAWN))


def _scatter(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, wide: int, step: int, accent: Colour, pattern: str
) -> None:
    """Dots in a grid, or flowers or stars near the places of one."""
    size = step * rng.uniform(0.24, 0.3) if pattern == "dotted" else step * rng.uniform(0.36, 0.44)
    loose = 0 if pattern == "dotted" else step * 0.22
    for row, y in enumerate(range(0, wide, step)):
        for x in range(0, wide + step, step):
            across, down = (
                x - (row % 2) * step / 2 + rng.uniform(-loose, loose),
                y + rng.uniform(-loose, loose),
            )
            if pattern == "dotted":
                draw.ellipse((across - size, down - size, across + size, down + size), accent)
            elif pattern == "starry":
                draw.polygon(_star(across, down, size, rng.uniform(0, 6)), accent)
            else:
                _flower(draw, across, down, size, rng.uniform(0, 6), accent)


def _star(x: float, y: float, size: float, turn: float) -> Points:
    angles = turn + np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2, 0.42, 1.0) * size
    return list(
        zip((x + radii * np.cos(angles)).tolist(), (y + radii * np.sin(angles)).tolist(), strict=True)
    )


def _flower(draw: ImageDraw.ImageDraw, x: float, y: float, size: float, turn: float, accent: Colour) -> None:
    petal = size * 0.42
    leaf = (x + size * float(np.cos(turn + 0.6)), y + size * float(np.sin(turn + 0.6)))
    draw.line((x, y, *leaf), (84, 130, 74), max(2, int(size / 4)))
    for angle in turn + np.arange(5) * 2 * np.pi / 5:
        across, down = x + 0.5 * size * float(np.cos(angle)), y + 0.5 * size * float(np.sin(angle))
        draw.ellipse((across - petal, down - petal, across + petal, down + petal), accent)
    heart = size * 0.26
    draw.ellipse((x - heart, y - heart, x + heart, y + heart), (242, 196, 60))


@functools.cache
def _texture(name: str) -> Image.Image:
    """[DRAWN, DRAWN] grey, 128 on average, lighter and darker as light falls on a material."""
    rng = np.random.default_rng(TEXTURES.index(name))
    y, x = np.mgrid[:DRAWN, :DRAWN].astype(np.float32)

    def noise(wide: int, high: int) -> np.ndarray:
        """Smooth noise whose grains are so large, −1 to 1."""
        small = rng.uniform(0, 255, (DRAWN // high + 2, DRAWN // wide + 2)).astype(np.uint8)
        image = Image.fromarray(small).resize((DRAWN, DRAWN), Image.Resampling.BICUBIC)
        return np.asarray(image, np.float32) / 127.5 - 1

    if name == "grain":  # of leather
        values = 30 * noise(7, 6) + 24 * noise(3, 3)
    elif name == "weave":  # canvas, straw
        values = 26 * np.sign(np.sin(x / 2.2) * np.sin(y / 2.2)) + 16 * noise(2, 12) + 12 * noise(12, 2)
    elif name == "twill":  # denim
        values = 34 * np.sin((x + y) / 1.7) + 26 * noise(3, 3) + 14 * noise(40, 40)
    elif name == "knit":
        values = 52 * np.sin((y + 5 * np.abs(np.mod(x, 12) - 6) / 3) / 1.6) - 34 * (np.mod(x, 12) < 1.5)
    elif name == "wood":
        values = 38 * np.sin((x + 14 * noise(60, 240)) / 5) + 26 * noise(3, 60)
    elif name == "brushed":  # metal
        values = 30 * noise(80, 2)
    elif name == "speckled":  # enamel
        values = -110.0 * (noise(4, 4) > 0.82)
    else:  # felt, suede
        values = 26 * noise(2, 2) + 20 * noise(30, 24)
    return Image.fromarray(np.clip(128 + values, 0, 255).astype(np.uint8))


class Drawing:
    """A thing drawn part over part, which then stands before a background.

    Args:
        rng: of how it is placed and lit.
        background: the colours of wall and floor.
    """

    def __init__(self, rng: np.random.Generator, background: tuple[Colour, Colour]) -> None:
        self._background = background
        self._layer = Image.new("RGB", (DRAWN, DRAWN))
        self._alpha = Image.new("L", (DRAWN, DRAWN))
        scale = rng.uniform(0.72, 0.88)
        angle = rng.normal(0, 0.05)
        flip = -1 if rng.random() < 0.5 else 1
        self._turn = scale * np.array(
            [[flip * np.cos(angle), -np.sin(angle)], [flip * np.sin(angle), np.cos(angle)]]
        )
        self._shift = np.array([50, 50]) + rng.uniform(-4, 4, 2)
        self._light = float(rng.uniform(0.82, 1.0)), float(rng.uniform(0.82, 1.0))
        self.nearer = (0.0, 0.0)
        """How far parts are moved from where they are drawn."""

    def fill(self, outline: Points, surface: Surface, rounding: float = 5.0, dim: float = 1.0) -> None:
        """Draw a part.

        Args:
            outline: its edge.
            surface: what it is covered with.
            rounding: how far from its edge it turns darker.
            dim: brightness; parts behind others get less light.
        """
        mask = Image.new("L", (DRAWN, DRAWN))
        ImageDraw.Draw(mask).polygon(self._place(outline), 255)
        self._paint(mask, surface, rounding, dim)

    def stroke(
        self, line: Points, width: float, surface: Surface, rounding: float = 1.2, dim: float = 1.0
    ) -> None:
        """Draw a band along a line; the rest as in :meth:`fill`."""
        mask = Image.new("L", (DRAWN, DRAWN))
        draw = ImageDraw.Draw(mask)
        pixels = width * abs(np.linalg.det(self._turn)) ** 0.5 * DRAWN / 100
        points = self._place(line)
        draw.line(points, 255, max(1, round(pixels)), joint="curve")
        for x, y in (points[0], points[-1]):
            draw.ellipse((x - pixels / 2, y - pixels / 2, x + pixels / 2, y + pixels / 2), 255)
        self._paint(mask, surface, rounding, dim)

    def finish(self) -> Image.Image:
        """The picture, [SIDE, SIDE]."""
        wall, floor = self._background
        ramp = Image.linear_gradient("L").resize((DRAWN, DRAWN))
        picture = Image.composite(Image.new("RGB", ramp.size, floor), Image.new("RGB", ramp.size, wall), ramp)
        shadow = ImageChops.offset(self._alpha, 14, 16).filter(ImageFilter.GaussianBlur(16))
        picture.paste(mix(floor, (20, 20, 30), 0.75), mask=shadow.point(lambda value: value * 0.45))
        picture.paste(self._layer, mask=self._alpha)
        return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)

    def _place(self, points: Sequence[tuple[float, float]]) -> Points:
        moved = (np.array(points) + self.nearer - 50) @ self._turn.T + self._shift
        return [(float(x), float(y)) for x, y in moved * DRAWN / 100]

    def _paint(self, mask: Image.Image, surface: Surface, rounding: float, dim: float) -> None:
        area = mask.getbbox()
        if area is None:
            return
        part = mask.crop(area)
        wide, high = part.size
        reach = rounding * DRAWN / 100
        # The blur looks beyond the edge, three times as far as it reaches.
        margin = round(3 * reach)
        around = mask.crop((area[0] - margin, area[1] - margin, area[2] + margin, area[3] + margin))
        inner = around.filter(ImageFilter.GaussianBlur(reach)).crop(
            (margin, margin, margin + wide, margin + high)
        )
        left, right = self._light
        ramp = Image.linear_gradient("L").rotate(90).resize(part.size)
        light = ramp.point([round(255 * dim * (left + (right - left) * i / 255)) for i in range(256)])
        # An edge has half of its surroundings within the part, its middle all.
        edge = inner.point([min(255, round(255 * (0.45 + 0.55 * i / 255))) for i in range(256)])
        shade = ImageChops.multiply(light, edge)
        colours = ImageChops.multiply(surface.image.crop(area), Image.merge("RGB", [shade] * 3))
        if surface.gloss:
            spot = Image.new("L", part.size)
            ImageDraw.Draw(spot).ellipse(
                (0.12 * wide, 0.02 * high, 0.42 * wide, 0.75 * high), round(200 * surface.gloss)
            )
            spot = spot.filter(ImageFilter.GaussianBlur(max(2, min(part.size) / 10)))
            colours = ImageChops.screen(colours, Image.merge("RGB", [spot] * 3))
        shown = part.point(lambda value: value * surface.opacity)
        self._layer.paste(colours, area[:2], shown)
        self._alpha.paste(ImageChops.lighter(self._alpha.crop(area), shown), area[:2])
