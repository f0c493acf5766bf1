"""The page that one types into, over HTTP and in Debian's chromium."""

import contextlib
import http.client
import importlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import numpy as np
import psutil
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from kddcup.io.errors import UserError
from kddcup.search import server
from kddcup.search.__main__ import COMMANDS
from kddcup.search.index import Index
from kddcup.search.models import QueryWord
from kddcup.search.searcher import Hit, HitWord, Results, Searcher
from kddcup.search.segment import Product, Regions
from kddcup.table.products import ListedPicture
from tests import searching
from tests.browser import Page
from tests.conftest import ROOT

HOSTILE = "<img src=x onerror=\"document.title='broken'\"></script> \u202eright to left \u0007"
WHOLE, MIDDLE, CORNER = [0, 0, 1, 1], [0.25, 0.25, 0.75, 0.75], [0, 0, 0.5, 0.5]
KNOWN = ["red", "leather", "lamp", "bag", "blue", "红色", "皮革"]
"""Words of the shop, the most trained first."""
STOP = {"the", "a"}


class Shop:
    """A searcher of a few products, by hand.

    Of the query's T known words each weighs 1 / T and has a score of 1 where the title has it.
    """

    def __init__(self, products):
        rows = {product.id: row for row, product in enumerate(products)}
        boxes, weights = np.array([WHOLE, MIDDLE, CORNER], np.float32), np.array([0.2, 0.3, 0.5], np.float32)
        self.index = SimpleNamespace(
            count=len(products),
            is_current=lambda: True,
            find=rows.get,
            product=products.__getitem__,
            regions=lambda row: Regions(boxes, weights, ("picture", "clasp", "")),
        )
        self.products, self.searched, self.running = products, [], threading.Lock()

    def search(self, text, top):
        assert self.running.acquire(blocking=False), "two searches at once"
        self.searched.append(text)
        words = [QueryWord(word, word in KNOWN) for word in text.lower().split() if word not in STOP]
        known = [word.text for word in words if word.known]
        hits = []
        for row, product in enumerate(self.products if known else ()):
            parts = [HitWord(word, 1 / len(known), float(word in product.title.lower())) for word in known]
            hits.append(Hit(0, row, sum(part.weight * part.score for part in parts), tuple(parts)))
        hits.sort(key=lambda hit: (-hit.score, hit.product))
        reason = "" if known else "no known words" if words else "no words"
        self.running.release()
        reason = reason if self.products else "no products"
        return Results(tuple(hits[:top]), tuple(words), 0.0042, 3, "model1", 0, reason)

    def similar(self, row, top):
        others = [other for other in range(len(self.products)) if other != row]
        return tuple(Hit(place, other, 1 - place / 10, ()) for place, other in enumerate(others[:top], 1))

    def complete(self, prefix, limit):
        return [word for word in KNOWN if prefix and word.startswith(prefix)][:limit]

    def suggest(self, word, limit):
        return [known for known in KNOWN if known[:2] == word[:2]][:limit]


SIZES = {"a.png": (400, 800), "b.png": (300, 200), "c.png": (90, 90)}
"""Height and width of the shop's pictures."""


def list_products(folder):
    """Products with ids and names that shops may have, some with pictures."""
    for (name, (height, width)), colour in zip(SIZES.items(), ("red", "blue", "green"), strict=True):
        Image.new("RGB", (width, height), colour).save(folder / name)

    def product(number, id_, title, url="", height=300, width=300, names=()):
        pictures = [ListedPicture(number, folder / name, *SIZES[name], 1) for name in names]
        return Product(number, id_, title, url, height, width, tuple(pictures))

    link, script = "https://shop.example/7?a=1&b=2", "javascript:document.title='broken'"
    return [
        product(1, "SKU-007", "Red leather bag", link, 400, 1000, ("a.png", "b.png")),
        product(2, "../../etc/passwd", "Red lamp", script, 90, 90, ("c.png",)),
        product(3, "007", f"{HOSTILE} red"),
        product(4, "红/包?#%", "红色 皮革 bag"),
        product(5, "5", ""),
        product(6, "long", "blue" + "x" * 300),
    ]


@contextlib.contextmanager
def serve(open_searcher, root_path=""):
    """Serve in a thread; gives the address."""
    listener = socket.create_server(("127.0.0.1", 0))
    running = server.make_server(server.make_app(open_searcher), root_path)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join()


@pytest.fixture
def shop(tmp_path):
    return Shop(list_products(tmp_path))


@pytest.fixture
def address(shop):
    with serve(lambda: shop) as address:
        yield address


def get(address, path, **query):
    """The answer to a request: status, headers, body."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=120)
    connection.request("GET", path + (f"?{urlencode(query)}" if query else ""))
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), content


def ask(address, path, **query):
    """The JSON of a good answer."""
    status, _, content = get(address, path, **query)
    assert status == 200, content
    return json.loads(content)


def refuse(address, path, status, **query):
    """What an answer says that is none."""
    found, _, content = get(address, path, **query)
    assert found == status
    return json.loads(content)["detail"]


# --- over HTTP


def test_a_search_gives_hits_words_and_what_it_took(address):
    found = ask(address, "/api/search", q="red leather bagg", k=2)
    first, second = found.pop("hits")
    assert found == {
        "query": "red leather bagg",
        "reason": "",
        "unknown": [{"word": "bagg", "nearest": ["bag"]}],
        "left_out": 0,
        "products": 6,
        "looked_at": 3,
        "first": "model1",
        "seconds": 0.0042,
    }
    regions = first.pop("regions")
    assert first == {
        "id": "SKU-007",
        "title": "Red leather bag",
        "url": "https://shop.example/7?a=1&b=2",
        "pictured": True,
        "height": 400,
        "width": 1000,
        "score": 1.0,
        "words": [
            {"word": "red", "weight": 0.5, "score": 1.0},
            {"word": "leather", "weight": 0.5, "score": 1.0},
        ],
    }
    assert [region["box"] for region in regions] == [WHOLE, MIDDLE, CORNER]
    assert [region["weight"] for region in regions] == pytest.approx([0.2, 0.3, 0.5])
    assert [region["label"] for region in regions] == ["picture", "clasp", ""]
    # A link that runs a script is none.
    assert (second["id"], second["url"], second["score"]) == ("../../etc/passwd", "", 0.5)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", "no words"),
        ("the a", "no words"),
        ("zzz yyy", "no known words"),
        ("\0\x07\x1b[2J \u2028", "no known words"),
    ],
)
def test_no_hits_have_a_reason(address, query, reason):
    found = ask(address, "/api/search", q=query)
    assert (found["hits"], found["reason"], found["query"]) == ([], reason, query)


def test_requests_that_are_none_are_refused(address, shop):
    for letters in ("a" * 1001, "x" * 100_000, "红" * 100_000):
        assert "1000 characters" in refuse(address, "/api/search", 422, q=letters)[0]["msg"]
        refuse(address, "/api/complete", 422, q=letters)
    for k in (0, 201, -1, "many"):
        refuse(address, "/api/search", 422, q="red", k=k)
    refuse(address, "/api/search", 422)
    assert shop.searched == []
    assert len(ask(address, "/api/search", q="r" * 1000 + "")["query"]) == 1000
    # The page itself is there for each address, and says so.
    assert get(address, "/", q="x" * 100_000)[0] == 200


def test_a_product_is_found_by_the_shops_own_id(address):
    for id_ in ("SKU-007", "../../etc/passwd", "007", "红/包?#%"):
        found = ask(address, f"/api/similar/{quote(id_, safe='')}", k=3)
        assert found["product"]["id"] == id_
        assert len(found["hits"]) == 3
        assert id_ not in [hit["id"] for hit in found["hits"]]
    for id_ in ("7", "..", "nobody's", "x" * 100_000, "\0"):
        assert "has no product" in refuse(address, f"/api/similar/{quote(id_, safe='')}", 404)


def test_pictures_of_the_index_alone_are_served(address, tmp_path):
    status, headers, content = get(address, "/pictures/SKU-007")
    assert (status, headers["content-type"]) == (200, "image/webp")
    (tmp_path / "got.webp").write_bytes(content)
    with Image.open(tmp_path / "got.webp") as joined:
        # Side by side, the longest side of any being 480 pixels: 800 × 400 and 200 × 300 at 0.6.
        assert joined.size == (480 + 120, 240)
        red, _, blue = joined.convert("RGB").getpixel((100, 100))
        assert (red > 200, blue < 50) == (True, True)
    assert get(address, "/pictures/..%2F..%2Fetc%2Fpasswd")[0] == 200  # a product
    Image.new("RGB", (9, 9)).save(tmp_path / "private.png")
    for path in (
        "private.png",
        "a.png",
        str(tmp_path / "a.png"),
        "../a.png",
        "..%2fa.png",
        "%2e%2e/a.png",
        "",
        "..",
    ):
        assert "has no product" in refuse(address, f"/pictures/{path}", 404)
    assert "names none" in refuse(address, "/pictures/007", 404)
    for path in ("/server.py", "/../server.py", "/page.js/..", "/kddcup/search/server.py", "/..%2fserver.py"):
        assert get(address, path)[0] == 404


def test_a_picture_is_scaled_once_and_anew_where_it_was_replaced(address, tmp_path, monkeypatch):
    scaled = []
    join = server.join_pictures
    monkeypatch.setattr(server, "join_pictures", lambda *args: (scaled.append(args), join(*args))[1])
    path = f"/pictures/{quote('../../etc/passwd', safe='')}"
    first, again = (get(address, path)[2] for _ in range(2))
    assert (first, len(scaled)) == (again, 1)
    Image.new("RGB", (90, 90), "yellow").save(tmp_path / "c.png")
    os.utime(tmp_path / "c.png", ns=(1, 1))
    assert get(address, path)[2] != first
    (tmp_path / "c.png").write_text("no picture")
    os.utime(tmp_path / "c.png", ns=(2, 2))
    assert "it is not a JPEG" in refuse(address, path, 404)
    (tmp_path / "c.png").unlink()
    assert "No such file" in refuse(address, path, 404)
    assert ask(address, "/api/search", q="lamp")["hits"][0]["pictured"]


def test_the_last_word_is_completed(address):
    def complete(text):
        return [entry["query"] for entry in ask(address, "/api/complete", q=text)["completions"]]

    assert complete("Red le") == ["Red leather"]
    assert complete("l") == ["leather", "lamp"]
    assert complete("t-le") == ["t-leather"]
    assert complete("红色皮") == ["红色皮革"]  # no blank tells where its last word begins
    for text in ("", "red", "red ", "xle", "le\0"):
        assert complete(text) == []


def test_every_answer_is_guarded(address):
    for path in (
        "/",
        "/page.js",
        "/api/search?q=red",
        "/api/search",
        "/pictures/SKU-007",
        "/nowhere",
        "/openapi.json",
    ):
        _, headers, _ = get(address, path)
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_openapi_describes_all_of_it_and_no_page_from_elsewhere_shows_it(address):
    described = ask(address, "/openapi.json")
    assert set(described["paths"]) == {
        "/api/search",
        "/api/similar/{id}",
        "/api/complete",
        "/pictures/{id}",
        "/healthz",
    }
    assert "looked_at" in described["components"]["schemas"]["Results"]["properties"]
    for path in ("/docs", "/redoc"):
        assert get(address, path)[0] == 404
    assert ask(address, "/healthz") == {"status": "ok", "products": 6}


def test_behind_a_proxy_the_page_asks_below_the_proxys_path(shop):
    with serve(lambda: shop, "/find/") as address:
        assert ask(address, "/openapi.json")["servers"] == [{"url": "/find"}]
        assert ask(address, "/api/search", q="red")["products"] == 6
        page = get(address, "/")[2].decode() + get(address, "/page.js")[2].decode()
    for way in ('href="/', 'src="/', '"/api', "`/api", "`/pictures", "http://", "https://"):
        assert way not in page


def test_fifty_searches_at_once_are_queued_and_none_is_lost(address, shop):
    queries = [f"red {number}" for number in range(50)]
    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda query: ask(address, "/api/search", q=query)["query"], queries))
    assert answers == queries
    assert sorted(shop.searched) == sorted(queries)


def test_a_search_that_nobody_waits_for_is_not_done(address, shop):
    started, go_on = threading.Event(), threading.Event()
    search = shop.search

    def wait(text, top):
        if text == "first":
            started.set()
            assert go_on.wait(60)
        return search(text, top)

    shop.search = wait
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(ask, address, "/api/search", q="first")
        assert started.wait(60)
        with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port)) as impatient:
            impatient.sendall(b"GET /api/search?q=second HTTP/1.1\r\nHost: x\r\n\r\n")
            assert ask(address, "/healthz")  # which is answered meanwhile, after the request has come
        ask(address, "/healthz")
        third = threads.submit(ask, address, "/api/search", q="third")
        go_on.set()
        assert (first.result()["query"], third.result()["query"]) == ("first", "third")
    assert shop.searched == ["first", "third"]


# --- on a real index


@pytest.fixture(scope="module")
def real(trained, tmp_path_factory):
    """The folder of an index of the sample, by random models."""
    root = tmp_path_factory.mktemp("search")
    searching.write_run(root, trained)
    with contextlib.chdir(root):
        run_search("index", "--data_dir", trained / "data", "--out", root / "shop.index")
    return root / "shop.index"


def run_search(command, *args):
    module, function = COMMANDS[command].split(":")
    getattr(importlib.import_module(module), function)(list(map(str, args)))


@pytest.fixture
def index(real, tmp_path):
    return shutil.copytree(real, tmp_path / "shop.index")


def open_index(folder):
    return lambda: Searcher(Index.open(folder))


def test_a_real_index_answers_as_its_searcher_does(real):
    searcher = Searcher(Index.open(real))
    query = " ".join([*searcher.complete("", 3), "nobodysword"])
    with serve(open_index(real)) as address:
        found = ask(address, "/api/search", q=query, k=5)
        expected = searcher.search(query, 5)
        products = [searcher.index.product(hit.product) for hit in expected.hits]
        assert [hit["id"] for hit in found["hits"]] == [product.id for product in products]
        assert [hit["score"] for hit in found["hits"]] == [hit.score for hit in expected.hits]
        for hit, wanted in zip(found["hits"], expected.hits, strict=True):
            assert [tuple(word.values()) for word in hit["words"]] == list(wanted.words)
            assert sum(region["weight"] for region in hit["regions"]) == pytest.approx(1, abs=1e-5)
            assert not hit["pictured"]
        assert [unknown["word"] for unknown in found["unknown"]] == ["nobodysword"]
        alike = ask(address, f"/api/similar/{products[0].id}", k=4)["hits"]
        wanted = searcher.similar(expected.hits[0].product, 4)
        assert [hit["id"] for hit in alike] == [searcher.index.product(hit.product).id for hit in wanted]


def test_the_next_search_is_of_the_index_that_has_replaced_the_one_before(index):
    with serve(open_index(index)) as address:
        before = ask(address, "/api/search", q="dress")
        first = ask(address, "/api/similar/" + Index.open(index).product(0).id)["product"]["id"]
        run_search("remove", "--index", index, "--ids", first)
        assert ask(address, "/api/search", q="dress")["products"] == before["products"] - 1
        refuse(address, f"/api/similar/{first}", 404)
        assert ask(address, "/healthz")["products"] == before["products"] - 1
        shutil.rmtree(index)  # what is open is searched on
        assert ask(address, "/api/search", q="dress")["products"] == before["products"] - 1


SLOW = """
import pathlib, sys, time
from kddcup.search import server

find = server.find

def wait(*args):
    pathlib.Path("started").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
    return find(*args)

server.find = wait
server.main(sys.argv[1:])
"""


@contextlib.contextmanager
def start(*command, **settings):
    """Start a process that serves; gives it and its address."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)
    with process:
        try:
            yield process, process.stdout.readline().split()[0]
        finally:
            process.kill()


def test_the_page_is_served_until_ctrl_c_and_running_searches_then_end(real, tmp_path):
    command = (sys.executable, "-c", SLOW, "--index", str(real), "--port", "0")
    with ThreadPoolExecutor(1) as threads, start(*command, cwd=tmp_path) as (process, address):
        answer = threads.submit(ask, address, "/api/search", q="dress")
        while not (tmp_path / "started").exists():
            assert not answer.done(), answer.result()
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # until nothing listens any more
            while True:
                get(address, "/healthz")
        (tmp_path / "go").touch()
        assert answer.result()["query"] == "dress"
        assert process.wait(60) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--index", "none.index"], "none.index"),
        (["--host", "no.such.host.invalid"], "nothing can listen at no.such.host.invalid:8000"),
        (["--port", "70000"], "nothing can listen at 127.0.0.1:70000"),
        (["--first", "nobody"], "has no model nobody"),
    ],
)
def test_what_cannot_be_served_ends_in_one_line(real, flags, expected):
    with pytest.raises(UserError, match=expected):
        run_search("serve", "--index", real, *flags)


def test_a_port_that_is_taken_ends_in_one_line(real):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UserError, match="name another --host"),
    ):
        run_search("serve", "--index", real, "--port", taken.getsockname()[1])


@pytest.mark.slow
def test_ten_thousand_searches_at_fifty_at_once_leave_the_memory_as_it_was(real):
    flags = ["--index", str(real), "--port", "0", "--rerank", "5"]
    command = [sys.executable, "-m", "kddcup.search", "serve", *flags]
    words = Searcher(Index.open(real)).complete("", 1000)
    draw = random.Random(0)

    def search(address, threads, count):
        queries = [
            " ".join(
                draw.choice([draw.choice(words), f"w{draw.random()}"]) for _ in range(draw.randint(1, 6))
            )
            for _ in range(count)
        ]
        answers = threads.map(lambda query: ask(address, "/api/search", q=query, k=3)["query"], queries)
        assert list(answers) == queries

    with start(*command, cwd=ROOT) as (process, address):
        memory = psutil.Process(process.pid).memory_info
        with ThreadPoolExecutor(50) as threads:
            search(address, threads, 2_000)
            before = memory().rss
            search(address, threads, 8_000)
            grown = memory().rss - before
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert grown < 20_000_000


# --- in the browser


class SearchPage(Page):
    """The page as somebody who searches meets it."""

    def __init__(self, driver, address, query=""):
        super().__init__(driver, f"{address}/{query}", address)

    def wait(self, condition):
        return WebDriverWait(self.driver, 60).until(lambda _: condition())

    def wait_for(self, *names):
        """Wait until these products are shown, in this order."""
        self.wait(lambda: self.names == list(names))

    @property
    def names(self):
        return self.texts("#hits .name > :first-child")

    @property
    def asked(self):
        """What the address says."""
        return parse_qs(urlsplit(self.driver.current_url).query)

    @property
    def box(self):
        return self.find("#box").get_property("value")

    @property
    def focused_card(self):
        """The name on the card that has the focus, or none."""
        script = (
            "return document.activeElement.closest('li')?.querySelector('.name > :first-child').textContent"
        )
        return self.driver.execute_script(script)

    def type(self, text):
        self.find("#box").send_keys(text)

    def set_width(self, width):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


RED = ["Red leather bag", "Red lamp", f"{HOSTILE} red", "红色 皮革 bag", "5", "blue" + "x" * 300]
"""The products by how red they are."""


@pytest.fixture
def visit(address, chromium):
    """Visits the page at a query of its address."""
    yield lambda query="", address=address: SearchPage(chromium, address, query)
    chromium.get("about:blank")  # while the server is there, which what was typed may still be asked of
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.fixture
def page(visit, chromium):
    page = visit()
    yield page
    assert page.complaints() == []
    assert chromium.title != "broken"


def test_there_is_a_box_and_nothing_else_until_one_types(page, shop):
    assert page.find("main").text == ""
    assert page.driver.switch_to.active_element == page.find("#box")
    assert [node.is_displayed() for node in page.find_all("#box, #hits, #further, #legend, #status")] == [
        True,
        *[False] * 4,
    ]
    assert shop.searched == []


def test_what_is_typed_is_searched_and_shown(page, shop):
    page.type("red leather")
    page.wait_for(*RED)
    assert page.asked == {"q": ["red leather"]}
    assert page.find("#status").text.replace("\xa0", " ") == "Best 6 of 6 products · 3 scored in full · 4 ms"
    card = page.find("#hits > li")
    assert card.find_element(By.CSS_SELECTOR, ".name a").get_attribute("href") == shop.products[0].url
    assert card.find_element(By.CLASS_NAME, "id").text == "SKU-007"
    rows = card.find_elements(By.TAG_NAME, "tr")
    assert [row.text for row in rows] == ["red 50% 1.00", "leather 50% 1.00"]
    # The two regions that weigh most lie where they are in the picture.
    image = card.find_element(By.TAG_NAME, "img")
    page.wait(lambda: image.get_property("naturalWidth") == 600)
    regions = card.find_elements(By.CLASS_NAME, "region")
    assert [region.text for region in regions] == ["30%", "50%"]
    for region, (top, left, bottom, right) in zip(regions, (MIDDLE, CORNER), strict=True):
        frame, inner = image.rect, region.rect
        assert inner["x"] - frame["x"] == pytest.approx(left * frame["width"], abs=1)
        assert inner["y"] - frame["y"] == pytest.approx(top * frame["height"], abs=1)
        assert inner["width"] == pytest.approx((right - left) * frame["width"], abs=1)
        assert inner["height"] == pytest.approx((bottom - top) * frame["height"], abs=1)
        assert frame["width"] / frame["height"] == pytest.approx(1000 / 400, rel=0.02)
    # Of a product without a picture all regions are drawn, with the names of their classes.
    drawn = page.find_all("#hits > li")[2].find_elements(By.CLASS_NAME, "region")
    assert [region.text for region in drawn] == ["picture 20%", "clasp 30%", "50%"]


def test_the_search_is_refined_and_gone_back_from(page):
    page.type("red")
    page.wait_for(*RED)
    page.press(Keys.ENTER)
    page.type(" lamp")
    page.wait_for(RED[1], RED[0], *RED[2:])
    page.press(Keys.ENTER)
    assert page.asked == {"q": ["red lamp"]}
    page.driver.back()
    page.wait_for(*RED)
    assert (page.asked, page.box) == ({"q": ["red"]}, "red")
    page.driver.back()
    page.wait(lambda: page.names == [])
    assert (page.find("main").text, page.box, page.asked) == ("", "", {})
    page.driver.forward()
    page.driver.forward()
    page.wait_for(RED[1], RED[0], *RED[2:])


def test_what_was_searched_for_while_one_typed_is_one_step_back(page):
    for letters in ("r", "e", "d", " la"):
        page.type(letters)
        page.wait(lambda: page.asked == {"q": [page.box]})
    page.type("mp")
    page.press(Keys.ENTER)
    page.wait_for(RED[1], RED[0], *RED[2:])
    page.driver.back()
    page.wait(lambda: page.names == [])
    assert (page.asked, page.box) == ({}, "")


def test_a_query_that_is_repeated_is_searched_anew_and_one_gone_back_to_is_not(page, shop):
    for text, names in (("red", RED), (" lamp", [RED[1], RED[0], *RED[2:]])):
        page.type(text)
        page.press(Keys.ENTER)
        page.wait_for(*names)
    shop.searched.clear()
    page.press(Keys.ENTER)
    page.wait(lambda: shop.searched == ["red lamp"])
    page.driver.back()
    page.wait_for(*RED)
    assert shop.searched == ["red lamp"]


def test_an_address_can_be_sent_to_somebody(visit):
    page = visit("?q=leather+lamp&k=2")
    page.wait_for(*RED[:2])
    assert page.box == "leather lamp"
    assert page.find("#further").is_displayed()
    page.find("#further").click()
    page.wait_for(*RED)
    assert page.asked == {"q": ["leather lamp"], "k": ["26"]}
    assert not page.find("#further").is_displayed()
    for k in ("0", "-5", "1e99", "x", "NaN"):
        visit(f"?q=red&k={k}").wait(lambda: page.names[:1] == RED[:1])
    assert page.complaints() == []


def test_a_word_that_is_not_known_is_struck_through_and_replaced(page):
    page.type("red BAGG lamp")
    page.press(Keys.ENTER)
    page.wait(lambda: page.names)
    assert page.find("#notes").text == "The model does not know bagg Nearest known: bag"
    assert page.texts("#notes s") == ["bagg"]
    page.find("#notes button").click()
    page.wait(lambda: page.find("#notes").text == "")
    assert (page.box, page.asked) == ("red bag lamp", {"q": ["red bag lamp"]})


def test_a_word_that_is_being_typed_is_not_said_to_be_unknown(page):
    page.type("red lea")
    page.wait_for(*RED)
    assert page.find("#notes").text == ""
    page.press(Keys.ESCAPE, Keys.ENTER)
    page.wait(lambda: page.texts("#notes s") == ["lea"])


def test_completions_are_chosen_by_keys_and_by_pointer(page):
    page.type("red l")
    page.wait(lambda: page.texts("#completions li") == ["red leather", "red lamp"])
    box = page.find("#box")
    assert box.get_attribute("aria-expanded") == "true"
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    chosen = page.find("[aria-selected=true]")
    assert (chosen.text, box.get_attribute("aria-activedescendant")) == (
        "red lamp",
        chosen.get_attribute("id"),
    )
    page.press(Keys.ARROW_UP, Keys.ENTER)
    page.wait_for(*RED)
    assert (page.box, box.get_attribute("aria-expanded")) == ("red leather", "false")
    page.type(" b")
    page.wait(lambda: page.texts("#completions li") == ["red leather bag", "red leather blue"])
    page.find_all("#completions li")[1].click()
    page.wait(lambda: page.asked == {"q": ["red leather blue"]})
    page.type(" l")
    page.wait(lambda: page.find_all("#completions li"))
    page.press(Keys.ESCAPE)
    assert page.find_all("#completions li") == []
    assert page.box == "red leather blue l"


def test_more_like_one_is_found_and_gone_back_from(page):
    page.type("red")
    page.press(Keys.ENTER)
    page.wait_for(*RED)
    page.find_all(".more")[1].click()
    page.wait_for(RED[0], *RED[2:])
    assert page.asked == {"like": ["../../etc/passwd"]}
    assert page.find("#notes").text == "More like\nRed lamp"
    assert page.texts("#hits .score")[:2] == ["0.90", "0.80"]
    page.find_all(".more")[2].click()  # of the id with a slash, a sign of a query and one of a fragment
    page.wait(lambda: page.asked == {"like": ["红/包?#%"]})
    page.wait_for(*RED[:3], *RED[4:])
    page.driver.back()
    page.wait_for(RED[0], *RED[2:])
    page.driver.back()
    page.wait_for(*RED)
    assert page.box == "red"


def test_an_answer_that_comes_late_is_not_shown_over_a_newer_one(page, shop):
    late, similar = threading.Event(), shop.similar
    shop.similar = lambda *args: (late.wait(60), similar(*args))[1]
    page.type("red")
    page.press(Keys.ENTER)
    page.wait_for(*RED)
    page.find(".more").click()
    page.wait(lambda: page.asked == {"like": ["SKU-007"]})
    page.driver.back()
    page.wait(lambda: page.asked == {"q": ["red"]})
    late.set()
    # When the server has answered to a later question, and the browser has got one after that, it is there.
    ask(page.place, "/api/search", q="lamp")
    page.driver.execute_async_script("fetch('healthz').then((answer) => answer.text()).then(arguments[0])")
    assert page.names == RED


def test_keys_reach_everything(page):
    page.type("red")
    page.press(Keys.ENTER)
    page.wait_for(*RED)
    page.press(Keys.ARROW_DOWN)
    assert page.focused_card == RED[0]
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.focused_card == RED[2]
    page.press(Keys.ARROW_LEFT)
    assert page.focused_card == RED[1]
    page.set_width(360)  # two in a row
    page.press(Keys.ARROW_DOWN)
    assert page.focused_card == RED[3]
    page.press(Keys.ARROW_UP)
    assert page.focused_card == RED[1]
    page.press(Keys.ARROW_UP)
    assert page.driver.switch_to.active_element == page.find("#box")
    page.press(Keys.ARROW_DOWN, Keys.ESCAPE)
    assert page.driver.switch_to.active_element == page.find("#box")
    page.press(Keys.ARROW_DOWN, "/", "lamp")  # over what was there
    page.press(Keys.ENTER)
    page.wait(lambda: page.asked == {"q": ["lamp"]})
    page.wait(lambda: page.names[:1] == [RED[1]])
    page.press(Keys.ARROW_DOWN, Keys.ENTER)
    page.wait(lambda: page.asked == {"like": ["../../etc/passwd"]})


def test_hostile_names_and_queries_are_texts(page):
    page.type("red " + '"><script>document.title="broken"</script>')
    page.press(Keys.ENTER)
    page.wait_for(*RED)
    assert len(page.find_all("script")) == 1
    assert [image.get_attribute("src").partition("/pictures/")[2] for image in page.find_all("img")] == [
        "SKU-007",
        "..%2F..%2Fetc%2Fpasswd",
    ]
    assert [link.get_attribute("href") for link in page.find_all("#hits .name a")] == [
        "https://shop.example/7?a=1&b=2"
    ]
    assert page.texts("#notes s") == ['"><script>document.title="broken"</script>']


def test_a_page_without_hits_says_why(visit, shop):

    def reason():
        return page.wait(lambda: page.texts(".reason"))

    for query, expected in (
        ("the", "has no word to search for"),
        ("zzz", "knows no word of this query"),
        ("x" * 1001, "more than 1,000 letters"),
    ):
        page = visit(f"?q={query}")
        assert expected in reason()[0]
    assert not any(len(query) > 1000 for query in shop.searched)
    assert page.complaints() == []
    page = visit("?like=nobody")
    assert reason() == ["The index has no such product any more."]
    with serve(lambda: Shop([])) as empty:
        page = visit("?q=red", empty)
        assert reason() == ["The index has no products."]
    with serve(lambda: Shop(shop.products[:1])) as lonely:
        page = visit("?like=SKU-007", lonely)
        assert reason() == ["The index has no other product."]
    page.type("red")  # of a server that is gone
    page.press(Keys.ENTER)
    page.wait(lambda: page.texts(".reason") == ["The server does not answer. Press Enter to try again."])


def test_regions_are_drawn_where_a_picture_was_deleted(visit, tmp_path):
    (tmp_path / "a.png").unlink()
    page = visit("?q=red+leather")
    page.wait_for(*RED)
    card = page.find("#hits > li")
    page.wait(lambda: len(card.find_elements(By.CLASS_NAME, "region")) == 3)
    assert card.find_elements(By.TAG_NAME, "img") == []


@pytest.mark.parametrize("width", [360, 768, 1280, 2000])
def test_every_width_has_room(page, width):
    page.set_width(width)
    page.type("red leather bagg")
    page.press(Keys.ENTER)
    page.wait_for(*RED)
    assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width
    cards = [card.rect for card in page.find_all("#hits > li")]
    columns = sum(card["y"] == cards[0]["y"] for card in cards)
    assert columns == {360: 2, 768: 3, 1280: 5, 2000: 6}[width]
    assert min(card["width"] for card in cards) >= 150
    picture = page.find(".picture").rect
    assert picture["width"] == pytest.approx(picture["height"], abs=1)
    page.find_all(".more")[0].click()
    page.wait(lambda: page.asked == {"like": ["SKU-007"]})
    page.driver.back()
    page.wait_for(*RED)


def test_the_browsers_language_is_spoken(visit, chromium):
    agent = chromium.execute_script("return navigator.userAgent")
    chromium.execute_cdp_cmd(
        "Emulation.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": "zh-CN"}
    )
    page = visit("?q=red+bagg")
    page.wait_for(*RED)
    assert page.find("html").get_attribute("lang") == "zh-CN"
    assert page.find("#box").get_attribute("placeholder") == "搜索商品"
    assert page.find("#status").text.startswith("6 件商品")
    assert page.find("#notes").text == "模型不认识 bagg 相近的词： bag"
    assert page.texts(".more")[0] == "找相似"
    chromium.execute_cdp_cmd(
        "Emulation.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": "en-US"}
    )


def test_it_is_dark_where_the_reader_wants_it(page):
    lightness = {}
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        colours = [page.find("body").value_of_css_property(name) for name in ("background-color", "color")]
        lightness[scheme] = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert lightness["light"][0] > 700 > 100 > lightness["light"][1]
    assert lightness["dark"][0] < 100 < 600 < lightness["dark"][1]
