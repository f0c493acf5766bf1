"""A shop's table of pairs: its forms, what does not fit, and how it is dealt where it has no splits."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import SHARED
from PIL import Image

from kddcup.io.errors import UserError
from kddcup.pictures.pairs import MissingPicture, Shop, SplitRows, read_pairs


def draw(folder: Path, *names: str) -> None:
    """Pictures that each hold something else."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4 + number, 3), (number % 256, number // 256, 7)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    draw(folder, "1.jpg", "below/2.png", "007.jpg", "7.jpg", "a.b.jpg", "UPPER.JPG")
    (folder / "1.txt").write_text("no picture")
    return folder


def read(photos: Path, content: str | bytes, name: str = "pairs.csv") -> Shop:
    path = photos.parent / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_pairs(path, photos)


def pictures(shop: Shop) -> dict[str, list[str]]:
    return {product.shop_id: [path.name for path in product.pictures] for product in shop.products}


TRAIN = "query,product_id,split\nred bag,1,train\nmug,2,train\nred bag,2,train\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pairs.csv", TRAIN),
        ("pairs.csv", "\ufeff" + TRAIN),
        ("pairs.csv", TRAIN.replace(",", ";").replace("\n", "\r\n")),
        ("pairs.csv", TRAIN.replace("query", '"Query "').replace("mug", '"mug"')),
        ("pairs.csv", TRAIN.replace("mug", " mug ") + "\n,,\n"),
        ("pairs.tsv", TRAIN.replace(",", "\t")),
        ("pairs.txt", "split,colour,product_id,query\ntrain,x,1,red bag\ntrain,x,2,mug\ntrain,x,2,red bag"),
        (
            "pairs.jsonl",
            '{"query": "red bag", "product_id": "1", "split": "train"}\n\n'
            '{"query": "mug", "product_id": 2, "split": "train", "title": null}\n'
            '{"query": "red bag", "product_id": 2, "split": "train"}\n',
        ),
    ],
)
def test_forms_of_the_table_say_the_same(photos: Path, name: str, content: str) -> None:
    shop = read(photos, content, name)
    assert [product.number for product in shop.products] == [1, 2]
    assert shop.queries == ["red bag", "mug"]
    assert shop.splits == {"train": SplitRows([(1, 0), (2, 1), (2, 0)], {})}


def test_text_with_separators_stays_a_single_field(photos: Path) -> None:
    shop = read(photos, 'query,product_id,split\n"a 27"" bag,\tred\nnew; large",1,train\n')
    assert shop.queries == ['a 27" bag, red new; large']


def test_pictures_are_found_by_name_below_the_folder(photos: Path) -> None:
    draw(photos, "below/1.png")
    shop = read(photos, "query,product_id,split\na,1,train\nb,2,train\nc,a.b,train\nd,UPPER,train\n")
    assert pictures(shop) == {
        "1": ["1.jpg", "1.png"],
        "2": ["2.png"],
        "a.b": ["a.b.jpg"],
        "UPPER": ["UPPER.JPG"],
    }


def test_pictures_are_named_by_rows(photos: Path) -> None:
    draw(photos.parent, "beside.jpg")
    shop = read(
        photos,
        "query,product_id,split,image\n"
        f"a,x,train,7.jpg\nb,x,train,below/2.png\na,x,train,7.jpg\nc,y,train,beside.jpg\nc,z,train,{photos}/1.jpg\n",
    )
    assert pictures(shop) == {"x": ["7.jpg", "2.png"], "y": ["beside.jpg"], "z": ["1.jpg"]}
    assert shop.splits["train"].rows == [(1, 0), (1, 1), (2, 2), (3, 2)]


def test_names_are_the_same_in_both_unicode_forms(photos: Path) -> None:
    draw(photos, "cafe\u0301.jpg")
    assert pictures(read(photos, "query,product_id,split\na,caf\u00e9,train\n")) == {
        "caf\u00e9": ["cafe\u0301.jpg"]
    }


@pytest.mark.parametrize(
    ("ids", "numbers"),
    [(("7", "2"), [7, 2]), (("007", "7"), [1, 2]), (("2", "UPPER"), [1, 2]), (("7", "1"), [7, 1])],
)
def test_ids_that_are_not_all_whole_numbers_are_numbered(
    photos: Path, ids: tuple[str, str], numbers: list[int]
) -> None:
    shop = read(photos, "query,product_id,split\n" + "".join(f"bag,{one},train\n" for one in ids))
    assert [(product.shop_id, product.number) for product in shop.products] == list(
        zip(ids, numbers, strict=True)
    )


def test_titles_and_links_are_kept_and_titles_do_for_queries(photos: Path) -> None:
    shop = read(
        photos, "title,product_id,split,url\nRed  bag,1,train,\nOther,1,train,https://a.b/c\nMug,2,train,\n"
    )
    assert [(one.title, one.url) for one in shop.products] == [("Red bag", "https://a.b/c"), ("Mug", "")]
    assert shop.queries == ["Red bag", "Other", "Mug"]


def test_given_splits_and_relevance_are_taken_as_they_are(photos: Path) -> None:
    shop = read(
        photos,
        "query,product_id,split,relevance\nbag,1,train,1\nbag,2,train,0\nmug,2,valid,0\nmug,7,valid,1\nmug,1,valid,\n",
    )
    assert shop.splits == {
        "train": SplitRows([(1, 0)], {}),
        "valid": SplitRows([(2, 1), (7, 1), (1, 1)], {1: [7, 1]}),
    }


def test_given_splits_without_relevance_get_candidates(photos: Path) -> None:
    shop = read(photos, "query,product_id,split\nbag,2,train\nred bag,1,valid\nblue bag,7,valid\n")
    rows, answers = shop.splits["valid"]
    assert answers == {1: [1], 2: [7]}
    assert sorted(rows) == [(1, 1), (1, 2), (7, 1), (7, 2)]


def test_missing_pictures_are_listed_and_their_products_left_out(photos: Path) -> None:
    shop = read(
        photos,
        "query,product_id,split,image\nbag,1,train,1.jpg\nmug,2,train,gone.jpg\nmug,1,train,gone.png\ncup,9,train,\n",
    )
    assert pictures(shop) == {"1": ["1.jpg"]}
    assert shop.missing == [
        MissingPicture("gone.png", "1"),
        MissingPicture("gone.jpg", "2"),
        MissingPicture("9.*", "9"),
    ]
    assert shop.splits["train"].rows == [(1, 0), (1, 1)]


def test_a_shop_without_some_products(photos: Path) -> None:
    shop = read(
        photos,
        "query,product_id,split,relevance\na,1,train,1\nb,1,valid,1\nb,2,valid,0\nc,7,valid,1\nc,2,valid,0\n",
    ).without([1])
    assert [product.number for product in shop.products] == [2, 7]
    assert shop.splits == {"valid": SplitRows([(2, 1), (7, 2), (2, 2)], {2: [7]})}


BAD_ROWS = [
    ("bag,,train,1", "it has no product_id"),
    (" ,1,train,1", "it has no query"),
    ("bag,1,test,1", "split is 'test', expected train, valid, testA, testB"),
    ("bag,1,,1", "split is ''"),
    ("bag,1,train,2", "relevance is '2', expected 0 or 1"),
    ("bag,1,train", "it has 3 fields, and the header 4"),
    ('"bag" red,1,train,1', "its quotes do not pair up"),
    ("known,1,train,0", "relevance is not what an earlier row"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS)
def test_a_row_that_does_not_fit_is_named(photos: Path, row: str, reason: str) -> None:
    with pytest.raises(UserError, match="line 3: ") as error:
        read(photos, f"query,product_id,split,relevance\nknown,1,train,1\n{row}\n")
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"query": ', "it is not JSON"),
        ("[1]", "it is not a JSON object"),
        ('{"query": ["a"], "product_id": 1}', "query is neither"),
        ('{"query": "a", "product_id": 1.5}', "product_id is neither"),
        ('{"query": "a", "product_id": true}', "product_id is neither"),
        ('{"query": "a"}', "it has no product_id"),
    ],
)
def test_a_json_line_that_does_not_fit_is_named(photos: Path, line: str, reason: str) -> None:
    with pytest.raises(UserError, match="line 2: ") as error:
        read(photos, json.dumps({"query": "known", "product_id": 1}) + f"\n{line}\n")
    assert reason in str(error.value)


def test_ten_rows_that_do_not_fit_are_shown_at_once(photos: Path) -> None:
    with pytest.raises(UserError) as error:
        read(photos, "query,product_id,split\n" + "bag,1,best\n" * 12)
    said = str(error.value)
    assert "12 rows do not fit" in said
    assert [f"line {line}: " in said for line in range(2, 14)] == [True] * 10 + [False] * 2
    assert "and 2 more" in said


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "there is no column product_id and no column query"),
        ("query,split\n", "there is no column product_id"),
        ("url,product_id\n", "there is no column query"),
        ("query,product_id,Query\n", "column query is there twice"),
        ("query,product_id\n", "has a header and no row"),
        ("query,product_id\nbag,gone\nmug,lost\n", "none of the pictures"),
        ("query,product_id,split\nSchöne,1,train\n".encode("latin-1"), "line 2 is not UTF-8"),
        ("query,product_id\nbag,1\nmug,2\n", "too few to split"),
    ],
)
def test_a_table_that_cannot_be_read_ends_in_a_reason(
    photos: Path, content: str | bytes, reason: str
) -> None:
    with pytest.raises(UserError) as error:
        read(photos, content)
    assert reason in str(error.value)


def test_absent_files_are_named(photos: Path) -> None:
    with pytest.raises(UserError, match=r"gone.csv does not exist"):
        read_pairs(photos / "gone.csv", photos)
    with pytest.raises(UserError, match="gone is not a folder"):
        read_pairs(photos / "gone.csv", photos / "gone")


COLOURS, THINGS = ("red", "blue", "green", "black", "white"), ("bag", "mug", "shirt", "lamp", "shoe")


def write_shop(folder: Path, products: Iterable[int]) -> Path:
    """A product of a colour, a thing and a number, each under two queries."""
    lines = ["query,product_id"]
    for number in products:
        colour, thing = COLOURS[number % 5], THINGS[number // 5 % 5]
        lines += [f"{colour} {thing},p{number}", f"{thing} number{number % 40},p{number}"]
    path = folder / "dealt.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    draw(folder, *(f"p{number}.png" for number in range(900)))
    return folder


def splits_of(shop: Shop) -> dict[str, str]:
    """The split of each product."""
    names = {product.number: product.shop_id for product in shop.products}
    found: dict[str, set[str]] = {}
    for split, (rows, _) in shop.splits.items():
        for product, _ in rows:
            found.setdefault(names[product], set()).add(split)
    assert all(len(splits) == 1 for splits in found.values())
    return {name: splits.pop() for name, splits in found.items()}


def test_products_are_dealt_by_their_pictures(many: Path) -> None:
    before = splits_of(read_pairs(write_shop(many, range(800)), many))
    shares = [list(before.values()).count(split) / 800 for split in ("train", "valid", "testB")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.04)
    after = splits_of(read_pairs(write_shop(many, reversed(range(900))), many))
    assert {name: after[name] for name in before} == before


def test_the_same_picture_never_is_on_both_sides(many: Path, tmp_path: Path) -> None:
    """Products joined by a picture stay together, also through a third one."""
    shutil.copytree(many, tmp_path / "photos")
    lines = ["query,product_id,image"]
    for number in range(0, 600, 3):
        shutil.copy(many / f"p{number}.png", tmp_path / "photos" / f"copy{number}.png")
        lines += [f"bag {number},a{number},p{number}.png", f"bag {number},b{number},copy{number}.png"]
        lines += [f"bag,b{number},p{number + 1}.png", f"bag {number},c{number},p{number + 1}.png"]
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join(lines) + "\n")
    dealt = splits_of(read_pairs(table, tmp_path / "photos"))
    assert set(dealt.values()) == {"train", "valid", "testB"}
    assert all(dealt[f"a{one}"] == dealt[f"b{one}"] == dealt[f"c{one}"] for one in range(0, 600, 3))


def test_dealt_queries_get_candidates_as_the_competition_has_them(many: Path) -> None:
    shop = read_pairs(write_shop(many, range(900)), many)
    words = {product.number: set() for product in shop.products}
    relevant: dict[int, set[int]] = {}
    numbers = {product.shop_id: product.number for product in shop.products}
    for number in range(900):
        product, colour, thing = numbers[f"p{number}"], COLOURS[number % 5], THINGS[number // 5 % 5]
        words[product] = {colour, thing, f"number{number % 40}"}
        for text in (f"{colour} {thing}", f"{thing} number{number % 40}"):
            relevant.setdefault(shop.queries.index(text), set()).add(product)
    for split in ("valid", "testB"):
        rows, answers = shop.splits[split]
        own = {product for product, _ in rows}
        for query, found in answers.items():
            candidates = [product for product, other in rows if other == query]
            assert len(candidates) == len(set(candidates)) == 30
            assert set(found) == relevant[query] & own
            wanted = set(shop.queries[query].split())
            others = [product for product in candidates if product not in found]
            assert not any(wanted <= words[product] for product in others)
            assert sum(bool(wanted & words[product]) for product in others) == -(-len(others) // 3)
    firsts = [answers[query][0] == rows[[other for _, other in rows].index(query)][0] for query in answers]
    assert 0 < sum(firsts) < len(firsts) / 2, "the relevant ones do not stand first"


def test_what_a_query_gets_does_not_depend_on_other_queries(many: Path) -> None:
    content = write_shop(many, range(900)).read_text()
    before = read_pairs(many / "dealt.csv", many)
    (many / "more.csv").write_text(content + "".join(f"thing,p{number}\n" for number in range(900)))
    after = read_pairs(many / "more.csv", many)
    for query in before.splits["valid"].answers:
        both = [[row for row in shop.splits["valid"].rows if row[1] == query] for shop in (before, after)]
        assert both[0] == both[1]
    assert len(after.splits["valid"].answers[len(after.queries) - 1]) == 10


@pytest.mark.skipif(not (SHARED / "groceries").is_dir(), reason="../shared/groceries is absent")
def test_the_groceries_are_read_as_they_are_listed() -> None:
    shop = read_pairs(SHARED / "groceries" / "pairs.csv", SHARED / "groceries" / "photos")
    assert len(shop.products) == 2640
    assert {name: len(answers) for name, (_, answers) in shop.splits.items()} == {
        "train": 0,
        "valid": 120,
        "testB": 120,
    }
    assert {name: len(rows) for name, (rows, _) in shop.splits.items()}["valid"] == 3600
