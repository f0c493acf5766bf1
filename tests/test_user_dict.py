"""Chinese queries: words of one's own, function words, and that both travel with what is trained."""

import json
from pathlib import Path

import pytest
from conftest import assert_one_line_error, run_script, table_row, write_table

from kddcup.io.errors import UserError
from kddcup.text.lexicon import build_lexicon
from kddcup.text.segmentation import UserDictionary, chinese_stop_words, content_words, segment
from kddcup.text.vocabulary import Vocabulary, read_user_dictionary, save_vocabulary

TEXT = "红色随行杯"
WORDS = ("红色 100 n", "随行杯", "T恤 5")


def test_words_of_ones_own_are_kept_together() -> None:
    assert "随行杯" not in segment(TEXT)
    dictionary = UserDictionary(WORDS)
    assert segment(TEXT, dictionary) == ["红色", "随行杯"]
    assert segment("白色T恤 T恤", dictionary) == ["白色", "t恤", "t恤"]
    assert segment("red t-shirt", dictionary) == ["red", "t", "shirt"]
    assert "随行杯" not in segment(TEXT), "jieba's own dictionary stays as it is"


def test_chinese_function_words_are_no_content() -> None:
    assert content_words("我的红色的马克杯", UserDictionary(["马克杯"])) == ["红色", "马克杯"]
    assert not {"红色", "新款", "不锈钢", "大", "小"} & chinese_stop_words()
    vocabulary = Vocabulary("lexicon", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "红色"])
    assert vocabulary.encode("红色的") == [4]


def test_a_file_of_words_is_read_as_jieba_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeff随行杯 3 n\r\n\r\n马克杯\n".encode())
    assert UserDictionary.read(path).entries == ["随行杯 3 n", "马克杯"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("杯 1.5 n\n".encode(), "not a word with a frequency"),
        ("杯 3 n 4\n".encode(), "not a word with a frequency"),
        ("杯\n".encode("gbk"), "is not UTF-8"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="words.txt") as error:
        UserDictionary.read(path)
    assert reason in str(error.value)


def test_the_dictionary_travels_with_the_vocabulary(tmp_path: Path) -> None:
    texts = [TEXT, "蓝色随行杯", "红色包"]
    vocabulary, words = build_lexicon(texts, 8, 0, UserDictionary(WORDS))
    assert "随行杯" in vocabulary.tokens
    save_vocabulary(tmp_path / "info" / "vocabulary", vocabulary, words)
    read = Vocabulary.read(tmp_path / "info" / "vocabulary")
    for again in (read, Vocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict())))):
        assert again.dictionary.entries == list(WORDS)
        assert again.encode(TEXT) == vocabulary.encode(TEXT) != []
    assert read_user_dictionary(tmp_path).entries == list(WORDS)


def test_vocabularies_without_a_dictionary_have_jiebas_own(tmp_path: Path) -> None:
    vocabulary, _ = build_lexicon([TEXT, TEXT], 8, 0)
    values = vocabulary.to_dict()
    del values["user_dict"]
    assert Vocabulary.from_dict(values).encode(TEXT) == vocabulary.encode(TEXT)
    assert read_user_dictionary(tmp_path).entries == []


@pytest.mark.parametrize("odd", [[1], [""], ["杯 x y"], 5])
def test_a_vocabulary_with_another_dictionary_is_refused(tmp_path: Path, odd: object) -> None:
    save_vocabulary(tmp_path / "info" / "vocabulary", *build_lexicon([TEXT, TEXT], 8, 0))
    path = tmp_path / "info" / "vocabulary" / "vocabulary.json"
    path.write_text(json.dumps({"kind": "lexicon", "user_dict": odd}))
    for read in (lambda: Vocabulary.read(path.parent), lambda: read_user_dictionary(tmp_path)):
        with pytest.raises(UserError, match="vocabulary"):
            read()


def test_preprocess_takes_a_dictionary_and_knows_when_it_changes(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("\n".join(WORDS), encoding="utf-8")
    rows = [
        table_row(i, i, f"{colour}随行杯{i}") for i, colour in enumerate(["红色", "蓝色", "绿色", "红色"])
    ]
    write_table(tmp_path / "train" / "train.tsv", rows)
    command = ("preprocess.py", "--data_dir", tmp_path, "--size", "small", "--tokenizer", "lexicon")
    done = run_script(".", *command, "--user_dict", words)
    assert done.returncode == 0, done.stderr
    assert "随行杯" in (tmp_path / "info" / "vocabulary" / "vocab.txt").read_text(encoding="utf-8").split()
    assert read_user_dictionary(tmp_path).entries == list(WORDS)
    done = run_script(".", *command, "--user_dict", words)
    assert "are finished" in done.stdout
    assert_one_line_error(run_script(".", *command), f"finished before with user_dict {words}", "--force")
    words.write_text("杯\n", encoding="utf-8")
    done = run_script(".", *command, "--user_dict", words)
    assert_one_line_error(done, f"{words} has changed since", f"--user_dict {words}")
    assert_one_line_error(run_script(".", *command, "--user_dict", tmp_path / "no"), "no does not exist")
