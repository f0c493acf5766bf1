"""From a query to token ids: segmentation, stop words, vocabularies and their word vectors."""

import functools
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from kddcup.errors import UserError
from kddcup.files import read_arrays, read_json, read_tensors, write_arrays, write_json, write_text
from kddcup.ragged import Ragged, flat_rows

PAD, UNKNOWN, START, END = SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LEXICON = "lexicon"
LEXICON_SIZE = 30_000
NORM_EPS = 1e-12
"""The epsilon of BERT's embedding LayerNorm."""

_CHINESE = re.compile("[\u3400-\u9fff]")
_BREAKS = re.compile(r"[\s\-]+")
_EDGES = re.compile(r"^[\W_]+|[\W_]+$")


@functools.cache
def stop_words() -> frozenset[str]:
    """The 179 English function words and ``-``, ``'`` and ``s``."""
    words = resources.files("kddcup").joinpath("stopwords_en.txt").read_text("utf-8").split()
    return frozenset(words) | {"-", "'", "s"}


def segment(text: str) -> list[str]:
    """Whole words in lower case, cut at blanks, hyphens or by jieba, without punctuation at the edges."""
    text = text.lower()
    if _CHINESE.search(text):
        import jieba  # builds its dictionary for a second, which English queries need not wait for

        jieba.setLogLevel("WARNING")
        pieces = [part for cut in jieba.cut(text) for part in _BREAKS.split(cut)]
    else:
        pieces = _BREAKS.split(text)
    words = (_EDGES.sub("", piece) for piece in pieces)
    return [word for word in words if word]


def content_words(text: str) -> list[str]:
    """The whole words of a query that are no stop words."""
    return [word for word in segment(text) if word not in stop_words()]


class Vocabulary:
    """Tokens and their ids.

    Args:
        kind: ``"bert"`` (WordPiece) or ``"lexicon"`` (whole words).
        tokens: the token of each id; holds ``[PAD]`` at 0, ``[UNK]``, ``[CLS]`` and ``[SEP]``.
        lowercase: whether WordPiece lowers the text; a lexicon always does.

    Raises:
        ValueError: a special token is missing, or it is of another kind.
    """

    def __init__(self, kind: str, tokens: list[str], lowercase: bool = True) -> None:
        if kind not in ("bert", LEXICON):
            raise ValueError(f"a vocabulary is bert or {LEXICON}, not {kind!r}")
        self.kind, self.tokens, self.lowercase = kind, tokens, lowercase
        self._ids = {token: i for i, token in enumerate(tokens)}
        missing = [token for token in SPECIALS if token not in self._ids]
        if missing or self._ids[PAD] != 0:
            raise ValueError(f"a vocabulary has [PAD] first, and {', '.join(missing) or PAD} is not so")
        self.pad, self.unknown, self.start, self.end = (self._ids[token] for token in SPECIALS)
        if kind == LEXICON:
            self._tokenize = segment
        else:
            from tokenizers import BertWordPieceTokenizer

            wordpiece = BertWordPieceTokenizer(self._ids, lowercase=lowercase)
            self._tokenize = lambda text: wordpiece.encode(text, add_special_tokens=False).tokens

    def __len__(self) -> int:
        """V."""
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """The ids of a query's tokens; stop words are dropped token by token."""
        tokens = self._tokenize(text)
        dropped = stop_words() | {PAD}
        return [self._ids.get(token, self.unknown) for token in tokens if token not in dropped]

    def encode_known(self, text: str) -> list[int]:
        """The ids of a query's tokens without the unknown, as stage 2 reads it."""
        return [token for token in self.encode(text) if token != self.unknown]

    def decode(self, ids: Iterable[int]) -> str:
        """Tokens as text, word pieces joined."""
        return " ".join(self.tokens[i] for i in ids).replace(" ##", "")

    def to_dict(self) -> dict[str, Any]:
        """What :meth:`from_dict` needs, of plain types."""
        return {"kind": self.kind, "tokens": self.tokens, "lowercase": self.lowercase}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Vocabulary":
        """The inverse of :meth:`to_dict`."""
        return cls(**values)

    @classmethod
    def read(cls, folder: str | os.PathLike) -> "Vocabulary":
        """From a folder of ours, or of BERT's; of that only the vocabulary file has to be there.

        Raises:
            UserError: the folder has neither ``vocab.txt`` nor ``tokenizer.json``, or it is no WordPiece.
        """
        folder = Path(folder)
        settings: dict[str, Any] = {}
        for name in ("tokenizer_config.json", "vocabulary.json"):
            if (folder / name).is_file():
                found = read_json(folder / name, "it comes with the tokenizer")
                if not isinstance(found, dict):
                    raise UserError(f"{folder / name} is no object of settings: it comes with the tokenizer")
                settings |= found
        if "auto_map" in settings:
            raise UserError(
                f"{folder / 'tokenizer_config.json'} names code of its own (auto_map), which is not run: "
                "name a folder of BERT's WordPiece"
            )
        try:
            if (folder / "vocab.txt").is_file():
                tokens = (folder / "vocab.txt").read_bytes().decode().removesuffix("\n").split("\n")
                tokens = [token.rstrip("\r") for token in tokens]
            elif (folder / "tokenizer.json").is_file():
                from tokenizers import Tokenizer

                ids = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
                tokens = sorted(ids, key=ids.__getitem__)
            else:
                raise UserError(
                    f"{folder} has neither vocab.txt nor tokenizer.json: name a BERT folder that has one"
                )
            return cls(settings.get("kind", "bert"), tokens, settings.get("do_lower_case", True))
        except UserError:
            raise
        except Exception as error:  # tokenizers raises nothing more special
            raise UserError(
                f"{folder} holds no WordPiece vocabulary ({error}): name a BERT folder as it was published"
            ) from None


@dataclass
class WordVectors:
    """What a vocabulary's words look like to the models; frozen in all of them.

    ``vectors`` [V, E] float32; ``norm_weight`` and ``norm_bias`` [E] float32 are those of the LayerNorm that
    follows them in a text encoder (its epsilon is :data:`NORM_EPS`).

    Raises:
        ValueError: the shapes do not fit together, or these are no numbers.
    """

    vectors: np.ndarray
    norm_weight: np.ndarray
    norm_bias: np.ndarray

    def __post_init__(self) -> None:
        """See that they fit together."""
        width = self.vectors.shape[1:]
        if len(width) != 1 or not self.norm_weight.shape == self.norm_bias.shape == width:
            shapes = [list(array.shape) for array in vars(self).values()]
            raise ValueError(f"shapes {shapes}, expected [[V, E], [E], [E]]")
        if any(array.dtype.kind != "f" for array in vars(self).values()):
            raise ValueError("they are not floating-point numbers")


def save_vocabulary(folder: Path, vocabulary: Vocabulary, words: WordVectors) -> None:
    """Write ``vocab.txt``, ``vocabulary.json`` and ``vectors.npz`` into ``folder``."""
    write_text(folder / "vocab.txt", "\n".join(vocabulary.tokens) + "\n")
    write_json(folder / "vocabulary.json", {"kind": vocabulary.kind, "do_lower_case": vocabulary.lowercase})
    write_arrays(folder / "vectors.npz", vars(words))


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


def build_lexicon(texts: Iterable[str], width: int, seed: int) -> tuple[Vocabulary, WordVectors]:
    """A vocabulary and word vectors from the training queries alone, without a network.

    Words seen in at least two queries, the most frequent first, at most 30,000. A word's vector is
    [1, 4·u/|u|], u being the E−1 components of the truncated SVD of the positive pointwise mutual
    information of words within queries (Levy and Goldberg, 2014, "Neural word embedding as implicit matrix
    factorization"), zero-filled if there are fewer. The constant component lets an image make most words
    unlikely at once. Pad is all zero; the other specials have distinct random u.

    Args:
        texts: the distinct training queries; read once.
        width: E.
        seed: of the SVD and of the specials.

    Raises:
        UserError: no word occurs twice.
    """
    lists = [sorted(set(content_words(text))) for text in tqdm(texts, desc="words", disable=None)]
    counts = Counter(word for words in lists for word in words)
    kept = sorted(
        (word for word, count in counts.items() if count >= 2), key=lambda word: (-counts[word], word)
    )
    kept = kept[: LEXICON_SIZE - len(SPECIALS)]
    if not kept:
        raise UserError("no word occurs in two training queries: a lexicon needs more queries")
    ids = {word: i for i, word in enumerate(kept)}
    occurrences = Ragged.from_lists(
        ([ids[word] for word in words if word in ids] for words in lists), np.int64
    )
    directions = _cooccurrence_directions(occurrences, len(kept), width - 1, seed)
    rng = np.random.default_rng(seed)
    specials = rng.standard_normal((len(SPECIALS), width - 1), dtype=np.float32)
    directions = np.concatenate([specials, directions])
    norms = np.linalg.norm(directions, axis=1, keepdims=True)
    vectors = np.ones((len(directions), width), np.float32)
    vectors[:, 1:] = 4 * directions / np.maximum(norms, np.finfo(np.float32).tiny)
    vectors[0] = 0
    words = WordVectors(vectors, np.ones(width, np.float32), np.zeros(width, np.float32))
    return Vocabulary(LEXICON, [*SPECIALS, *kept]), words


def _cooccurrence_directions(occurrences: Ragged, words: int, components: int, seed: int) -> np.ndarray:
    """[words, components] float32: truncated SVD of the positive pointwise mutual information."""
    from scipy.sparse import csr_matrix
    from sklearn.decomposition import TruncatedSVD

    ones = np.ones(len(occurrences.values), np.float32)
    within = csr_matrix((ones, occurrences.values, occurrences.offsets), (len(occurrences), words))
    together = (
        within.T @ within
    ).tocoo()  # [words, words] queries that have both; the diagonal has the word's own
    seen = np.asarray(within.sum(axis=0)).ravel()
    information = np.log(together.data * len(occurrences) / (seen[together.row] * seen[together.col]))
    positive = csr_matrix((np.maximum(information, 0), (together.row, together.col)), together.shape)
    found = min(components, words - 1)
    directions = np.zeros((words, components), np.float32)
    if found > 0:
        # Says what takes the time; the decomposition does not say how far it is.
        with tqdm(desc="word vectors", total=1, disable=None) as bar:
            directions[:, :found] = TruncatedSVD(found, random_state=seed).fit_transform(positive)
            bar.update()
    return directions


def read_bert(name: str) -> tuple[Vocabulary, WordVectors]:
    """The vocabulary and the input embeddings of a BERT, read tensor by tensor without building its layers.

    Args:
        name: a folder, or a name on the hub (``bert-large-uncased``).

    Raises:
        UserError: it cannot be had, or lacks the embeddings or their LayerNorm.
    """
    folder = Path(name) if Path(name).is_dir() else _from_hub(name)
    vocabulary = Vocabulary.read(folder)
    try:
        words = WordVectors(*_embedding_tensors(folder))
    except ValueError as error:
        raise UserError(f"{folder} does not hold BERT's embeddings ({error}): name one that does") from None
    if len(words.vectors) < len(vocabulary):
        raise UserError(f"{folder}: {len(vocabulary)} tokens but {len(words.vectors)} word vectors")
    return vocabulary, words


def _from_hub(name: str) -> Path:
    from transformers.utils import cached_file

    try:
        folder = Path(cached_file(name, "vocab.txt")).parent
        for optional in ("tokenizer_config.json", "model.safetensors"):
            cached_file(name, optional, _raise_exceptions_for_missing_entries=False)
        if not (folder / "model.safetensors").exists():
            cached_file(name, "pytorch_model.bin")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--tokenizer {name}: no such folder, and the hub does not give it ({reason}); "
            "name a BERT folder, or use '--tokenizer lexicon', which needs no network"
        ) from None
    return folder


def _embedding_tensors(folder: Path) -> list[np.ndarray]:
    """Word embeddings, and weight and bias of their LayerNorm, under whichever of their names."""
    wanted = (
        ("word_embeddings.weight",),
        ("LayerNorm.weight", "LayerNorm.gamma"),
        ("LayerNorm.bias", "LayerNorm.beta"),
    )
    keys = [[f"{prefix}embeddings.{name}" for name in names for prefix in ("", "bert.")] for names in wanted]
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                for key in set(file.keys()) & {key for names in keys for key in names}:
                    found[key] = file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} cannot be read ({error}): get BERT's weights again") from None
    if not found:
        for path in sorted(folder.glob("*.bin")):
            content = read_tensors(path, "it comes with BERT")
            if not isinstance(content, dict):
                raise UserError(f"{path} is no state dict: get BERT's weights again")
            found |= {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    tensors = []
    for names in keys:
        here = [found[name] for name in names if name in found]
        if not here:
            raise UserError(
                f"{folder} has no {names[0]} in a .safetensors or .bin file: name one with BERT's weights"
            )
        if here[0].layout != torch.strided:
            raise UserError(f"{folder} has a sparse {names[0]}: get BERT's weights again")
        tensors.append(here[0].detach().float().numpy())
    return tensors


@dataclass
class TokenBatch:
    """The words of B queries: ``ids`` [B, T] int64, padded with 0; ``lengths`` [B] int64, in CPU memory."""

    ids: torch.Tensor
    lengths: torch.Tensor

    def __len__(self) -> int:
        """B."""
        return len(self.lengths)

    @classmethod
    def from_ragged(cls, tokens: Ragged, indices: np.ndarray) -> "TokenBatch":
        """The queries ``indices`` [B] of packed token ids."""
        rows, lengths = flat_rows(tokens.offsets, indices)
        ids = np.zeros((len(lengths), max(1, lengths.max(initial=0))), np.int64)
        ids[np.arange(ids.shape[1]) < lengths[:, None]] = tokens.values[rows]
        return cls(torch.from_numpy(ids), torch.from_numpy(lengths))

    @property
    def mask(self) -> torch.Tensor:
        """[B, T] bool on the device of ``ids``, true where there is a word."""
        return self.ids != 0

    @property
    def places(self) -> torch.Tensor:
        """[N] where the words stand in ``ids.flatten()``; laid out on the CPU, so that no device is asked."""
        real = torch.arange(self.ids.shape[1]) < self.lengths[:, None]
        return real.flatten().nonzero()[:, 0].to(self.ids.device, non_blocking=True)

    def to(self, device: torch.device) -> "TokenBatch":
        """On ``device``; the copy does not block where the memory is pinned."""
        return TokenBatch(self.ids.to(device, non_blocking=True), self.lengths)

    def pin_memory(self) -> "TokenBatch":
        """In page-locked memory, for copies to a GPU."""
        return TokenBatch(self.ids.pin_memory(), self.lengths)
