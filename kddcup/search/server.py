"""The page that one types into, and the same searches as JSON, over HTTP."""

import asyncio
import contextlib
import functools
import logging
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request, Response
from jsonargparse.typing import NonNegativeInt
from pydantic import BaseModel, Field

from kddcup.cli import parse_settings
from kddcup.io.errors import UserError, explain_error
from kddcup.pictures.decode import BadPictureError
from kddcup.pictures.thumbnails import encode_webp, join_pictures
from kddcup.search import searcher as ranking
from kddcup.search.index import Index
from kddcup.search.searcher import Searcher, SearchSettings
from kddcup.table.products import find_link
from kddcup.text.segmentation import CHINESE

HELP = """Serve a page to search an index, until Ctrl-C. Example:

    python -m kddcup.search serve --index shop.index

The same searches as JSON: /api/search?q=QUERY&k=COUNT, /api/similar/ID, /api/complete?q=QUERY; /openapi.json
describes them.
"""

Answer = TypeVar("Answer")

TOP, MOST = 24, 200
"""Results by default, and at most."""
LONGEST_QUERY = 1_000
"""In letters; a longer one is no query, and is refused."""
LONGEST_REQUEST = 1 << 21
"""In bytes, of a request's line and headers: so that a longer query than that is refused with its reason."""
Text = Annotated[str, Query(max_length=LONGEST_QUERY)]
Top = Annotated[int, Query(ge=1, le=MOST, description="how many products are wanted")]
NO_PRODUCT = {404: {"description": "There is no such product, or no picture of it."}}
NEAREST = 4
"""Known words that are offered for one that the model does not know."""
COMPLETIONS = 8
LONGEST_SIDE = 480
"""Of a picture, in pixels; the page shows it at half of that, for screens with small pixels."""
QUALITY = 75
"""Of WebP, from 0 to 100."""
SCALED = 2_000
"""Scaled pictures that are kept, of about 15 kB each."""
PICTURE_THREADS = 2

HEADERS = {
    # Nothing from elsewhere, nothing inline, in no frame.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
ASSETS = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}


class Region(BaseModel):
    """A region of a picture."""

    box: tuple[float, float, float, float] = Field(
        description="top, left, bottom, right, from 0 to 1 of the height and the width"
    )
    weight: float = Field(description="what the encoder gave it; those of a product sum to 1")
    label: str = Field(description="the name of its class; empty where it has none")


class Product(BaseModel):
    """A product as the shop knows it."""

    id: str
    title: str
    url: str = Field(description="empty where there is none that leads to the web")
    pictured: bool = Field(description="whether there is a picture, at /pictures/ID")
    height: int = Field(description="of its pictures side by side, in pixels")
    width: int
    regions: list[Region]


class Word(BaseModel):
    """A word of the query against a product."""

    word: str
    weight: float = Field(description="beside the other words of the query; they sum to 1")
    score: float


class Hit(Product):
    """A product that was found."""

    score: float = Field(description="higher is better; comparable within a search alone")
    words: list[Word] = Field(description="what the model that ranks the whole catalogue made of each")


class Unknown(BaseModel):
    """A word that the model does not know."""

    word: str
    nearest: list[str] = Field(description="known words that are written much like it")


class Results(BaseModel):
    """What a search found, best first."""

    query: str
    hits: list[Hit]
    reason: Literal["", "no words", "no known words", "no products"] = Field(
        description="why there are no hits"
    )
    unknown: list[Unknown]
    left_out: int = Field(description="words at the end of a long query that did not count")
    products: int = Field(description="in the index")
    looked_at: int = Field(description="products that were scored in full; bounds ruled the others out")
    first: str = Field(description="the model that ranks the whole catalogue")
    seconds: float


class Similar(BaseModel):
    """The products most like one, by the cosine of their caption heads."""

    product: Product
    hits: list[Hit]
    products: int
    seconds: float


class Completion(BaseModel):
    """A query whose last word is completed."""

    query: str
    word: str


class Completions(BaseModel):
    """Completions of a query, first the word that was trained most often."""

    completions: list[Completion]


class Health(BaseModel):
    """What is served."""

    status: Literal["ok"]
    products: int


class Desk:
    """An index, searched by one thread in the order in which searches come.

    Args:
        open_searcher: opens what is in the folder of the index now.

    Raises:
        UserError: there is no index that can be read.
    """

    def __init__(self, open_searcher: Callable[[], Searcher]) -> None:
        self._open, self._searcher = open_searcher, open_searcher()
        self._queue = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "search")

    @property
    def index(self) -> Index:
        """The index that was last searched."""
        return self._searcher.index

    async def do(self, request: Request, work: Callable[[Searcher], Answer]) -> Answer:
        """Do some work when its turn has come, unless nobody waits for it any more."""
        async with self._queue:
            if await request.is_disconnected():
                raise HTTPException(499, "the request was taken back")
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, lambda: work(self._find_searcher()))

    def _find_searcher(self) -> Searcher:
        """The searcher of the index that is in the folder now, or of the last one that could be read."""
        before = self._searcher
        if not before.index.is_current():
            try:
                self._searcher = self._open()
                before.index.close()
            except UserError as error:
                logging.warning("the index is searched as it was: %s", error)
        return self._searcher


class Scaler:
    """Scales pictures, each once, and keeps the last :data:`SCALED`."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(PICTURE_THREADS, "pictures")
        self._scale = functools.lru_cache(SCALED)(_scale)

    async def scale(self, paths: Sequence[Path]) -> bytes:
        """A product's pictures side by side, as WebP.

        Raises:
            BadPictureError: there is none, one is gone, or it cannot be read any more.
        """

        def work() -> bytes:
            if not paths:
                raise BadPictureError("the index names none")
            try:
                changes = tuple(path.stat().st_mtime_ns for path in paths)
            except OSError as error:
                raise BadPictureError(error.strerror) from None
            return self._scale(tuple(paths), changes)

        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _scale(paths: tuple[Path, ...], changes: tuple[int, ...]) -> bytes:
    # By its last change a picture that was replaced is told from the one before.
    return encode_webp(join_pictures(paths, LONGEST_SIDE), QUALITY)


def make_app(open_searcher: Callable[[], Searcher]) -> FastAPI:
    """Make the application; arguments and errors as of :class:`Desk`."""
    desk, scaler = Desk(open_searcher), Scaler()
    # The document alone: the pages that FastAPI would show it with come from elsewhere.
    app = FastAPI(title="Product search", version="1", docs_url=None, redoc_url=None)
    for path, (name, kind) in ASSETS.items():
        app.add_route(f"/{path}", _show_asset(name, kind), include_in_schema=False)

    @app.get("/api/search")
    async def search(request: Request, q: Text, k: Top = TOP) -> Results:
        """Search the catalogue; ``q`` is what one would type."""
        return await desk.do(request, lambda searcher: find(searcher, q, k))

    @app.get("/api/similar/{id:path}", responses=NO_PRODUCT)
    async def similar(request: Request, id: str, k: Top = TOP) -> Similar:
        """Find the products that look most like one, which is not among them; ``id`` is the shop's own."""
        return await desk.do(request, lambda searcher: find_similar(searcher, id, k))

    @app.get("/api/complete")
    async def complete(request: Request, q: Text) -> Completions:
        """Complete the last word of a query that is being typed."""
        return await desk.do(request, lambda searcher: find_completions(searcher, q))

    @app.get("/pictures/{id:path}", responses=NO_PRODUCT, response_class=Response)
    async def picture(id: str) -> Response:
        """Show a product's pictures side by side, scaled, as WebP; those that the index names, no others."""
        index = desk.index
        product = index.product(find_product(index, id))
        try:
            content = await scaler.scale([picture.path for picture in product.pictures])
        except BadPictureError as error:
            raise HTTPException(404, f"the picture cannot be shown: {error}") from None
        return Response(content, media_type="image/webp", headers={"Cache-Control": "private, max-age=300"})

    @app.get("/healthz")
    async def health() -> Health:
        """Say that it runs, and how many products it searches."""
        return Health(status="ok", products=desk.index.count)

    return app


def _show_asset(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    content = resources.files("kddcup.search").joinpath(name).read_bytes()

    async def show(request: Request) -> Response:
        return Response(content, media_type=kind)

    return show


def find_product(index: Index, id: str) -> int:
    """Find the row of a product.

    Raises:
        HTTPException: there is none of this id.
    """
    row = index.find(id)
    if row is None:
        raise HTTPException(404, f"the index has no product {id[:100]!r}")
    return row


def find(searcher: Searcher, text: str, top: int) -> Results:
    """Search for what somebody typed."""
    found = searcher.search(text, top)
    unknown = dict.fromkeys(word.text for word in found.words if not word.known)
    return Results(
        query=text,
        hits=[describe_hit(searcher.index, hit) for hit in found.hits],
        reason=found.reason,
        unknown=[Unknown(word=word, nearest=searcher.suggest(word, NEAREST)) for word in unknown],
        left_out=found.left_out,
        products=searcher.index.count,
        looked_at=found.looked_at,
        first=found.first,
        seconds=found.seconds,
    )


def find_similar(searcher: Searcher, id: str, top: int) -> Similar:
    """Find the products most like one.

    Raises:
        HTTPException: there is none of this id.
    """
    began = time.perf_counter()
    row = find_product(searcher.index, id)
    hits = searcher.similar(row, top)
    return Similar(
        product=describe_product(searcher.index, row),
        hits=[describe_hit(searcher.index, hit) for hit in hits],
        products=searcher.index.count,
        seconds=time.perf_counter() - began,
    )


def find_completions(searcher: Searcher, text: str) -> Completions:
    """Complete the last word of a text."""
    for start in _list_starts(text):
        typed = text[start:].lower()
        words = [word for word in searcher.complete(typed, COMPLETIONS) if word != typed]
        if words:
            return Completions(
                completions=[Completion(query=text[:start] + word, word=word) for word in words]
            )
    return Completions(completions=[])


def _list_starts(text: str) -> Iterator[int]:
    """List where the last word of a text may begin: behind a blank, and in Chinese behind any character."""
    start = re.search(r"[^\s\-]*$", text).start()
    for place in range(start, len(text)):
        if place == start or CHINESE.match(text[place - 1]):
            yield place


def describe_product(index: Index, row: int) -> Product:
    """Describe a product for the page."""
    product, regions = index.product(row), index.regions(row)
    return Product(
        id=product.id,
        title=product.title,
        url=find_link(product.url),
        pictured=bool(product.pictures),
        height=product.height,
        width=product.width,
        regions=[
            Region(box=box, weight=weight, label=label)
            for box, weight, label in zip(
                regions.boxes.tolist(), regions.weights.tolist(), regions.labels, strict=True
            )
        ],
    )


def describe_hit(index: Index, hit: ranking.Hit) -> Hit:
    """Describe a product that was found."""
    words = [Word(word=word.text, weight=word.weight, score=word.score) for word in hit.words]
    return Hit(**dict(describe_product(index, hit.product)), score=hit.score, words=words)


def make_server(app: FastAPI, root_path: str) -> uvicorn.Server:
    """Make the server of an application; its settings are those of :class:`ServeSettings`."""
    config = uvicorn.Config(
        app,
        http="h11",
        root_path=root_path.rstrip("/"),
        headers=list(HEADERS.items()),
        h11_max_incomplete_event_size=LONGEST_REQUEST,
        log_level="warning",
        # What people searched for is nobody else's business.
        access_log=False,
    )
    return uvicorn.Server(config)


@dataclass
class ServeSettings(SearchSettings):
    """Settings of the page.

    Args:
        host: the address at which it listens; by default only this machine reaches it. 0.0.0.0 is every
            address, and anybody who reaches one of them can search.
        port: at which it listens; 0 takes a free one.
        root_path: what a proxy takes off the front of each path, /search say.
    """

    host: str = "127.0.0.1"
    port: NonNegativeInt = 8000
    root_path: str = ""


def main(args: list[str]) -> None:
    """Serve the page until Ctrl-C; searches that run are then finished.

    Raises:
        UserError: there is no index that can be read, or nothing can listen at the address.
    """
    settings = parse_settings(ServeSettings, HELP, args=args)
    torch.set_num_threads(1)  # the searcher has threads of its own
    app = make_app(settings.open)
    listener = _listen(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    print(f"http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C ends it)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        make_server(app, settings.root_path).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
        return socket.create_server((address[0], port), family=family)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"nothing can listen at {host}:{port} ({explain_error(error)}): name another --host or --port"
        ) from None
