import shutil
import tracemalloc

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import kddcup.text.lexicon
from kddcup.data.batch import TokenBatch
from kddcup.data.corpus import cluster_queries
from kddcup.io.errors import UserError
from kddcup.io.ragged import Ragged
from kddcup.text.bert import read_bert
from kddcup.text.lexicon import build_lexicon
from kddcup.text.segmentation import content_words, segment, stop_words
from kddcup.text.vocabulary import Vocabulary, load_word_vectors, save_vocabulary
from tests.conftest import SHARED, assert_one_line_error, run_script, table_row, write_table

TEXTS = [
    "red wool dress",
    "blue wool dress",
    "red retro jacket",
    "blue retro jacket",
    "the red dress",
    "velvet",
]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
OLD_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


def words_of(vocabulary, text):
    return [vocabulary.tokens[i] for i in vocabulary.encode(text)]


def cosines(rows):
    directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return directions @ directions.T


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Red  Dress\t", ["red", "dress"]),
        ("ms. korean version", ["ms", "korean", "version"]),
        ("wide-leg t-shirt - women's", ["wide", "leg", "t", "shirt", "women's"]),
        ('"retro" (new), flare & wide!', ["retro", "new", "flare", "wide"]),
        ("no. 3.5 cm_", ["no", "3.5", "cm"]),
        ("- ' \" ...", []),
        ("", []),
    ],
)
def test_english_is_cut_at_blanks_and_hyphens_and_stripped_of_punctuation(text, words):
    assert segment(text) == words


def test_chinese_is_cut_by_jieba():
    assert segment("红色连衣裙") == ["红色", "连衣裙"]
    assert segment("2019新款，Red 连衣裙！") == ["2019", "新款", "red", "连衣裙"]


def test_function_words_are_no_content():
    assert content_words("the dress of a women's - 's") == ["dress", "women's"]
    assert content_words("for you and me") == []


def test_there_are_179_stop_words_and_three_more():
    assert len(stop_words()) == 179 + 2  # "s" is among the 179 already
    assert {"-", "'", "s", "the", "don't", "ll"} <= stop_words()
    assert not {"red", "new", "women"} & stop_words()


def test_stop_words_are_those_of_the_published_code():
    source = SHARED / "parity" / "stopwords_en.txt"
    if not source.is_file():
        pytest.skip(f"{source} is absent")
    words = source.read_text().split()
    assert len(words) == 179
    assert stop_words() == {*words, "-", "'", "s"}


def test_a_lexicon_has_the_special_tokens_and_each_word_of_two_queries():
    vocabulary, words = build_lexicon(TEXTS, 6, seed=0)
    assert vocabulary.tokens[:4] == SPECIALS
    assert (vocabulary.pad, vocabulary.unknown, vocabulary.start, vocabulary.end) == (0, 1, 2, 3)
    assert sorted(vocabulary.tokens[4:]) == ["blue", "dress", "jacket", "red", "retro", "wool"]
    assert len(vocabulary) == 10
    assert words.vectors.shape == (10, 6)
    assert words.vectors.dtype == np.float32


def test_words_of_one_query_are_unknown():
    vocabulary, _ = build_lexicon(TEXTS, 6, seed=0)
    assert words_of(vocabulary, "red velvet the dress") == ["red", "[UNK]", "dress"]
    assert words_of(vocabulary, "the - of") == []


def test_a_full_lexicon_keeps_the_most_frequent_words(monkeypatch):
    monkeypatch.setattr(kddcup.text.lexicon, "LEXICON_SIZE", 6)
    vocabulary, words = build_lexicon(TEXTS, 6, seed=0)
    assert sorted(vocabulary.tokens[4:]) == ["dress", "red"]
    assert len(words.vectors) == 6


def test_a_lexicon_holds_at_most_30000_tokens():
    assert kddcup.text.lexicon.LEXICON_SIZE == 30_000


@pytest.mark.parametrize("width", [3, 6, 40])
def test_a_word_vector_is_one_and_four_times_a_direction(width):
    _, words = build_lexicon(TEXTS, width, seed=0)
    assert not words.vectors[0].any()
    assert (words.vectors[1:, 0] == 1).all()
    np.testing.assert_allclose(np.linalg.norm(words.vectors[1:, 1:], axis=1), 4, rtol=1e-5)


def test_the_norm_behind_a_lexicon_is_neutral():
    _, words = build_lexicon(TEXTS, 6, seed=0)
    assert (words.norm_weight == 1).all()
    assert (words.norm_bias == 0).all()
    assert words.norm_weight.shape == words.norm_bias.shape == (6,)


def test_unknown_start_and_end_have_directions_of_their_own():
    _, words = build_lexicon(TEXTS, 40, seed=0)
    assert (cosines(words.vectors[1:4, 1:])[np.triu_indices(3, 1)] < 0.9).all()


def test_directions_are_those_of_the_positive_pointwise_mutual_information():
    texts = ["aa bb cc dd", "aa bb cc", "aa bb ee", "cc dd ee", "cc ee", "ee ff dd", "ff cc", "dd"] * 2
    vocabulary, words = build_lexicon(texts, 32, seed=0)
    names = vocabulary.tokens[4:]
    sets = [set(text.split()) for text in texts]

    def share(*wanted):
        return sum(set(wanted) <= one for one in sets) / len(sets)

    information = np.array(
        [
            [max(0, np.log(share(a, b) / share(a) / share(b))) if share(a, b) else 0 for b in names]
            for a in names
        ]
    )
    # aa and bb always stand together, so that one component less than words loses nothing.
    np.testing.assert_allclose(cosines(words.vectors[4:, 1:]), cosines(information), atol=1e-4)


def test_missing_components_are_zero():
    _, words = build_lexicon(TEXTS, 40, seed=0)
    assert not words.vectors[4:, 1 + 5 :].any()
    assert words.vectors[1:4, 1 + 5 :].all()


def test_a_lexicon_follows_from_its_texts_and_seed():
    vocabulary, words = build_lexicon(TEXTS, 6, seed=1)
    again, same = build_lexicon(TEXTS, 6, seed=1)
    _, other = build_lexicon(TEXTS, 6, seed=2)
    assert vocabulary.tokens == again.tokens
    np.testing.assert_array_equal(words.vectors, same.vectors)
    assert (words.vectors[1:4] != other.vectors[1:4]).any()


def test_a_lexicon_of_chinese_holds_its_words():
    vocabulary, _ = build_lexicon(["红色连衣裙", "蓝色连衣裙", "红色夹克", "蓝色夹克"], 6, seed=0)
    assert sorted(vocabulary.tokens[4:]) == sorted(["红色", "蓝色", "连衣裙", "夹克"])
    assert words_of(vocabulary, "红色夹克") == ["红色", "夹克"]


def test_texts_without_a_repeated_word_make_no_lexicon():
    with pytest.raises(UserError, match="no word occurs in two"):
        build_lexicon(["red dress", "blue coat", "the of", "the of"], 6, seed=0)


@pytest.mark.parametrize(
    "texts", [["dress", "red dress"], ["red dress"] * 2, ["red dress"] * 60, ["red blue", "blue red"]]
)
def test_a_lexicon_of_few_words_warns_of_nothing(texts, recwarn):
    vocabulary, words = build_lexicon(texts, 6, seed=0)
    assert np.isfinite(words.vectors).all()
    cluster_queries(Ragged.from_lists(map(vocabulary.encode, texts), np.int32), words.vectors, seed=0)
    assert [str(warning.message) for warning in recwarn] == []


def test_64_words_of_a_query_occur_together_and_all_are_in_the_lexicon(capsys):
    long = " ".join(f"word{i}" for i in range(100))
    vocabulary, words = build_lexicon([long, long, "word80 dress", "word80 dress"], 200, seed=0)
    assert len(vocabulary) == 4 + 100 + 1
    assert "2 queries have more than 64 words: the first 64 count" in capsys.readouterr().out
    first, last, late, dress = (
        vocabulary.tokens.index(word) for word in ("word0", "word63", "word80", "dress")
    )
    likeness = cosines(words.vectors[[first, last, late, dress], 1:])
    np.testing.assert_allclose(likeness, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], atol=1e-4)


def test_a_query_of_ten_thousand_words_takes_little_memory():
    words = " ".join(f"word{i}" for i in range(10_000))
    tracemalloc.start()
    vocabulary, _ = build_lexicon([words] * 3, 8, seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(vocabulary) == 10_004
    assert peak < 100e6  # all pairs of words are 800 MB


def test_a_single_word_makes_a_lexicon():
    vocabulary, words = build_lexicon(["dress", "red dress"], 6, seed=0)
    assert vocabulary.tokens[4:] == ["dress"]
    assert words.vectors[4, 0] == 1


def test_a_saved_lexicon_reads_like_the_one_that_was_built(tmp_path):
    vocabulary, words = build_lexicon([*TEXTS, "红色连衣裙", "红色夹克"], 6, seed=0)
    save_vocabulary(tmp_path / "v", vocabulary, words)
    read, loaded = Vocabulary.read(tmp_path / "v"), load_word_vectors(tmp_path / "v")
    assert read.to_dict() == vocabulary.to_dict()
    assert read.encode("Red-dress 红色") == vocabulary.encode("Red-dress 红色")
    for name in ("vectors", "norm_weight", "norm_bias"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(words, name))


def test_a_vocabulary_comes_back_from_plain_types():
    vocabulary = Vocabulary("bert", [*SPECIALS, "Red", "##s"], lowercase=False)
    again = Vocabulary.from_dict(vocabulary.to_dict())
    assert again.encode("Reds red") == vocabulary.encode("Reds red") == [4, 5, 1]


@pytest.mark.parametrize("torn", [None, 0, 50, 300])
def test_word_vectors_that_cannot_be_read_name_the_command(tmp_path, torn):
    save_vocabulary(tmp_path, *build_lexicon(TEXTS, 6, seed=0))
    path = tmp_path / "vectors.npz"
    content = path.read_bytes()
    path.unlink()
    if torn is not None:
        path.write_bytes(content[:torn])
    with pytest.raises(UserError, match=r"vectors\.npz.*python preprocess\.py"):
        load_word_vectors(tmp_path)


def test_word_pieces_of_function_words_are_dropped_one_by_one(bert_folder):
    vocabulary = Vocabulary.read(bert_folder)
    assert words_of(vocabulary, "The Red dresses - ms. jacket's") == [
        "red",
        "dress",
        "##es",
        "ms",
        ".",
        "jack",
        "##et",
    ]
    assert words_of(vocabulary, "velvet dress") == ["[UNK]", "dress"]
    assert words_of(vocabulary, "the 's - a") == []
    assert vocabulary.decode(vocabulary.encode("red jackets")) == "red jackets"


@pytest.mark.parametrize("lowercase", [True, False])
def test_word_pieces_are_those_of_transformers(bert_folder, tmp_path, lowercase):
    from transformers import BertTokenizer

    published = BertTokenizer.from_pretrained(bert_folder, do_lower_case=lowercase)
    published.save_pretrained(tmp_path)
    vocabulary = Vocabulary.read(tmp_path)
    assert vocabulary.tokens == Vocabulary.read(bert_folder).tokens
    for text in ("red dresses", "Red DRESS jackets.", "réd 红 ms.wool", "wooldress bluejacket", ""):
        assert words_of(vocabulary, text) == published.tokenize(text)


def test_vocabulary_ids_of_bert_are_the_lines_of_its_file(bert_folder):
    vocabulary = Vocabulary.read(bert_folder)
    lines = (bert_folder / "vocab.txt").read_text().splitlines()
    assert vocabulary.tokens == lines
    assert (vocabulary.pad, vocabulary.unknown, vocabulary.start, vocabulary.end) == (0, 2, 3, 4)


def test_a_folder_with_nothing_but_vocab_txt_gives_a_vocabulary(bert_folder, tmp_path):
    lines = (bert_folder / "vocab.txt").read_text().splitlines()
    (tmp_path / "vocab.txt").write_bytes("\r\n".join([*lines, ""]).encode("utf-8-sig"))
    assert Vocabulary.read(tmp_path).encode("Red dress") == [6, 8]
    with pytest.raises(UserError, match=r"word_embeddings\.weight.*BERT's weights"):
        read_bert(str(tmp_path))


@pytest.mark.parametrize("prefix", ["", "bert."])
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_word_vectors_and_norm_are_berts_own_under_any_of_their_names(
    bert_folder, tmp_path, prefix, old, kind
):
    tensors = load_file(bert_folder / "model.safetensors")
    renamed = {"cls.predictions.transform.LayerNorm.weight": torch.zeros(8)}
    for name, tensor in tensors.items():
        for new, published in OLD_NAMES.items() if old else ():
            name = name.replace(new, published)
        renamed[prefix + name] = tensor
    shutil.copy(bert_folder / "vocab.txt", tmp_path)
    if kind == "bin":
        torch.save(renamed, tmp_path / "pytorch_model.bin")
    else:
        save_file(renamed, tmp_path / "model.safetensors")
    vocabulary, words = read_bert(str(tmp_path))
    assert vocabulary.encode("red dress") == [6, 8]
    for found, name in (
        (words.vectors, "word_embeddings.weight"),
        (words.norm_weight, "LayerNorm.weight"),
        (words.norm_bias, "LayerNorm.bias"),
    ):
        np.testing.assert_array_equal(found, tensors[f"embeddings.{name}"].numpy())


def test_a_bert_with_a_head_as_transformers_saves_it_is_read(bert_folder, tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    model = BertForMaskedLM(BertConfig.from_pretrained(bert_folder))
    model.save_pretrained(tmp_path)
    shutil.copy(bert_folder / "vocab.txt", tmp_path)
    _, words = read_bert(str(tmp_path))
    np.testing.assert_array_equal(words.vectors, model.get_input_embeddings().weight.detach().numpy())


def test_a_saved_bert_vocabulary_reads_like_the_folder_it_came_from(bert_folder, tmp_path):
    vocabulary, words = read_bert(str(bert_folder))
    save_vocabulary(tmp_path, vocabulary, words)
    assert Vocabulary.read(tmp_path).to_dict() == vocabulary.to_dict()
    np.testing.assert_array_equal(load_word_vectors(tmp_path).vectors, words.vectors)


def test_a_checkpoint_with_fewer_vectors_than_tokens_is_refused(bert_folder, tmp_path):
    shutil.copytree(bert_folder, tmp_path, dirs_exist_ok=True)
    with open(tmp_path / "vocab.txt", "a") as file:
        file.write("extra\n")
    with pytest.raises(UserError, match="22 tokens but 21 word vectors"):
        read_bert(str(tmp_path))


WORDS = "embeddings.word_embeddings.weight"
BOTH, BIN = ("safetensors", "bin"), ("bin",)
# What stands for the word embeddings, in which files it can, and what the error says.
NO_WEIGHTS = {
    "code": (lambda vectors: print, BIN, "not a checkpoint that can be read safely"),
    "a text": (lambda vectors: "x", BIN, "is not a tensor"),
    "integers": (lambda vectors: vectors.long(), BOTH, "is of torch.int64"),
    "complex numbers": (lambda vectors: vectors.to(torch.complex64), BOTH, "is of torch.complex64"),
    "not finite": (lambda vectors: vectors / 0, BOTH, "not finite"),
    "numbers that the file lacks": (lambda vectors: torch.zeros(1).expand(30_000_000, 8), BIN, "not dense"),
    "a sparse tensor": (lambda vectors: vectors.to_sparse(), BIN, "not a checkpoint that can be read safely"),
    "a meta tensor": (lambda vectors: vectors.to("meta"), BIN, "not a checkpoint that can be read safely"),
    "one dimension": (lambda vectors: vectors.flatten(), BOTH, "shapes"),
    "another width": (lambda vectors: vectors[:, :4].clone(), BOTH, "shapes"),
}


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, (_, kinds, _) in NO_WEIGHTS.items() for kind in kinds]
)
def test_what_is_no_word_embeddings_is_refused_in_one_line(bert_folder, tmp_path, name, kind):
    change, _, expected = NO_WEIGHTS[name]
    tensors = load_file(bert_folder / "model.safetensors")
    tensors[WORDS] = change(tensors[WORDS])
    shutil.copy(bert_folder / "vocab.txt", tmp_path)
    if kind == "bin":
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    else:
        save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=expected) as caught:
        read_bert(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tokens", [["[PAD]", "[UNK]", "[CLS]", "red"], ["red", *SPECIALS]])
def test_a_vocabulary_without_its_special_tokens_is_refused(tmp_path, tokens):
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    with pytest.raises(UserError, match="no WordPiece vocabulary"):
        Vocabulary.read(tmp_path)


def test_a_folder_without_a_vocabulary_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"neither vocab\.txt nor tokenizer\.json"):
        Vocabulary.read(tmp_path)


@pytest.mark.parametrize("name", ["no-such-bert", "no-such-team/no-such-bert", "a/b/c"])
def test_a_name_that_the_hub_does_not_give_says_what_to_do_in_one_line(name):
    with pytest.raises(UserError) as caught:
        read_bert(name)
    message = str(caught.value)
    assert message.startswith(f"--tokenizer {name}: ")
    assert "--tokenizer lexicon" in message
    assert "\n" not in message


def test_preprocess_with_a_name_that_the_hub_does_not_give_ends_in_one_line(tmp_path):
    write_table(tmp_path / "train" / "train.tsv", [table_row(1, 1, "red dress")])
    done = run_script(
        ".", "preprocess.py", "--data_dir", tmp_path, "--tokenizer", "no-such-team/no-such-bert"
    )
    assert_one_line_error(done, "--tokenizer no-such-team/no-such-bert", "--tokenizer lexicon")
    assert not (tmp_path / "info" / "complete.json").exists()


def test_a_token_batch_is_padded_with_zeros():
    tokens = Ragged.from_lists([[5, 6], [7], [], [8, 9, 4]], np.int32)
    batch = TokenBatch.from_ragged(tokens, np.array([1, 3, 0, 2]))
    assert batch.ids.tolist() == [[7, 0, 0], [8, 9, 4], [5, 6, 0], [0, 0, 0]]
    assert batch.lengths.tolist() == [1, 3, 2, 0]
    assert batch.mask.sum(1).tolist() == [1, 3, 2, 0]
    assert (batch.ids.dtype, batch.lengths.dtype, len(batch)) == (torch.int64, torch.int64, 4)


def test_a_token_batch_of_no_words_has_one_column():
    batch = TokenBatch.from_ragged(Ragged.from_lists([[], []], np.int32), np.array([0, 1]))
    assert batch.ids.shape == (2, 1)
    assert not batch.mask.any()
