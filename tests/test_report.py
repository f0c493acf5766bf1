"""The evaluation page as a reader meets it: written by the script, page in Debian's chromium."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from kddcup.io.errors import UserError
from kddcup.rank.blend import Blend
from kddcup.rank.explanation import read_explanations
from kddcup.rank.metrics import bootstrap_interval
from kddcup.rank.predictions import read_predictions
from kddcup.rank.weights import GRID, CandidateScores, search_grid
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
from tests.browser import Page
from tests.conftest import call_main, run_script, table_row, write_table

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
    """A table of three queries of three candidates, answers, labels, two models' predictions, their blend."""
    rows = [
        table_row(product, int(query), text, **picture(product))
        for query, text in QUERIES.items()
        for product in (11, 12, 13)
    ]
    write_table(folder / "valid" / "valid.tsv", rows)
    labels = f"category_id\tcategory_name\n2\t{HOSTILE_LABEL}\n32\thand\n"
    (folder / "multimodal_labels.txt").write_text(labels)
    write(folder, "valid/valid_answer", ANSWERS)
    for table in ("valid", "test"):
        write(folder, f"{table}_pred_model1", MODEL1)
        write(folder, f"{table}_pred_model2", MODEL2)
    blend(folder)
    return folder


def blend(folder, *args):
    call_main("ensemble", "--data_dir", folder, "--resources_dir", folder, *args)


@pytest.fixture(scope="module")
def blended(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("blended"))


@pytest.fixture
def inputs(blended, tmp_path):
    return shutil.copytree(blended, tmp_path / "inputs")


def pairs(predictions):
    return {query: list(map(tuple, candidates)) for query, candidates in predictions.items()}


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
    """What the script prints."""
    return call_main("kddcup.report.__main__", "--data_dir", folder, "--resources_dir", folder, *args)


def assert_refused(folder, *args, words):
    with pytest.raises(UserError) as caught:
        report(folder, *args)
    assert all(text in str(caught.value) for text in words)


class ReportPage(Page):
    @property
    def queries(self):
        return self.texts(".query bdi")


@pytest.fixture(scope="module")
def written(blended, tmp_path_factory):
    """The page of the inputs, with the words of model1's scores."""
    folder = shutil.copytree(blended, tmp_path_factory.mktemp("report") / "inputs")
    write_words(folder)
    command = ("-m", "kddcup.report", "--data_dir", folder, "--resources_dir", folder)
    done = run_script(".", *command)
    assert done.returncode == 0, done.stderr
    return folder / "report.html"


@pytest.fixture
def page(written, chromium):
    page = ReportPage(chromium, written.as_uri())
    yield page
    assert page.complaints() == []
    assert chromium.title == "NDCG@5 on valid"


def test_models_and_blend_have_their_ndcg_and_interval(page, written):
    # Query 7: model1 right, model2 one rank late; query 8: both one rank late; query 9: one of two answers is
    # no candidate, and the other is third or first.
    ideal = 1 + SECOND
    model1 = np.array([1, SECOND, 0.5 / ideal])
    model2 = np.array([SECOND, SECOND, 1 / ideal])
    rows = dict(zip(page.texts(".models tbody th"), page.texts(".models tbody tr"), strict=True))
    for name, ndcg in (("model1", model1), ("model2", model2)):
        low, high = bootstrap_interval(ndcg)
        assert f"{ndcg.mean():.4f}" in rows[name]
        assert f"{low:.3f} – {high:.3f}" in rows[name]
    candidates = CandidateScores.of([pairs(MODEL1), pairs(MODEL2)], ANSWERS)
    weights = search_grid(candidates)
    figure = candidates.mean_ndcg(weights)
    assert f"{figure:.4f}" in rows["blend"]
    assert page.find(".flag").text == f"{figure:.4f} at {weights[0]:.4f}"
    assert len(page.find(".curve polyline").get_attribute("points").split()) == len(GRID)
    rule = f"{weights[0]:.4f} · model1 + {weights[1]:.4f} · model2 of raw scores, the best of 100"
    assert rule in page.find("header").text
    validated = Blend.read(written.parent).figures["valid"].cross_validated
    assert f"{validated:.4f}" in rows["cross-validated"]


def test_hostile_texts_are_shown_as_texts(page):
    assert HOSTILE in page.queries
    assert len(page.find_all("script")) == 2
    page.find_all(".query button")[0].click()
    assert HOSTILE_LABEL in page.texts(".labels bdi")
    assert page.find_all(".detail img") == []


def test_queries_sort_by_each_column_in_both_directions(page):
    by_text = sorted(QUERIES.values(), key=str.lower)
    values = {
        "text": [by_text, by_text[::-1]],
        "disagreement": [[QUERIES[query] for query in order] for order in ("978", "879")],
        "ndcg": [[QUERIES[query] for query in order] for order in ("987", "789")],  # of model1
    }
    for key, directions in values.items():
        header = page.find(f"[data-key={key}]")
        for expected in directions:
            header.find_element(By.TAG_NAME, "button").click()
            assert page.queries == expected
        assert header.get_attribute("aria-sort") in ("ascending", "descending")
        assert len(page.find_all("[aria-sort]")) == 1
    # Kendall's distance: all of three pairs, one, none.
    assert page.texts(".query td:last-child") == ["0.33", "0.00", "1.00"]


def test_search_keeps_the_queries_with_all_its_words(page):
    for typed, expected in (
        ("DRESS wo", {"7"}),
        ("dress", {"7", "9"}),
        ("<script>", {"8"}),
        ("9", {"9"}),
        ("nowhere", set()),
    ):
        page.find("#search").clear()
        page.find("#search").send_keys(typed)
        assert set(page.queries) == {QUERIES[query] for query in expected}
        assert page.find("#count").text.startswith(f"{len(expected)} of 3 queries")


def test_the_keyboard_reaches_searches_steps_and_opens(page):
    page.press("j")
    first, second = page.queries[:2]
    assert page.focused == first
    page.press(Keys.ARROW_DOWN)
    assert page.focused == second
    page.press(Keys.ENTER)
    assert len(page.find_all(".detail")) == 1
    page.press(Keys.ENTER, "k")
    assert page.find_all(".detail") == []
    assert page.focused == first
    page.press("/", "wool")
    assert page.queries == [QUERIES["7"]]
    page.press(Keys.ARROW_DOWN, Keys.ENTER)
    assert page.find(".query button").get_attribute("aria-expanded") == "true"


def open_query(page, query):
    page.find("#search").clear()
    page.find("#search").send_keys(query)
    page.find(".query button").click()


def test_a_query_opens_to_its_candidates_with_hits_regions_and_ranks(page):
    open_query(page, "7")
    for place, (model, ranking) in enumerate(
        (("model1", ["11", "12", "13"]), ("model2", ["12", "11", "13"]))
    ):
        page.driver.execute_script("arguments[0].click()", page.find(f"input[value='{place}']"))
        assert page.texts(".card .product") == ranking
        assert page.texts(".card .rank") == ["1", "2", "3"]
        assert page.texts(".card.hit .product") == ["11"]
        assert page.texts(".scores .by th") == [model] * 3
    drawn = page.find(".card.hit .picture")
    assert drawn.get_dom_attribute("viewBox") == "0 0 400 200"
    boxes = [
        [int(box.get_dom_attribute(side)) for side in ("x", "y", "width", "height")]
        for box in drawn.find_elements(By.CSS_SELECTOR, ".region")
    ]
    assert boxes == [[20, 10, 200, 100], [0, 0, 40, 50]]
    colours = {box.value_of_css_property("stroke") for box in drawn.find_elements(By.CSS_SELECTOR, ".region")}
    assert len(colours) == 2
    assert page.texts(".card.hit .labels bdi") == [HOSTILE_LABEL, "hand"]
    assert "label 99" in page.texts(".labels bdi")
    open_query(page, "9")
    assert "2 answers, 1 of them not among the candidates" in page.texts(".facts")[0]


def test_words_have_the_weight_and_best_score_that_model1_gave_them(page):
    open_query(page, "7")
    assert page.texts(".card.hit .words tbody tr") == ["red25%1.2003", "dress75%0.8001"]


def test_without_words_the_page_names_the_command_that_makes_them(inputs, chromium):
    report(inputs)
    page = ReportPage(chromium, (inputs / "report.html").as_uri())
    assert "model1’s validation.py again" in page.find("#queries").text
    assert "--explain" in page.find("#queries").text
    open_query(page, "7")
    assert page.find_all(".words") == []
    assert page.complaints() == []


def test_photographs_lie_under_their_regions(inputs, chromium, tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    Image.new("RGB", (800, 400), "red").save(folder / "12.jpg")
    report(inputs, "--images", folder)
    shutil.rmtree(folder)  # the page has its own
    page = ReportPage(chromium, (inputs / "report.html").as_uri())
    open_query(page, "7")
    assert [len(card.find_elements(By.TAG_NAME, "image")) for card in page.find_all(".card")].count(1) == 1
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
    write_pictures(
        folder, [ListedPicture(product, folder / name, *size, 1) for name, product, *size in pictures]
    )
    products = [
        ListedProduct(12, "SKU-007", HOSTILE, "https://shop.example/7?a=1&b=2"),
        ListedProduct(13, "013", "Blue dress", "javascript:document.title='broken'"),
        ListedProduct(99, "elsewhere", "", ""),
    ]
    write_products(folder, products)


def test_ones_own_pictures_and_ids_are_shown_without_being_asked_for(inputs, chromium):
    list_own_products(inputs)
    assert "1 products are drawn as regions" in report(inputs)
    assert "elsewhere" not in (inputs / "report.html").read_text()
    page = ReportPage(chromium, (inputs / "report.html").as_uri())
    open_query(page, "7")
    cards = {card.find_element(By.CLASS_NAME, "product").text: card for card in page.find_all(".card")}
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
    report(inputs)
    page = ReportPage(chromium, (inputs / "report.html").as_uri())
    figures = {row.text.split()[0]: row.text.split()[1] for row in page.find_all(".models tbody tr")}
    assert list(figures) == ["model1", "model2", "blend", "logistic", "cross-validated", "random"]
    assert figures["logistic"] == figures["model2"]
    assert "logistic: scikit-learn" in page.find(".overview").text
    write(inputs, "valid_pred_logistic", {"7": MODEL2["7"]})
    assert_refused(inputs, words=["valid_pred_logistic.json lacks query 8"])


def test_pictures_of_a_product_stand_side_by_side(tmp_path):
    list_own_products(tmp_path)
    content = read_listed_photographs(tmp_path, [11, 12, 13])
    assert content.keys() == {12}
    with Image.open(io.BytesIO(base64.b64decode(content[12]))) as joined:
        assert joined.size == (240 + 60, 120)
        seen = [joined.convert("RGB").getpixel(place) for place in ((120, 60), (270, 45), (270, 110))]
    assert [[int(value > 128) for value in colour] for colour in seen] == [[1, 0, 0], [0, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_in_one_direction_only(page, scheme):
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True},
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        for button in page.find_all(".query button"):
            button.click()
        assert page.driver.execute_script("return document.documentElement.scrollWidth") == 360
        colour = page.find("body").value_of_css_property("background-color")
        assert (int(re.findall(r"\d+", colour)[0]) > 128) == (scheme == "light")
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("width", [360, 645, 760, 905, 1024, 1280])
def test_words_have_room_at_every_width(page, width):
    driver = page.driver
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for selector, room in ((".query th", 150), (".groups > :nth-child(-n+2) th:first-child", 60)):
            assert min(node.rect["width"] for node in page.find_all(selector)) >= room, selector
        page.find_all(".query button")[0].click()
        labels = (
            "return [...document.querySelectorAll('.labels bdi')].every(e => e.scrollWidth <= e.offsetWidth)"
        )
        assert driver.execute_script(labels)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_focus_is_not_hidden_under_the_toolbar(page):
    driver = page.driver
    size = {"width": 1280, "height": 260, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        driver.execute_script("window.scrollTo(0, document.documentElement.scrollHeight)")
        for _ in range(3):
            page.press("k")
            top = driver.switch_to.active_element.rect["y"]
            bar = page.find(".tools").rect
            assert page.focused in page.queries
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
    (tmp_path / "testB" / "testB_answer.json").unlink()  # the predictions of test are valid's
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
        for table in ("valid", "test"):
            write(tmp_path, f"{table}_pred_{model}", predictions)
    blend(tmp_path)
    report(tmp_path)
    page = ReportPage(chromium, (tmp_path / "report.html").as_uri())
    assert len(page.queries) == queries
    ndcg = [float(value) for value in page.texts(".query .strong")]
    assert ndcg == sorted(ndcg)
    for kind in ("word", "label", "length"):
        row = page.find(f"tr:has([data-kind={kind}])")
        count, mean = (cell.text for cell in row.find_elements(By.TAG_NAME, "td")[:2])
        row.find_element(By.TAG_NAME, "button").click()
        assert page.find("#count").text == f"{count} of {queries} queries, blend {mean}"
        assert len(page.queries) == int(count)
    page.find("#filter button").click()
    assert len(page.queries) == queries
    assert page.complaints() == []


def test_words_that_do_not_add_up_to_the_scores_are_refused(inputs):
    other = {"words": ["one"], "products": {str(product): [[1.0, 0.3, 0]] for product in (11, 12, 13)}}
    write_words(inputs, **{"8": other})
    assert_refused(inputs, words=["valid_pred_model1_words.json, query 8", "add up to 0.3", "--explain"])


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


def test_a_split_that_was_not_blended_is_refused(inputs):
    assert_refused(inputs, "--split", "testA", words=["is of valid and testB", "ensemble.py --split testA"])


def test_photographs_that_cannot_be_shown_are_refused(tmp_path):
    with pytest.raises(UserError, match="is no folder: name with --images"):
        read_photographs(tmp_path / "none", {11})
    with pytest.raises(UserError, match=r"has no photograph of these products.*11\.jpg"):
        read_photographs(tmp_path, {11})
    (tmp_path / "11.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"11\.jpg cannot be read as an image"):
        read_photographs(tmp_path, {11})


def test_a_table_without_a_candidate_is_refused(inputs):
    write_table(inputs / "valid" / "valid.tsv", [table_row(11, int(query), "text") for query in QUERIES])
    assert_refused(inputs, words=["valid.tsv lacks product 12 under query 7", "valid_pred_model1.json"])
    assert not (inputs / "report.html").exists()


@pytest.mark.parametrize("line", ["shoes", "x\tshoes", "7\t", f"{2**63}\tshoes", "²\tshoes"])
def test_labels_of_another_form_are_refused(tmp_path, line):
    (tmp_path / "multimodal_labels.txt").write_text(f"category_id\tcategory_name\n{line}\n")
    with pytest.raises(UserError, match=r"multimodal_labels\.txt, line 2"):
        read_labels(tmp_path)


def test_a_table_without_label_names_has_numbers_and_not_the_competitions(inputs, chromium):
    (inputs / "multimodal_labels.txt").unlink()
    largest = 2**63 - 1  # no number of JavaScript
    table = inputs / "valid" / "valid.tsv"
    rows = [
        table_row(product, int(query), text, **picture(product) | {"class_labels": np.array([2, largest])})
        for query, text in QUERIES.items()
        for product in (11, 12, 13)
    ]
    write_table(table, rows)
    report(inputs)
    page = ReportPage(chromium, (inputs / "report.html").as_uri())
    open_query(page, "7")
    assert set(page.texts(".labels bdi")) == {"label 2", f"label {largest}"}
    assert "clothes" not in (inputs / "report.html").read_text()
    assert page.complaints() == []


def write_third_model(folder):
    """A third model, which alone is right on query 8."""
    model3 = {**MODEL2, "8": [[12, 0.8], [11, 0.6], [13, 0.2]]}
    for table in ("valid", "test"):
        write(folder, f"{table}_pred_model3", model3)
    return [folder / f"valid_pred_model{number}.json" for number in (1, 2, 3)]


def test_three_models_have_columns_weights_and_no_curve(inputs, chromium):
    models = write_third_model(inputs)
    write_words(inputs)
    blend(inputs, "--models", *models, "--normalize", "zscore")
    report(inputs)
    page = ReportPage(chromium, (inputs / "report.html").as_uri())
    written = Blend.read(inputs)
    assert page.find_all(".curve") == []
    expected = [f"{weight:.4f}" for weight in written.weights]
    assert page.texts(".weights td.strong") == expected
    rule = " + ".join(f"{weight} · model{number}" for number, weight in enumerate(expected, 1))
    assert f"{rule} of z-scores within each query, the best weights of a local" in page.find("header").text
    assert page.texts(".queries thead th")[3:7] == ["model1", "model2", "model3", "Blend"]
    assert page.texts(".models tbody th")[:4] == ["model1", "model2", "model3", "blend"]
    open_query(page, "8")
    page.driver.execute_script("arguments[0].click()", page.find("input[value='2']"))
    assert page.texts(".card .product") == ["12", "11", "13"]
    assert page.texts(".card:first-child .scores tbody th") == ["model1", "model2", "model3", "blend"]
    assert page.texts(".card:first-child .scores .by td") == ["0.800", "1"]
    assert page.texts(".card:first-child .words tbody th") == ["one"]
    # Of query 8, two pairs of models differ in one of three pairs of candidates, and one pair in none.
    assert page.texts(".query td:last-child") == [f"{2 / 9:.2f}"]
    assert page.complaints() == []


def test_one_model_is_shown_too(inputs, chromium):
    blend(inputs, "--models", inputs / "valid_pred_model2.json")
    report(inputs)
    page = ReportPage(chromium, (inputs / "report.html").as_uri())
    assert page.texts(".queries thead th")[3:5] == ["model2", "Blend"]
    assert set(page.texts(".query td:last-child")) == {"0.00"}
    assert page.texts(".weights td.strong") == ["1.0000"]
    assert page.complaints() == []


def test_a_dozen_models_with_long_names_have_room(inputs, chromium):
    models = []
    for number in range(12):
        for table in ("valid", "test"):
            write(inputs, f"{table}_a_matcher_with_a_long_name_{number}", MODEL1)
        models.append(inputs / f"valid_a_matcher_with_a_long_name_{number}.json")
    blend(inputs, "--models", *models)
    report(inputs)
    page = ReportPage(chromium, (inputs / "report.html").as_uri())
    page.find_all(".query button")[0].click()
    for width in (360, 905, 1280):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert min(node.rect["width"] for node in page.find_all(".query th")) >= 150
        assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_page_is_of_the_blend_that_was_written(inputs):
    blend(inputs, "--search", "exact")
    report(inputs)
    weights = Blend.read(inputs).weights
    text = (inputs / "report.html").read_text()
    assert f"The blend is {weights[0]:.4f} · model1 + {weights[1]:.4f} · model2" in text
    assert "the best of all weights on these very queries" in text


def test_a_blend_that_is_absent_or_older_than_the_predictions_is_refused(inputs):
    for model in ("model1", "model2"):
        write(inputs, f"valid_pred_{model}", {**MODEL1, "7": [[13, 0.9], [12, 0.5], [11, 0.1]]})
    assert_refused(inputs, words=["blend.json says NDCG@5", "run 'python ensemble.py' again"])
    (inputs / "blend.json").unlink()
    assert_refused(inputs, words=["blend.json does not exist: run 'python ensemble.py'"])


def test_another_split_is_blended_at_the_weight_of_valid(inputs):
    (inputs / "testB").mkdir()
    shutil.copy(inputs / "valid" / "valid.tsv", inputs / "testB" / "testB.tsv")
    write(inputs, "testB/testB_answer", {"7": [12]})
    weight = Blend.read(inputs).weights[0]
    out = inputs / "elsewhere" / "page.html"
    assert f"1 queries, 0.0 MB: {out}" in report(inputs, "--split", "testB", "--out", out)
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
    flags = ["--data_dir", tmp_path, "--checkpoints_dir", tmp_path, "--epoch", 0]
    for name in ("valid", "test"):
        flags += [f"--{name}_out_path", tmp_path / f"{name}_pred_model1.json"]
    done = run_script("model1", "validation.py", *flags, "--explain")
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
    assert run_script("model1", "validation.py", *flags).returncode == 0
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
