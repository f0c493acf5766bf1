"""The evaluation page as a reader meets it: written by the script, opened in Debian's chromium."""

import base64
import io
import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from kddcup.io.errors import UserError
from kddcup.rank.blending import WEIGHTS, best_weight
from kddcup.rank.explanation import read_explanations
from kddcup.rank.metrics import bootstrap_interval
from kddcup.rank.predictions import read_predictions
from kddcup.report.evaluation import Groups
from kddcup.report.photographs import read_listed_photographs, read_photographs
from kddcup.sample import SampleSettings, write_sample
from kddcup.table.labels import read_labels
from kddcup.table.products import ListedPicture, ListedProduct, write_pictures, write_products
from kddcup.table.table import Table
from kddcup.text.vocabulary import LEXICON, SPECIALS, Vocabulary
from kddcup.train.checkpoint import RunConfig, write_checkpoint
from model1.model import WordImageModel
from tests import small
from tests.conftest import assert_one_line_error, run_script, table_row, write_table

HOSTILE = '<script>document.title="broken"</script> "quoted\' </script> \u202eright \u2028 to left'
HOSTILE_LABEL = '</script><img src=x onerror=\'document.title="broken"\'>"'
QUERIES = {"7": "red wool dress", "8": HOSTILE, "9": "blue dress"}
ANSWERS = {"7": [11], "8": [12], "9": [13, 14]}
MODEL1 = {
    "7": [[11, 0.9], [12, 0.5], [13, 0.1]],
    "8": [[11, 0.9], [12, 0.5], [13, 0.1]],
    "9": [[11, 3.0], [12, 2.0], [13, 1.0]],
}
MODEL2 = {
    "7": [[12, 0.9], [11, 0.5], [13, 0.1]],
    "8": [[11, 0.8], [12, 0.6], [13, 0.2]],
    "9": [[13, 3.0], [12, 2.0], [11, 1.0]],
}
SECOND = 1 / np.log2(3)
PARTS = {"words": ["red", "dress"], "products": {"11": [[0.25, 1.2, 2], [0.75, 0.8, 0]]}}
"""Of query 7: 0.25 · 1.2 + 0.75 · 0.8 = 0.9."""


def picture(product: int) -> dict:
    boxes = np.array([[10, 20, 110, 220], [0, 0, 50.4, 40]], np.float32)
    return {"boxes": boxes, "class_labels": np.array([2, 32 if product == 11 else 99])}


def write_inputs(folder):
    """A table of three queries of three candidates, its answers, its labels and two models' predictions."""
    rows = [
        table_row(product, int(query), text, **picture(product))
        for query, text in QUERIES.items()
        for product in (11, 12, 13)
    ]
    write_table(folder / "valid" / "valid.tsv", rows)
    labels = f"category_id\tcategory_name\n2\t{HOSTILE_LABEL}\n32\thand\n"
    (folder / "multimodal_labels.txt").write_text(labels)
    write(folder, "valid/valid_answer", ANSWERS)
    write(folder, "valid_pred_model1", MODEL1)
    write(folder, "valid_pred_model2", MODEL2)
    return folder


@pytest.fixture
def inputs(tmp_path):
    return write_inputs(tmp_path)


def pairs(predictions):
    return {query: [tuple(one) for one in candidates] for query, candidates in predictions.items()}


def write(folder, name, content):
    (folder / f"{name}.json").write_text(json.dumps(content))


def write_words(folder, **others):
    """What model1's scores are made of: one word for each candidate, but for ``PARTS``."""
    words = {
        query: {"words": ["one"], "products": {str(product): [[1.0, score, 3]] for product, score in found}}
        for query, found in MODEL1.items()
    }
    words["7"]["words"] = PARTS["words"]
    for product, score in MODEL1["7"]:
        words["7"]["products"][str(product)] = [[0.5, score, 1], [0.5, score, 1]]
    words["7"]["products"] |= PARTS["products"]
    write(folder, "valid_pred_model1_words", words | others)


def report(folder, *args):
    return run_script(".", "-m", "kddcup.report", "--data_dir", folder, "--resources_dir", folder, *args)


@pytest.fixture(scope="session")
def chromium():
    paths = shutil.which("chromium"), shutil.which("chromedriver")
    if None in paths:
        reason = "Debian's chromium and chromium-driver are not both installed"
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    headless = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
    for flag in (*headless, "--window-size=1280,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(paths[1]))
    yield driver
    driver.quit()


class Page:
    """A page in the browser, as a reader sees it."""

    def __init__(self, driver, path):
        self.driver = driver
        driver.get_log("browser"), driver.get_log("performance")
        driver.get(path.as_uri())

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector):
        return [node.get_property("textContent") for node in self.all(selector)]

    @property
    def queries(self):
        return self.texts(".query bdi")

    def press(self, *keys):
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    @property
    def focused(self):
        return self.driver.switch_to.active_element.get_property("textContent")

    def complaints(self):
        """What stands in the console, and whatever was asked of anywhere but the page's own file."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        strangers = [url for url in asked if not url.startswith("data:") and url != self.driver.current_url]
        return self.driver.get_log("browser") + strangers


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of the inputs and of what model1's scores are made of."""
    folder = write_inputs(tmp_path_factory.mktemp("report"))
    write_words(folder)
    done = report(folder)
    assert done.returncode == 0, done.stderr
    return folder / "report.html"


@pytest.fixture
def opened(written, chromium):
    page = Page(chromium, written)
    yield page
    assert page.complaints() == []
    assert chromium.title == "NDCG@5 on valid"


def test_models_and_blend_have_their_ndcg_and_interval(opened):
    # Query 7: model1 right, model2 one rank late; query 8: both one rank late; query 9: one of two answers is
    # no candidate, and the other is third or first.
    ideal = 1 + SECOND
    model1 = np.array([1, SECOND, 0.5 / ideal])
    model2 = np.array([SECOND, SECOND, 1 / ideal])
    rows = dict(zip(opened.texts(".models tbody th"), opened.texts(".models tbody tr"), strict=True))
    for name, ndcg in (("model1", model1), ("model2", model2)):
        low, high = bootstrap_interval(ndcg)
        assert f"{ndcg.mean():.4f}" in rows[name]
        assert f"{low:.3f} – {high:.3f}" in rows[name]
    weight, reached = best_weight(pairs(MODEL1), pairs(MODEL2), ANSWERS)
    assert f"{reached:.4f}" in rows["blend"]
    assert opened.one(".flag").text == f"{reached:.4f} at {weight:.4f}"
    assert len(opened.one(".curve polyline").get_attribute("points").split()) == len(WEIGHTS)


def test_hostile_texts_are_shown_as_texts(opened):
    assert HOSTILE in opened.queries
    assert len(opened.all("script")) == 2
    opened.all(".query button")[0].click()
    assert HOSTILE_LABEL in opened.texts(".labels bdi")
    assert opened.all(".detail img") == []


def test_queries_sort_by_each_column_in_both_directions(opened):
    by_text = sorted(QUERIES.values(), key=str.lower)
    values = {
        "text": [by_text, by_text[::-1]],
        "disagreement": [[QUERIES[query] for query in order] for order in ("978", "879")],
        "model1": [[QUERIES[query] for query in order] for order in ("987", "789")],
    }
    for key, directions in values.items():
        header = opened.one(f"[data-key={key}]")
        for expected in directions:
            header.find_element(By.TAG_NAME, "button").click()
            assert opened.queries == expected
        assert header.get_attribute("aria-sort") in ("ascending", "descending")
        assert len(opened.all("[aria-sort]")) == 1
    # Kendall's distance: all of three pairs, one, none.
    assert opened.texts(".query td:last-child") == ["0.33", "0.00", "1.00"]


def test_search_keeps_the_queries_with_all_its_words(opened):
    for typed, expected in (
        ("DRESS wo", {"7"}),
        ("dress", {"7", "9"}),
        ("<script>", {"8"}),
        ("9", {"9"}),
        ("nowhere", set()),
    ):
        opened.one("#search").clear()
        opened.one("#search").send_keys(typed)
        assert set(opened.queries) == {QUERIES[query] for query in expected}
        assert opened.one("#count").text.startswith(f"{len(expected)} of 3 queries")


def test_the_keyboard_reaches_searches_steps_and_opens(opened):
    opened.press("j")
    first, second = opened.queries[:2]
    assert opened.focused == first
    opened.press(Keys.ARROW_DOWN)
    assert opened.focused == second
    opened.press(Keys.ENTER)
    assert len(opened.all(".detail")) == 1
    opened.press(Keys.ENTER, "k")
    assert opened.all(".detail") == []
    assert opened.focused == first
    opened.press("/", "wool")
    assert opened.queries == [QUERIES["7"]]
    opened.press(Keys.ARROW_DOWN, Keys.ENTER)
    assert opened.one(".query button").get_attribute("aria-expanded") == "true"


def open_query(page, query):
    page.one("#search").clear()
    page.one("#search").send_keys(query)
    page.one(".query button").click()


def test_a_query_opens_to_its_candidates_with_hits_regions_and_ranks(opened):
    open_query(opened, "7")
    for model, ranking in (("model1", ["11", "12", "13"]), ("model2", ["12", "11", "13"])):
        opened.driver.execute_script("arguments[0].click()", opened.one(f"input[value={model}]"))
        assert opened.texts(".card .product") == ranking
        assert opened.texts(".card .rank") == ["1", "2", "3"]
        assert opened.texts(".card.hit .product") == ["11"]
        assert opened.texts(".scores .by th") == [model] * 3
    drawn = opened.one(".card.hit .picture")
    assert drawn.get_dom_attribute("viewBox") == "0 0 400 200"
    boxes = [
        [int(box.get_dom_attribute(side)) for side in ("x", "y", "width", "height")]
        for box in drawn.find_elements(By.CSS_SELECTOR, ".region")
    ]
    assert boxes == [[20, 10, 200, 100], [0, 0, 40, 50]]
    colours = {box.value_of_css_property("stroke") for box in drawn.find_elements(By.CSS_SELECTOR, ".region")}
    assert len(colours) == 2
    assert opened.texts(".card.hit .labels bdi") == [HOSTILE_LABEL, "hand"]
    assert "label 99" in opened.texts(".labels bdi")
    open_query(opened, "9")
    assert "2 answers, 1 of them not among the candidates" in opened.texts(".facts")[0]


def test_words_have_the_weight_and_best_score_that_model1_gave_them(opened):
    open_query(opened, "7")
    assert opened.texts(".card.hit .words tbody tr") == ["red25%1.2003", "dress75%0.8001"]


def test_without_words_the_page_names_the_command_that_makes_them(inputs, chromium):
    assert report(inputs).returncode == 0
    page = Page(chromium, inputs / "report.html")
    assert "model1’s validation.py again" in page.one("#queries").text
    assert "--explain" in page.one("#queries").text
    open_query(page, "7")
    assert page.all(".words") == []
    assert page.complaints() == []


def test_photographs_lie_under_their_regions(inputs, chromium, tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    Image.new("RGB", (800, 400), "red").save(folder / "12.jpg")
    assert report(inputs, "--images", folder).returncode == 0
    shutil.rmtree(folder)  # the page has its own
    page = Page(chromium, inputs / "report.html")
    open_query(page, "7")
    assert [len(card.find_elements(By.TAG_NAME, "image")) for card in page.all(".card")].count(1) == 1
    size = page.driver.execute_async_script(
        "const photograph = new Image(), [tell] = arguments;"
        "photograph.onload = () => tell([photograph.naturalWidth, photograph.naturalHeight]);"
        "photograph.src = document.querySelector('.card image').getAttribute('href')"
    )
    assert size == [240, 120]
    assert page.complaints() == []


def list_own_products(folder):
    """Product 12 has two pictures, 13 one that is gone; 12 and 13 have ids and titles of the shop."""
    Image.new("RGB", (800, 400), "red").save(folder / "a.png")
    Image.new("RGB", (200, 300), "blue").save(folder / "b.png")
    pictures = [("a.png", 12, 400, 800), ("b.png", 12, 300, 200), ("gone.png", 13, 100, 100)]
    write_pictures(folder, [ListedPicture(one, folder / name, *size, 1) for name, one, *size in pictures])
    products = [
        ListedProduct(12, "SKU-007", HOSTILE, "https://shop.example/7?a=1&b=2"),
        ListedProduct(13, "013", "Blue dress", "javascript:document.title='broken'"),
        ListedProduct(99, "elsewhere", "", ""),
    ]
    write_products(folder, products)


def test_ones_own_pictures_and_ids_are_shown_without_being_asked_for(inputs, chromium):
    list_own_products(inputs)
    done = report(inputs)
    assert done.returncode == 0, done.stderr
    assert "1 products are drawn as regions" in done.stdout
    assert "elsewhere" not in (inputs / "report.html").read_text()
    page = Page(chromium, inputs / "report.html")
    open_query(page, "7")
    cards = {card.find_element(By.CLASS_NAME, "product").text: card for card in page.all(".card")}
    assert cards.keys() == {"11", "SKU-007", "013"}
    assert {name: len(card.find_elements(By.TAG_NAME, "image")) for name, card in cards.items()} == {
        "11": 0,
        "SKU-007": 1,
        "013": 0,
    }
    assert cards["SKU-007"].find_element(By.TAG_NAME, "a").get_attribute("href").startswith("https://shop.")
    assert cards["013"].find_elements(By.TAG_NAME, "a") == []
    assert cards["013"].find_element(By.CLASS_NAME, "title").text == "Blue dress"
    assert cards["11"].find_elements(By.CLASS_NAME, "title") == []
    assert page.driver.title != "broken"
    assert page.complaints() == []


def test_the_line_to_beat_is_shown_where_the_baseline_was_run(inputs, chromium):
    write(inputs, "valid_pred_logistic", MODEL2)
    assert report(inputs).returncode == 0
    page = Page(chromium, inputs / "report.html")
    figures = {row.text.split()[0]: row.text.split()[1] for row in page.all(".models tbody tr")}
    assert list(figures) == ["model1", "model2", "blend", "logistic", "random"]
    assert figures["logistic"] == figures["model2"]
    assert "logistic: scikit-learn" in page.one(".overview").text
    write(inputs, "valid_pred_logistic", {"7": MODEL2["7"]})
    assert_one_line_error(report(inputs), "valid_pred_logistic.json lacks query 8")


def test_pictures_of_a_product_stand_side_by_side(tmp_path):
    list_own_products(tmp_path)
    content = read_listed_photographs(tmp_path, [11, 12, 13])
    assert content.keys() == {12}
    with Image.open(io.BytesIO(base64.b64decode(content[12]))) as joined:
        assert joined.size == (240 + 60, 120)
        seen = [joined.convert("RGB").getpixel(place) for place in ((120, 60), (270, 45), (270, 110))]
    assert [[int(value > 128) for value in colour] for colour in seen] == [[1, 0, 0], [0, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_in_one_direction_only(opened, scheme):
    opened.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True},
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        for button in opened.all(".query button"):
            button.click()
        assert opened.driver.execute_script("return document.documentElement.scrollWidth") == 360
        colour = opened.one("body").value_of_css_property("background-color")
        assert (int(re.findall(r"\d+", colour)[0]) > 128) == (scheme == "light")
    finally:
        opened.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        opened.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("width", [360, 645, 760, 905, 1024, 1280])
def test_words_have_room_at_every_width(opened, width):
    driver = opened.driver
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for selector, room in ((".query th", 150), (".groups > :nth-child(-n+2) th:first-child", 60)):
            assert min(node.rect["width"] for node in opened.all(selector)) >= room, selector
        opened.all(".query button")[0].click()
        labels = (
            "return [...document.querySelectorAll('.labels bdi')].every(e => e.scrollWidth <= e.offsetWidth)"
        )
        assert driver.execute_script(labels)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_focus_is_not_hidden_under_the_toolbar(opened):
    driver = opened.driver
    size = {"width": 1280, "height": 260, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        driver.execute_script("window.scrollTo(0, document.documentElement.scrollHeight)")
        for _ in range(3):
            opened.press("k")
            top = driver.switch_to.active_element.rect["y"]
            bar = opened.one(".tools").rect
            assert opened.focused in opened.queries
            assert top >= bar["y"] + bar["height"]
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_groups_lose_what_the_mean_would_gain_by_hand():
    ndcg = np.array([0.0] * 5 + [1.0] * 5)
    traits = [{"bad", "all"}] * 5 + [{"good", "all"}] * 4 + [{"all", "rare"}]
    groups = Groups.of(traits, ndcg)
    # "bad" is half of the queries and 0.5 below the mean; "good" and "rare" have too few queries.
    assert groups.considered == 2
    (bad,) = groups.worst
    assert (bad.name, bad.queries, bad.ndcg, bad.interval) == ("bad", 5, 0.0, (0.0, 0.0))
    assert bad.loss == pytest.approx(5 / 10 * 0.5)


@pytest.mark.parametrize("queries", [60, pytest.param(496, marks=pytest.mark.slow)])
def test_the_sample_or_as_many_queries_as_the_competition_has_pick_by_word_label_and_length(
    tmp_path, chromium, queries
):
    write_sample(SampleSettings(out=str(tmp_path), train_queries=2, eval_queries=queries, dim=1))
    answers = json.loads((tmp_path / "valid" / "valid_answer.json").read_text())
    rng = np.random.default_rng(0)
    candidates = {}
    for row in Table(tmp_path / "valid" / "valid.tsv").rows("test"):
        candidates.setdefault(str(row.query_id), []).append(row.product_id)
    for model in ("model1", "model2"):
        predictions = {
            query: sorted(
                ([product, float((product in answers[query]) + rng.standard_normal())] for product in found),
                key=lambda scored: -scored[1],
            )
            for query, found in candidates.items()
        }
        write(tmp_path, f"valid_pred_{model}", predictions)
    assert report(tmp_path).returncode == 0
    page = Page(chromium, tmp_path / "report.html")
    assert len(page.queries) == queries
    ndcg = [float(value) for value in page.texts(".query .strong")]
    assert ndcg == sorted(ndcg)
    for kind in ("word", "label", "length"):
        row = page.one(f"tr:has([data-kind={kind}])")
        count, mean = (cell.text for cell in row.find_elements(By.TAG_NAME, "td")[:2])
        row.find_element(By.TAG_NAME, "button").click()
        assert page.one("#count").text == f"{count} of {queries} queries, blend {mean}"
        assert len(page.queries) == int(count)
    page.one("#filter button").click()
    assert len(page.queries) == queries
    assert page.complaints() == []


def test_words_that_do_not_add_up_to_the_scores_are_refused(inputs):
    other = {"words": ["one"], "products": {str(product): [[1.0, 0.3, 0]] for product in (11, 12, 13)}}
    write_words(inputs, **{"8": other})
    done = report(inputs)
    assert_one_line_error(done, "valid_pred_model1_words.json, query 8", "add up to 0.3", "--explain")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"words": ["one"], "products": {}},
        {"words": ["one"], "products": {str(product): [[1.0, "a", 0]] for product in (11, 12, 13)}},
        {"words": ["one"], "products": {str(product): [[1.0, 0.5]] for product in (11, 12, 13)}},
        {"words": ["one", "two"], "products": {str(product): [[1.0, 0.5, 0]] for product in (11, 12, 13)}},
        [],
    ],
)
def test_words_of_another_form_are_refused(tmp_path, content):
    write_words(tmp_path, **{"7": content})
    with pytest.raises(UserError, match=r"valid_pred_model1_words.json, query 7.*--explain"):
        read_explanations(tmp_path / "valid_pred_model1_words.json", pairs(MODEL1))


def test_a_split_without_predictions_ends_in_one_line_that_names_the_command(inputs):
    done = report(inputs, "--split", "testB")
    assert_one_line_error(done, "test_pred_model1.json does not exist", "cd model1; python validation.py")


def test_photographs_that_cannot_be_shown_are_refused(tmp_path):
    with pytest.raises(UserError, match="is no folder: name with --images"):
        read_photographs(tmp_path / "none", {11})
    with pytest.raises(UserError, match=r"has no photograph of these products.*11\.jpg"):
        read_photographs(tmp_path, {11})
    (tmp_path / "11.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"11\.jpg is no image"):
        read_photographs(tmp_path, {11})


def test_a_table_without_a_candidate_is_refused(inputs):
    write_table(inputs / "valid" / "valid.tsv", [table_row(11, int(query), "text") for query in QUERIES])
    done = report(inputs)
    assert_one_line_error(done, "valid.tsv lacks product 12 under query 7", "valid_pred_model1.json")
    assert not (inputs / "report.html").exists()


def test_labels_of_another_form_are_refused_and_without_names_their_numbers_are_shown(inputs):
    (inputs / "multimodal_labels.txt").write_text("category_id\tcategory_name\nshoes\n")
    with pytest.raises(UserError, match=r"multimodal_labels\.txt, line 2"):
        read_labels(inputs)
    (inputs / "multimodal_labels.txt").unlink()
    assert read_labels(inputs) == {}
    assert report(inputs).returncode == 0
    page = (inputs / "report.html").read_text()
    assert '"32":"label 32"' in page


def test_another_split_is_blended_at_the_weight_of_valid(inputs):
    (inputs / "testB").mkdir()
    shutil.copy(inputs / "valid" / "valid.tsv", inputs / "testB" / "testB.tsv")
    write(inputs, "testB/testB_answer", {"7": [12]})  # right with model2 alone
    write(inputs, "test_pred_model1", MODEL1)
    write(inputs, "test_pred_model2", MODEL2)
    weight, _ = best_weight(pairs(MODEL1), pairs(MODEL2), ANSWERS)
    out = inputs / "elsewhere" / "page.html"
    done = report(inputs, "--split", "testB", "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"1 queries, 0.0 MB: {out}" in done.stdout
    assert weight > 0
    assert f"The blend is {weight:.4f} · model1" in out.read_text()


def test_model1_explains_its_own_scores(tmp_path):
    torch.manual_seed(0)
    model = WordImageModel(small.CONFIG)
    words = [f"word{i}" for i in range(small.CONFIG.vocabulary - len(SPECIALS))]
    config = RunConfig("small", small.CONFIG, Vocabulary(LEXICON, [*SPECIALS, *words]).to_dict())
    write_checkpoint(tmp_path / "model-epoch0.pth", dict(model.named_children()), config)
    rows = [
        table_row(product, query, text)
        for query, text in ((1, "word0 word3 word5 word1"), (2, "the word2"), (3, "the"))
        for product in (5, 6, 7)
    ]
    for split in ("valid", "testB"):
        write_table(tmp_path / split / f"{split}.tsv", rows)
    write(tmp_path, "valid/valid_answer", {"1": [5], "2": [6], "3": [7]})
    told = ["--data_dir", tmp_path, "--checkpoints_dir", tmp_path, "--epoch", 0]
    for name in ("valid", "test"):
        told += [f"--{name}_out_path", tmp_path / f"{name}_pred_model1.json"]
    done = run_script("model1", "validation.py", *told, "--explain")
    assert done.returncode == 0, done.stderr
    for name in ("valid", "test"):
        predictions = read_predictions(tmp_path / f"{name}_pred_model1.json", "")
        found = read_explanations(tmp_path / f"{name}_pred_model1_words.json", predictions)
        assert [found[query].words for query in "123"] == [
            ["word0", "word3", "word5", "word1"],
            ["word2"],
            [],
        ]
        for query, candidates in predictions.items():
            for product, score in candidates:
                parts = found[query].products[product]
                assert sum(part.weight * part.score for part in parts) == pytest.approx(score, abs=1e-6)
                assert sum(part.weight for part in parts) == pytest.approx(1 if parts else 0, abs=1e-6)
    # Without --explain nothing is left that would speak of other scores.
    assert run_script("model1", "validation.py", *told).returncode == 0
    assert list(tmp_path.glob("*_words.json")) == []


def test_the_best_head_is_the_one_whose_product_with_the_word_is_the_score():
    torch.manual_seed(0)
    model = WordImageModel(small.CONFIG).eval()
    queries, heads = small.queries([4, 5], [6]), model.encode_images(small.images(1, 4))
    _, score, head = model.explain_candidates(queries, torch.arange(2), heads)
    for row, words in enumerate([[4, 5], [6]]):
        for place, word in enumerate(words):
            products = heads[row, 1:] @ model.query.embed.weight[word]
            assert score[row, place].item() == pytest.approx(products.max().item(), abs=1e-6)
            assert head[row, place] == products.argmax()
