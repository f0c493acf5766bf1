"""An index through its commands: built, added to, removed from, opened meanwhile, killed, refused."""

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kddcup import stages
from kddcup.io.errors import UserError
from kddcup.pictures.backbones import load_default
from kddcup.pictures.extractors import CropExtractor
from kddcup.rank.scoring import encode_candidates, score_encoded
from kddcup.release.__main__ import main as release_main
from kddcup.release.archive import is_release_file
from kddcup.search.index import Index
from kddcup.search.searcher import Searcher
from kddcup.table.extractor import Extractor, write_extractor
from kddcup.table.products import ListedPicture, ListedProduct, write_pictures, write_products
from kddcup.table.table import Table
from kddcup.train.checkpoint import Checkpoint
from tests.conftest import table_row, write_table
from tests.searching import run_search, write_run

DIM = 32


@pytest.fixture(scope="module")
def built(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of random models and ``shop.index`` of its tables."""
    root = tmp_path_factory.mktemp("run")
    write_run(root, trained)
    printed = run_search(root, "index", "--data_dir", trained / "data", "--out", "shop.index")
    assert re.search(
        r"about [\d,]+ products of 2\.6 kB: \d+ MB in shop\.index, where [\d,]+ MB are free", printed
    )
    return root


@pytest.fixture
def shop(built: Path, tmp_path: Path) -> Path:
    """A copy of it to be changed: the folder of the index."""
    return shutil.copytree(built / "shop.index", tmp_path / "shop.index")


def new_table(folder: Path, ids: list[int], seed: int = 0) -> Path:
    """A table of products in a folder of its own."""
    rows = []
    for number in ids:
        features = np.random.default_rng([seed, number]).random((3, DIM), dtype=np.float32)
        rows.append(table_row(number, 1, "red dress", 3, features=features))
    return write_table(folder / "new.tsv", rows)


def list_ids(index: Index) -> set[str]:
    return {index.product(row).id for row in np.flatnonzero(index.alive).tolist()}


def read_table_ids(data: Path) -> set[str]:
    tables = [data / split / f"{split}.tsv" for split in ("train", "valid", "testA", "testB")]
    return {str(row.product_id) for path in tables if path.is_file() for row in Table(path).rows("read")}


def test_an_index_has_the_products_of_all_splits_with_their_regions(built, trained):
    index = Index.open(built / "shop.index")
    assert list_ids(index) == read_table_ids(trained / "data")
    assert index.count == len(index) == len(list_ids(index))
    row = next(iter(Table(trained / "data" / "valid" / "valid.tsv").rows("read")))
    place = index.find(str(row.product_id))
    product, regions = index.product(place), index.regions(place)
    assert (product.number, product.height, product.width) == (row.product_id, row.image_h, row.image_w)
    scaled = row.boxes / [row.image_h, row.image_w, row.image_h, row.image_w]
    np.testing.assert_allclose(regions.boxes, scaled, rtol=1e-6)
    assert regions.weights.sum() == pytest.approx(1)
    assert len(regions.labels) == len(row.boxes)
    assert index.find("no such product") is None


@pytest.mark.parametrize("name", ["model1", "model2"])
def test_scores_are_those_of_validation(built, trained, name):
    # Heads are kept as float16, a relative error of 2^-11 each, which sums and a softmax pass on.
    data, root = trained / "data", built
    checkpoint = Checkpoint.read(root / name / "checkpoints" / "data" / "model-epoch0.pth", "")
    model = checkpoint.build(stages.find(name))
    table = data / "valid" / "valid.tsv"
    vocabulary = checkpoint.read_vocabulary(None)
    wanted = score_encoded(encode_candidates(table, model, vocabulary, DIM, torch.device("cpu")))
    texts = {str(row.query_id): row.query for row in Table(table).rows("read")}
    index = Index.open(root / "shop.index")
    searcher = Searcher(index)
    for query, candidates in wanted.items():
        rows = np.array([index.find(str(product)) for product, _ in candidates])
        found = searcher.score(name, texts[query], rows)
        np.testing.assert_allclose(found, [score for _, score in candidates], rtol=5e-3, atol=5e-3)


def test_the_best_are_reranked_by_all_models_as_the_blend_says(built):
    index = Index.open(built / "shop.index")
    plain, blended = Searcher(index, rerank=0), Searcher(index, rerank=7)
    text = "red leather dress"
    first, found = plain.search(text, 20).hits, blended.search(text, 20).hits
    assert [hit.product for hit in found[7:]] == [hit.product for hit in first[7:]]
    rows = np.array([hit.product for hit in first[:7]])
    total = 0
    for name, weight in {"model1": 0.6, "model2": 0.4}.items():
        scores = blended.score(name, text, rows)
        total = total + weight * (scores - scores.mean()) / scores.std()
    assert [hit.product for hit in found[:7]] == rows[np.argsort(-total)].tolist()
    np.testing.assert_allclose([hit.score for hit in found[:7]], np.sort(total)[::-1], atol=1e-6)
    assert [hit.place for hit in found] == list(range(1, 21))
    assert sum(word.weight for word in found[0].words) == pytest.approx(1)


def test_equal_products_tie_after_reranking_too_and_go_by_number(shop, tmp_path):
    row = table_row(
        5, 1, "red dress", 3, features=np.random.default_rng(0).random((3, DIM), dtype=np.float32)
    )
    table = write_table(tmp_path / "new.tsv", [{**row, "product_id": number} for number in (9, 5, 7, 3)])
    run_search(tmp_path, "add", "--index", shop, "--tables", table)
    index = Index.open(shop)
    hits = Searcher(index, rerank=2000).search("red dress", 2000).hits
    numbers = [index.numbers[hit.product] for hit in hits]
    first = numbers.index(3)
    assert numbers[first : first + 4] == [3, 5, 7, 9]
    assert len({hit.score for hit in hits[first : first + 4]}) == 1


def test_words_that_are_unknown_too_many_or_none(built):
    searcher = Searcher(Index.open(built / "shop.index"), rerank=5)
    found = searcher.search("Leather qqq", 3)
    assert [tuple(word) for word in found.words] == [("leather", True), ("qqq", False)]
    assert len(found.hits) == 3
    for text in ("", "  the of ", "?!", "\0\x1b"):
        found = searcher.search(text)
        assert (found.hits, found.words, found.reason) == ((), (), "no words")
    found = searcher.search("red " * 40 + "x" * 10_000, 2)
    assert (len(found.words), found.left_out, len(found.hits)) == (32, 9, 2)


def test_words_are_completed_by_how_often_they_were_trained_and_mended(built):
    searcher = Searcher(Index.open(built / "shop.index"), rerank=0)
    counts = json.loads((searcher.index.models_folder / "words.json").read_text())
    completed = searcher.complete("S", 5)
    assert completed == sorted((w for w in counts if w.startswith("s")), key=lambda w: -counts[w])[:5]
    assert searcher.suggest("leahter") == ["leather"]
    assert searcher.suggest("zzzzzzz") == searcher.suggest("") == []


def test_products_are_added_replaced_and_removed_while_readers_keep_what_they_opened(shop, tmp_path):
    before = Index.open(shop)
    old = before.product(0).id
    run_search(tmp_path, "add", "--index", shop, "--tables", new_table(tmp_path, [int(old), 10, 11]))
    assert not before.is_current()
    after = Index.open(shop)
    assert list_ids(after) == list_ids(before) | {"10", "11"}
    assert after.find(old) >= len(before)
    text, hits = "red dress", 10**6
    ranked = [before.product(hit.product).id for hit in Searcher(before, rerank=0).search(text, hits).hits]
    assert set(ranked) == list_ids(before)
    run_search(tmp_path, "remove", "10", old, "--index", shop)
    assert after.find("10") is not None
    last = Index.open(shop)
    assert list_ids(last) == (list_ids(before) | {"11"}) - {old}
    assert {
        last.product(hit.product).id for hit in Searcher(last, rerank=0).search(text, hits).hits
    } == list_ids(last)


def test_what_is_not_the_index_any_more_is_removed_once_nobody_has_it_open(built, shop, trained, tmp_path):
    reader = Index.open(shop)
    rebuild = ("index", "--data_dir", trained / "data", "--out", shop)
    with pytest.raises(
        UserError, match=r"is an index already: add to it with 'add', or replace it with --force"
    ):
        run_search(built, *rebuild)
    run_search(built, *rebuild, "--force")
    assert {"models-1", "segment-1", "models-2", "segment-2"} <= set(os.listdir(shop))
    assert len(Searcher(reader, rerank=3).search("red dress", 3).hits) == 3
    reader.close()
    run_search(built, *rebuild, "--force")
    assert set(os.listdir(shop)) == {".lock", "index.json", "models-3", "segment-3"}


@pytest.mark.parametrize("command", ["add", "remove"])
def test_wherever_a_writer_is_killed_the_index_is_the_old_or_the_new_one(shop, tmp_path, command):
    table = new_table(tmp_path, [10, 11])
    old = list_ids(Index.open(shop))
    one = min(old)
    args = {"add": ("add", "--tables", table), "remove": ("remove", "--ids", one)}[command]
    new = {"add": old | {"10", "11"}, "remove": old - {one}}[command]
    kills = 0
    while True:
        target = shutil.copytree(shop, tmp_path / f"killed{kills}")
        pid = os.fork()
        if pid == 0:
            try:
                kill_at(kills)
                run_search(tmp_path, *args, "--index", target)
            except BaseException:
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert list_ids(Index.open(target)) in (old, new)
        if status == 0:
            break
        assert os.WIFSIGNALED(status)
        if list_ids(Index.open(target)) == old:
            run_search(tmp_path, *args, "--index", target)
        assert list_ids(Index.open(target)) == new
        assert not list(target.glob(".*.part"))
        kills += 1
    assert kills >= 2


def kill_at(count):
    """Kill this process as it puts a file or a folder in its place for the ``count``-th time, from 0."""
    left, plain = [count], os.replace

    def replace(*paths):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        plain(*paths)

    os.replace = replace


def test_shops_ids_titles_and_pictures_come_along(shop, tmp_path):
    data = tmp_path / "data"
    table = write_table(
        data / "valid" / "valid.tsv", [dict(table_row(1, 1, "x", 3), features=np.ones((3, DIM), "f"))]
    )
    write_products(data, [ListedProduct(1, "SKU/../7", 'Red\n"shoe"', "https://shop.example/7")])
    write_pictures(data, [ListedPicture(1, data / "pictures" / "a.jpg", 20, 30, 3)])
    run_search(tmp_path, "add", "--index", shop, "--tables", table)
    index = Index.open(shop)
    product = index.product(index.find("SKU/../7"))
    assert (product.title, product.url) == ('Red\n"shoe"', "https://shop.example/7")
    (picture,) = product.pictures
    assert picture.path.resolve() == data / "pictures" / "a.jpg"
    assert picture[2:] == (20, 30, 3)
    # Its number, 1, is nobody else's; a second shop's product 1 gets another.
    other = tmp_path / "other"
    table = write_table(
        other / "valid" / "valid.tsv", [dict(table_row(1, 1, "x", 3), features=np.ones((3, DIM), "f"))]
    )
    write_products(other, [ListedProduct(1, "SKU-8", "", "")])
    run_search(tmp_path, "add", "--index", shop, "--tables", table)
    index = Index.open(shop)
    numbers = index.numbers[index.alive]
    assert len(set(numbers.tolist())) == len(numbers)
    assert index.product(index.find("SKU-8")).number != 1


@pytest.mark.slow
def test_an_index_of_pictures_alone_and_of_a_table_of_them(trained, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, colour in {"007.png": "red", "SKU 8.jpg": "blue", "extra.png": "green"}.items():
        Image.new("RGB", (40, 30), colour).save(photos / name)
    (photos / "9.png").write_bytes(b"torn")
    extractor = CropExtractor(load_default("float32"), 0).description
    write_run(tmp_path, trained, {"model1": 1.0}, extractor)
    data = ("--data_dir", trained / "data")
    flags = ("--out", "shop.index", "--images", photos, "--workers", 1)
    printed = run_search(tmp_path, "index", *data, *flags)
    assert "shop.index/bad_pictures.csv lists the pictures that were skipped" in printed
    index = Index.open(tmp_path / "shop.index")
    assert list_ids(index) == {"007", "SKU 8", "extra"}
    (picture,) = index.product(index.find("SKU 8")).pictures
    assert (picture.path.resolve(), picture.height, picture.width) == (photos / "SKU 8.jpg", 30, 40)
    assert len(index.regions(0).boxes) == picture.regions == 6
    # Of a table the ids, titles and which picture shows which; 007 is seen anew.
    (tmp_path / "products.csv").write_text("product_id;image;title\n007;extra.png;Green\nnew;007.png;Red\n")
    table = ("--pairs", tmp_path / "products.csv", "--workers", 1)
    run_search(tmp_path, "add", "--index", "shop.index", "--images", photos, *table)
    index = Index.open(tmp_path / "shop.index")
    assert list_ids(index) == {"007", "SKU 8", "extra", "new"}
    assert index.product(index.find("007")).title == "Green"
    alike = Searcher(index).similar(index.find("007"), 1)[0]
    assert index.product(alike.product).id == "extra"
    assert sorted(path.name for path in (tmp_path / "shop.index").glob(".*")) == [".lock"]
    with pytest.raises(UserError, match=r"photos has features by .*3 x 3 crops.*name the flags"):
        run_search(tmp_path, "add", "--index", "shop.index", "--images", photos, "--grid", 3)
    with pytest.raises(UserError, match="--images and --tables both name products"):
        run_search(tmp_path, "add", "--index", "shop.index", "--images", photos, "--tables", "a.tsv")
    with pytest.raises(UserError, match="no products are named"):
        run_search(tmp_path, "add", "--index", "shop.index")


def test_others_features_models_and_files_are_refused(built, shop, trained, tmp_path):
    table = new_table(tmp_path / "narrow", [1])
    write_table(table, [table_row(1, 1, "x", 2)])
    with pytest.raises(UserError, match=r"new\.tsv has regions of 8 dimensions and the model takes 32"):
        run_search(tmp_path, "add", "--index", shop, "--tables", table)
    foreign = new_table(tmp_path / "foreign", [1])
    write_extractor(foreign.parent, Extractor("6 crops", DIM, "pixels", "net"))
    with pytest.raises(UserError, match=r"has features by net .*, but .*shop\.index was trained on"):
        run_search(tmp_path, "add", "--index", shop, "--tables", foreign)
    with pytest.raises(UserError, match=r"has no product nobody \(and 1 more"):
        run_search(tmp_path, "remove", "nobody", "none", "--index", shop)
    with pytest.raises(UserError, match=r"has no model multilabel: name one of model1, model2"):
        run_search(tmp_path, "query", "x", "--index", shop, "--first", "multilabel")
    with pytest.raises(UserError, match="model2 does not score word by word"):
        run_search(tmp_path, "query", "x", "--index", shop, "--first", "model2")
    with pytest.raises(UserError, match=r"index\.json does not exist: make it with"):
        run_search(tmp_path, "query", "x", "--index", tmp_path / "none")
    with pytest.raises(UserError, match=r"'the' finds nothing \(no words\)"):
        run_search(tmp_path, "query", "the", "--index", shop)
    with pytest.raises(UserError, match="sreve is none of index, add"):
        run_search(tmp_path, "sreve")
    heads = shop / "segment-1" / "model1.label_heads.bin"
    os.truncate(heads, heads.stat().st_size - 7)
    with pytest.raises(
        UserError, match=r"segment-1 is not a whole segment of an index \(model1\.label_heads\.bin is cut"
    ):
        Index.open(shop)
    shutil.rmtree(shop / "segment-1")
    with pytest.raises(UserError, match=r"segment-1 is missing from the index"):
        Index.open(shop)
    (shop / "index.json").write_text(json.dumps({"models": "../models", "segments": []}))
    with pytest.raises(UserError, match="does not describe an index"):
        Index.open(shop)


def test_query_prints_what_was_found(built):
    printed = run_search(built, "query", "red", "leather", "qqq", "--index", "shop.index", "--top", 2)
    lines = printed.splitlines()
    assert lines[0] == "unknown: qqq"
    assert re.fullmatch(r"1 \d+ -?\d\.\d{4} \[red 0\.\d\d·-?\d\.\d\d, leather .*, qqq .*\]", lines[1])
    assert re.fullmatch(r"2 of 1,373 products in \d+ ms, [\d,]+ looked at", lines[-1])


def test_an_index_is_shared_with_its_models_and_a_page_about_them(built, tmp_path, monkeypatch, capsys):
    def release(*flags):
        monkeypatch.setattr(sys, "argv", ["release", *map(str, flags)])
        release_main()

    out = tmp_path / "out"
    for _ in range(2):
        release("--search", built / "shop.index", "--out", out)
        packed = (out / "search.tar.gz").read_bytes()
    release("--out", out, "--verify")
    release("--extract", out / "search.tar.gz", "--to", tmp_path)
    assert (out / "search.tar.gz").read_bytes() == packed
    text, before, after = "red dress", Index.open(built / "shop.index"), Index.open(tmp_path / "search")
    assert Searcher(after).search(text).hits == Searcher(before).search(text).hits
    page = (tmp_path / "search" / "README.md").read_text()
    assert "# Search in 1,373 products" in page
    assert "- model1, small size, weight 0.600" in page
    assert "| blend | 0.6000 |" in page
    manifest = json.loads((out / "MANIFEST.json").read_text())
    assert manifest["search"]["products"] == 1373
    assert manifest["runs"]["model2"]["size"] == "small"
    capsys.readouterr()


@pytest.mark.parametrize("name", ["segment-1/evil.py", "models-1/../x.bin", "x/y.bin", "segment-1/a/b.bin"])
def test_an_archive_of_an_index_has_nothing_else(name):
    assert not is_release_file(f"search/{name}")
    assert is_release_file("search/segment-12/model1.label_heads.bin")


def test_judge_says_how_well_the_whole_index_is_ranked(built, tmp_path):
    index = Index.open(built / "shop.index")
    first = Searcher(index, rerank=0)
    best = [index.product(hit.product).id for hit in first.search("red dress", 1000).hits]
    queries = tmp_path / "queries.csv"
    rows = ["query,product_id,relevance", f"red dress,{best[0]},1", f"red dress,{best[3]},1"]
    rows += [f"red dress,{best[1]},0", "red dress,absent,1", "leather,nobody,1"]
    queries.write_text("\n".join(rows))
    printed = run_search(tmp_path, "judge", "--index", built / "shop.index", "--queries", queries)
    said, blended, alone = printed.splitlines()
    assert said.startswith("1 queries over 1,373 products; left out: 2 products that the index has not, 1 ")
    assert blended.startswith("  model1, then 50 by all  NDCG@5 0.")
    ndcg = (1 + 1 / np.log2(5)) / (1 + 1 / np.log2(3))
    assert alone.startswith(f"  model1 alone            NDCG@5 {ndcg:.3f} [")
    assert "recall@1 0.500 [" in alone
    assert "MRR 1.000 [" in alone
    queries.write_text("query,product_id\nred,x\n")
    with pytest.raises(UserError, match="lists no product of"):
        run_search(tmp_path, "judge", "--index", built / "shop.index", "--queries", queries)
