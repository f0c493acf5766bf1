"""Tokens, their ids, and the word vectors that belong to them."""

import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kddcup.io.errors import UserError
from kddcup.io.files import read_arrays, read_json, write_arrays, write_json, write_text
from kddcup.text.segmentation import JIEBA, UserDictionary, chinese_stop_words, segment, stop_words

PAD, UNKNOWN, START, END = SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LEXICON = "lexicon"
NORM_EPS = 1e-12
"""The epsilon of BERT's embedding LayerNorm."""


class Vocabulary:
    """Tokens and their ids.

    Args:
        kind: ``"bert"`` (WordPiece) or ``"lexicon"`` (whole words).
        tokens: the token of each id; holds ``[PAD]`` at 0, ``[UNK]``, ``[CLS]`` and ``[SEP]``.
        lowercase: whether WordPiece lowers the text; a lexicon always does.
        dictionary: by which Chinese is cut into whole words.

    Raises:
        ValueError: a special token is missing, or it is of another kind.
    """

    def __init__(
        self, kind: str, tokens: list[str], lowercase: bool = True, dictionary: UserDictionary = JIEBA
    ) -> None:
        if kind not in ("bert", LEXICON):
            raise ValueError(f"a vocabulary is bert or {LEXICON}, not {kind!r}")
        self.kind, self.tokens, self.lowercase, self.dictionary = kind, tokens, lowercase, dictionary
        self._ids = {token: i for i, token in enumerate(tokens)}
        missing = [token for token in SPECIALS if token not in self._ids]
        if missing or self._ids[PAD] != 0:
            raise ValueError(f"a vocabulary has [PAD] first, and {', '.join(missing) or PAD} is not so")
        self.pad, self.unknown, self.start, self.end = (self._ids[token] for token in SPECIALS)
        self._dropped = stop_words() | {PAD}
        if kind == LEXICON:
            self._dropped |= chinese_stop_words()
            self._tokenize = functools.partial(segment, dictionary=dictionary)
        else:
            from tokenizers import BertWordPieceTokenizer

            try:
                wordpiece = BertWordPieceTokenizer(self._ids, lowercase=lowercase)
            except Exception as error:  # the library raises nothing more special
                raise ValueError(str(error)) from None
            self._wordpiece = wordpiece
            self._tokenize = lambda text: wordpiece.encode(text, add_special_tokens=False).tokens

    def __len__(self) -> int:
        """V."""
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """The ids of a query's tokens; stop words are dropped token by token."""
        tokens = self._tokenize(text)
        return [self._ids.get(token, self.unknown) for token in tokens if token not in self._dropped]

    def split(self, text: str) -> list[tuple[str, int]]:
        """The pieces of a query that :meth:`encode` gives the ids of, as it has them, each with its id."""
        if self.kind == LEXICON:
            tokens = written = self._tokenize(text)
        else:
            encoding = self._wordpiece.encode(text, add_special_tokens=False)
            tokens, written = encoding.tokens, [text[start:stop] for start, stop in encoding.offsets]
        return [
            (piece, self._ids.get(token, self.unknown))
            for piece, token in zip(written, tokens, strict=True)
            if token not in self._dropped
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """Tokens as text, word pieces joined."""
        return " ".join(self.tokens[i] for i in ids).replace(" ##", "")

    def to_dict(self) -> dict[str, Any]:
        """What :meth:`from_dict` needs, of plain types."""
        return {
            "kind": self.kind,
            "tokens": self.tokens,
            "lowercase": self.lowercase,
            "user_dict": self.dictionary.entries,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Vocabulary":
        """The inverse of :meth:`to_dict`."""
        values = dict(values)
        dictionary = UserDictionary(values.pop("user_dict", ()))
        return cls(**values, dictionary=dictionary)

    @classmethod
    def read(cls, folder: str | os.PathLike) -> "Vocabulary":
        """From a folder of ours, or of BERT's; of that only the vocabulary file has to be there.

        Raises:
            UserError: the folder has neither ``vocab.txt`` nor ``tokenizer.json``, or it is not WordPiece.
        """
        folder = Path(folder)
        settings: dict[str, Any] = {}
        for name in ("tokenizer_config.json", "vocabulary.json"):
            if (folder / name).is_file():
                found = read_json(folder / name, "it comes with the tokenizer")
                if not isinstance(found, dict):
                    raise UserError(
                        f"{folder / name} is not an object of settings: it comes with the tokenizer"
                    )
                settings |= found
        if "auto_map" in settings:
            raise UserError(
                f"{folder / 'tokenizer_config.json'} names code of its own (auto_map), which is not run: "
                "name a folder of BERT's WordPiece"
            )
        try:
            if (folder / "vocab.txt").is_file():
                content = (folder / "vocab.txt").read_bytes().decode("utf-8-sig")
                tokens = [token.rstrip("\r") for token in content.removesuffix("\n").split("\n")]
            elif (folder / "tokenizer.json").is_file():
                tokens = _read_tokens(folder / "tokenizer.json")
            else:
                raise UserError(
                    f"{folder} has neither vocab.txt nor tokenizer.json: name a BERT folder that has one"
                )
            dictionary = UserDictionary(settings.get("user_dict", ()))
            return cls(settings.get("kind", "bert"), tokens, settings.get("do_lower_case", True), dictionary)
        except (OSError, TypeError, ValueError) as error:
            raise UserError(
                f"{folder} holds no WordPiece vocabulary ({error}): name a BERT folder as it was published"
            ) from None


def _read_tokens(path: Path) -> list[str]:
    """Read the tokens of a ``tokenizer.json`` in the order of their ids."""
    from tokenizers import Tokenizer

    try:
        ids = Tokenizer.from_file(str(path)).get_vocab()
    except Exception as error:  # the library raises nothing more special
        raise ValueError(str(error)) from None
    return sorted(ids, key=ids.__getitem__)


@dataclass
class WordVectors:
    """What a vocabulary's words look like to the models; frozen in all of them.

    ``vectors`` [V, E] float32; ``norm_weight`` and ``norm_bias`` [E] float32 are those of the LayerNorm that
    follows them in a text encoder (its epsilon is :data:`NORM_EPS`).

    Raises:
        ValueError: the shapes do not fit together, or these are no finite numbers.
    """

    vectors: np.ndarray
    norm_weight: np.ndarray
    norm_bias: np.ndarray

    def __post_init__(self) -> None:
        """Check that they fit together."""
        width = self.vectors.shape[1:]
        if len(width) != 1 or not self.norm_weight.shape == self.norm_bias.shape == width:
            shapes = [list(array.shape) for array in vars(self).values()]
            raise ValueError(f"shapes {shapes}, expected [[V, E], [E], [E]]")
        if any(array.dtype.kind != "f" for array in vars(self).values()):
            raise ValueError("they are not floating-point numbers")
        if not all(np.isfinite(array).all() for array in vars(self).values()):
            raise ValueError("a number is not finite")


def save_vocabulary(folder: Path, vocabulary: Vocabulary, words: WordVectors) -> None:
    """Write ``vocab.txt``, ``vocabulary.json`` and ``vectors.npz`` into ``folder``."""
    write_text(folder / "vocab.txt", "\n".join(vocabulary.tokens) + "\n")
    settings = {
        "kind": vocabulary.kind,
        "do_lower_case": vocabulary.lowercase,
        "user_dict": vocabulary.dictionary.entries,
    }
    write_json(folder / "vocabulary.json", settings)
    write_arrays(folder / "vectors.npz", vars(words))


def read_user_dictionary(data_dir: Path) -> UserDictionary:
    """Read the user dictionary that stage 1 was given; jieba's own where it has not run.

    Raises:
        UserError: ``DATA/info/vocabulary/vocabulary.json`` is not as :func:`save_vocabulary` writes it.
    """
    path = data_dir / "info" / "vocabulary" / "vocabulary.json"
    if not path.is_file():
        return JIEBA
    made_by = f"make it with 'python preprocess.py --data_dir {data_dir}'"
    settings = read_json(path, made_by)
    try:
        return UserDictionary(settings.get("user_dict", ()))
    except (AttributeError, TypeError, ValueError):
        raise UserError(f"{path} has no list of words for user_dict: {made_by}") from None


def load_word_vectors(folder: Path) -> WordVectors:
    """Read the ``vectors.npz`` of :func:`save_vocabulary`.

    Raises:
        UserError: it is absent or torn, or holds something else.
    """
    path, made_by = folder / "vectors.npz", "python preprocess.py"
    arrays = read_arrays(path, made_by)
    try:
        return WordVectors(**arrays)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} does not hold word vectors ({error}): make it with '{made_by}'") from None
