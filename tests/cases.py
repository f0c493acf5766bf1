"""Files and flags that others could give: a line for each, with its door and what comes of it.

The next case is one more line. ``python -m tests.cases`` counts them.
"""

import functools
import io
import json
import os
import pickle
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from kddcup import stages
from kddcup.cli import parse_settings
from kddcup.config import MatcherSettings
from kddcup.io.files import read_arrays, read_json, read_pickle
from kddcup.io.folders import read_marker
from kddcup.rank.predictions import read_answers, read_predictions
from kddcup.text.bert import read_bert
from kddcup.text.vocabulary import SPECIALS, Vocabulary
from kddcup.train.checkpoint import Checkpoint, ExportedEncoder, RunConfig
from tests import small

EXTENSION = 240
"""The code of ``posix.system`` in the registry of extensions, in the cases that use it."""


@dataclass(frozen=True)
class Case:
    """Something that is given, as a file's content or as flags.

    Args:
        name: what it is.
        door: what reads it, a key of :data:`DOORS`.
        content: of the file; or a function that gives it, where that takes time or memory.
        expected: a part of the one line that refuses it; None where it is to be read.
    """

    name: str
    door: str
    content: bytes | str | list[str] | Callable[[], bytes] = field(repr=False)
    expected: str | None

    def __str__(self) -> str:
        return f"{self.door}: {self.name}"

    def try_at_door(self, folder: Path) -> object:
        """Give it to its door, in a folder of its own."""
        file, read = DOORS[self.door]
        content = self.content() if callable(self.content) else self.content
        if isinstance(content, list):
            return read(content)
        (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)
        return read(folder / file)


def parse(flags: list[str]) -> MatcherSettings:
    recipes = stages.find("model1").recipes
    return parse_settings(MatcherSettings, None, recipes, lambda _: "full", flags)


def bert(path: Path) -> object:
    (path.parent / "vocab.txt").write_text("\n".join((*SPECIALS, "red")) + "\n")
    return read_bert(str(path.parent))


def tokenizer(path: Path) -> Vocabulary:
    if path.name == "tokenizer_config.json":
        (path.parent / "vocab.txt").write_text("\n".join((*SPECIALS, "red")) + "\n")
        (path.parent / "tokenization.py").write_text("open('ran', 'w')\nclass Evil: pass\n")
    return Vocabulary.read(path.parent)


def model(name: str, path: Path) -> object:
    return Checkpoint.read(path, "python train.py").build(stages.find(name))


DOORS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "info": ("data.pkl", lambda path: read_pickle(path, "python preprocess.py")),
    "checkpoint": ("model-epoch0.pth", lambda path: Checkpoint.read(path, "python train.py")),
    "checkpoint, old format": ("model-epoch0.pth", lambda path: Checkpoint.read(path, "python train.py")),
    "model1": ("model-epoch0.pth", functools.partial(model, "model1")),
    "model1, safetensors": ("model-epoch0.safetensors", functools.partial(model, "model1")),
    "model2": ("model-epoch0.pth", functools.partial(model, "model2")),
    "encoder": ("encoder.pth", lambda path: ExportedEncoder.read(str(path))),
    "BERT": ("pytorch_model.bin", bert),
    "BERT, safetensors": ("model.safetensors", bert),
    "tokenizer": ("tokenizer.json", tokenizer),
    "tokenizer's settings": ("tokenizer_config.json", tokenizer),
    "word vectors": ("vectors.npz", lambda path: read_arrays(path, "python preprocess.py")),
    "marker": ("complete.json", lambda path: read_marker(path.parent, "python preprocess.py")),
    "JSON": ("a.json", lambda path: read_json(path, "get it again")),
    "predictions": ("p.json", lambda path: read_predictions(path, "python validation.py")),
    "answers": ("valid_answer.json", read_answers),
    "flags": ("", parse),
    "settings": ("run.yaml", lambda path: parse(["--config", str(path)])),
}
"""By name, the file that is read and what reads it."""


class Touches:
    """Touches a file when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch ran",)


class Reached:
    """Is made, or gets a state, without REDUCE."""

    def __new__(cls, *args: object, **options: object) -> "Reached":
        if args or options:
            os.system(f"touch {[*args, *options.values()][0]}")
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        os.system(f"touch {state}")


def text(value: str) -> bytes:
    """A string on the stack."""
    return b"\x8c" + bytes([len(value.encode())]) + value.encode()


def found(module: str, name: str) -> bytes:
    """What STACK_GLOBAL finds."""
    return text(module) + text(name) + b"\x93"


P4 = b"\x80\x04"
COMMAND = text("touch ran")
HERE = "tests.cases"
DTYPE = found("numpy", "dtype") + text("i8") + b"\x89\x88\x87R"
ARRAY = found("numpy._core.multiarray", "_reconstruct")
EMPTY = found("numpy", "ndarray") + b"K\x00\x85C\x01b\x87"
ORDER = b"K\x03" + text("<")
ZEROS = b"cbuiltins\nbytearray\n%s\x85R"

CODE = {
    "GLOBAL REDUCE": b"cposix\nsystem\n(" + COMMAND + b"tR.",
    "STACK_GLOBAL REDUCE": P4 + found("posix", "system") + COMMAND + b"\x85R.",
    "builtins eval": P4 + found("builtins", "eval") + text("open('ran', 'w')") + b"\x85R.",
    "INST": b"(S'touch ran'\niposix\nsystem\n.",
    "OBJ": b"(cposix\nsystem\n" + COMMAND + b"o.",
    "NEWOBJ": f"c{HERE}\nReached\n".encode() + text("ran") + b"\x85\x81.",
    "NEWOBJ_EX": P4 + found(HERE, "Reached") + b")}" + text("path") + text("ran") + b"s\x92.",
    "BUILD __setstate__": P4 + found(HERE, "Reached") + b")\x81" + text("ran") + b"b.",
    "EXT1": b"\x80\x02\x82" + bytes([EXTENSION]) + COMMAND + b"\x85R.",
    "EXT2": b"\x80\x02\x83" + struct.pack("<H", EXTENSION) + COMMAND + b"\x85R.",
    "EXT4": b"\x80\x02\x84" + struct.pack("<i", EXTENSION) + COMMAND + b"\x85R.",
    "code in the memo": P4 + found("posix", "system") + b"\x940h\x00" + COMMAND + b"\x85R.",
    "code beneath an array of objects": pickle.dumps(np.array([Touches()], object), protocol=4),
}
"""Pickles that touch the file ``ran`` where nothing refuses them."""

PICKLES = CODE | {
    # Routes to code, or to a change of this process, that lead nowhere by themselves.
    "BUILD of a module's name": P4 + ARRAY + b"N}" + text("__module__") + text("ran") + b"s\x86b.",
    "BUILD of the class": P4 + ARRAY + b"N}" + text("__setstate__") + text("ran") + b"s\x86b.",
    "BUILD of numpy.dtype": P4 + found("numpy", "dtype") + b"N}" + text("x") + text("ran") + b"s\x86b.",
    "BUILD of a dict's method": b"\x80\x02ccollections\nOrderedDict\n)R}" + text("items") + b"K\x01sb.",
    "PERSID": b"Ptouch ran\n.",
    "BINPERSID": COMMAND + b"Q.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "dotted name": P4 + found("numpy._core.multiarray", "_reconstruct.__init__") + b".",
    "dotted module": P4 + found("numpy", "f2py.os.system") + COMMAND + b"\x85R.",
    "name of numpy": P4 + found("numpy", "load") + text("ran") + b"\x85R.",
    "numpy's scalar": P4 + found("numpy._core.multiarray", "scalar") + b")R.",
    "array of a subclass": P4 + ARRAY + found("numpy", "memmap") + b"K\x00\x85C\x01b\x87R.",
    "array made by the type": P4 + found("numpy", "ndarray") + b"K\x01\x85" + text("O") + b"\x86R.",
    "array of objects": P4 + found("numpy", "dtype") + text("O8") + b"\x89\x88\x87R.",
    "code as an array's state": P4 + ARRAY + EMPTY + b"R" + found("posix", "system") + b"b.",
    "fields of a number": P4 + DTYPE + b"(" + ORDER + b"N" + text("ab") + b"}K\x08K\x01K\x01tb.",
    "subarray of a number": P4 + DTYPE + b"(" + ORDER + b"K\x09NNJ\xff\xff\xff\xffK\x01K\x00tb.",
    "flags of objects on a number": P4 + DTYPE + b"(" + ORDER + b"NNNK\x08K\x01K\x3ftb.",
    "a bare dtype": P4 + DTYPE + b".",
    "an array without contents": P4
    + b"}"
    + text("a")
    + ARRAY
    + EMPTY
    + b"R(K\x01K\x02\x85"
    + DTYPE
    + b"\x89Ntbs.",
    "an array that is never built": P4 + b"}" + text("a") + ARRAY + EMPTY + b"Rs.",
    "an array larger than its bytes": P4
    + (
        b"}"
        + text("a")
        + ARRAY
        + EMPTY
        + b"R(K\x01\x8a\x06\0\0\0\0\0\x10\x85"
        + DTYPE
        + b"\x89C\x08aaaaaaaatbs."
    ),
    # What is no data.
    "a set": P4 + b"\x8f.",
    "bytes": P4 + b"C\x01a.",
    "a tuple for a key": P4 + b"}K\x01\x85K\x01s.",
    "a list": P4 + b"].",
    "None": P4 + b"N.",
    "two values": P4 + b"}}.",
    "nothing": P4 + b".",
    "an empty file": b"",
    "a word": b"hello",
    # What takes memory or time.
    "sixty tuples, each twice in the next, for a key": b"\x80\x02}K\x01q\x00"
    + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))
    + b"K\x01s.",
    "sixty tuples, each twice in the next": b"\x80\x02}K\x01K\x01q\x00"
    + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))
    + b"s.",
    "a torch.Size of a bytearray of 300 MB": b"\x80\x02ctorch\nSize\n"
    + ZEROS % b"J\x00\xa3\xe1\x11"
    + b"\x85R.",
    "a Counter of a bytearray of 1 GB": b"\x80\x02ccollections\nCounter\n"
    + ZEROS % b"J\x00\xca\x9a\x3b"
    + b"\x85R.",
    "a set of a bytearray of 10 GB": b"\x80\x02cbuiltins\nset\n"
    + ZEROS % b"\x8a\x05\x00\xe4\x0b\x54\x02"
    + b"\x85R.",
    "a torch.Size of bytes": b"\x80\x02ctorch\nSize\nX\x02\x00\x00\x00ab\x85R.",
    "a place in the memo far away": b"\x80\x02]r\xff\xff\xff\x7f.",
    "a place in the memo, written out": b"(lp9999999999\n.",
    "a long string": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"a.",
    "long bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"a.",
    "a long bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"a.",
    "a long frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
    "a long number": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"a.",
    "a number of many digits": b"I" + b"9" * 5000 + b"\n.",
    "lists in lists": P4 + b"}K\x01" + b"]" * 100_000 + b"a" * 99_999 + b"s.",
    "a million dicts": P4 + b"}" * 1_000_000 + b".",
    "tuples in tuples": P4 + b"}K\x01)" + b"\x85" * 1_000_000 + b"s.",
    "laughs": P4 + b"]\x94" + b"".join(b"]\x94(h%c" % i + b"h%c" % i * 9 + b"e" for i in range(60)) + b".",
    "a list in itself": P4 + b"}K\x01]\x94h\x00as.",
}


def zip_of(content: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    """A checkpoint of PyTorch's zip format with a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, value in {"data.pkl": content, "version": b"3\n", "byteorder": b"little"}.items():
            archive.writestr(f"archive/{name}", value)
    return file.getvalue()


def old_of(content: bytes) -> bytes:
    """A checkpoint of PyTorch's old format with a pickle."""
    file = io.BytesIO()
    torch.save({"item": {}}, file, _use_new_zipfile_serialization=False)
    plain = pickle.dumps({"item": {}}, protocol=2)
    assert plain in file.getvalue()
    return file.getvalue().replace(plain, content)


def saved(value: object, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def bit_flipped(content: bytes) -> bytes:
    place = content.index(b"FloatStorage")
    return content[:place] + b"G" + content[place + 1 :]


def list_pickles() -> Iterator[Case]:
    for name, content in PICKLES.items():
        yield Case(name, "info", content, "data.pkl cannot be read (")
        yield Case(name, "checkpoint", zip_of(content), "model-epoch0.pth is not a checkpoint")
        yield Case(name, "checkpoint, old format", old_of(content), "model-epoch0.pth is not a checkpoint")
        if name in CODE:
            yield Case(name, "BERT", content, "pytorch_model.bin is not a checkpoint")
    yield Case("a tuple", "info", P4 + b"}" + text("a") + b"K\x01\x85s.", "a tuple, which is not data")
    yield Case("a dict", "info", P4 + b"}" + text("a") + b"K\x01s.", None)


def adam_of(module: nn.Module) -> dict[str, Any]:
    optimizer = torch.optim.Adam(module.parameters())
    sum(parameter.sum() for parameter in module.parameters()).backward()
    optimizer.step()
    return optimizer.state_dict()


VALUES: dict[str, tuple[object, str | None]] = {
    "a meta tensor": (torch.zeros(3, device="meta"), "which is not data"),
    "a sparse tensor": (torch.eye(3).to_sparse(), "which is not data"),
    "a number repeated to the size of a model": (torch.zeros(1).expand(1000, 1000), "is not dense"),
    "every second number of a tensor": (torch.zeros(8)[::2], "is not dense"),
    "code": (Touches(), "which is not data"),
    "a NumPy scalar": (np.float64(2), "which is not data"),
    "a module": (nn.Linear(2, 2), "which is not data"),
    "laughs": (functools.reduce(lambda inner, _: [inner] * 9, range(40), ["ha"]), "occurs twice"),
    "a transposed tensor": (torch.arange(6.0).view(2, 3).t(), None),
    "a part of a tensor": (torch.arange(6.0)[2:4], None),
    "two views of one tensor": ([torch.zeros(4)] * 2, None),
    "an empty tensor": (torch.zeros(0, 3), None),
    "a tensor of each type": (
        [torch.zeros(2, dtype=dtype) for dtype in (torch.uint8, torch.bool, torch.half)],
        None,
    ),
    "a parameter": (nn.Parameter(torch.ones(3)), None),
    "a size": (torch.Size([3, 4]), None),
    "a state dict with its metadata": (nn.GRU(4, 4, 2).state_dict(), None),
    "an optimizer's state": (adam_of(nn.Linear(3, 3)), None),
    "a generator's state": (torch.get_rng_state(), None),
    "plain values": ({"a": [1, 2.5, "b", None, True], 3: (0.9, 0.999), "long": 2**80}, None),
}


def list_values() -> Iterator[Case]:
    for name, (value, expected) in VALUES.items():
        yield Case(name, "checkpoint", saved({"a": value}), expected)
        yield Case(name, "checkpoint, old format", saved({"a": value}, False), expected)
    whole = saved({"item": {"a": torch.zeros(9)}})
    yield Case("another type of storage", "checkpoint", bit_flipped(whole), "which is not data")
    yield Case("a torn file", "checkpoint", whole[:-30], "is not a checkpoint")
    yield Case("nothing but a list", "checkpoint", saved([1, 2]), "is not a checkpoint")
    yield Case(
        "a zip that unpacks to more than itself",
        "checkpoint",
        lambda: zip_of(b"\x80\x02}." + bytes(50_000_000), zipfile.ZIP_DEFLATED),
        "more than its own size",
    )
    yield Case(
        "a pickle that ends in a zip",
        "checkpoint",
        CODE["GLOBAL REDUCE"] + zip_of(b"}."),
        "is not a checkpoint",
    )


VOCABULARY = Vocabulary("lexicon", [*SPECIALS, *(f"w{i}" for i in range(16))]).to_dict()


def parts_of(name: str, config: bool = True) -> dict[str, Any]:
    """The parts of a small checkpoint."""
    torch.manual_seed(0)
    stage = stages.find(name)
    parts = {
        part: module.state_dict() for part, module in stage.name_parts(stage.build(small.CONFIG)).items()
    }
    return parts | ({"config": asdict(RunConfig("small", small.CONFIG, VOCABULARY))} if config else {})


def changed(part: str, change: Callable[[torch.Tensor], object]) -> bytes:
    """A checkpoint of model1 with another first tensor in a part."""
    parts = parts_of("model1")
    first = next(iter(parts[part]))
    parts[part][first] = change(parts[part][first])
    return saved(parts)


def configured(**config: object) -> bytes:
    return saved({"item": {}, "config": {"model": {}, **config}})


def as_safetensors(
    change: Callable[[dict], object] = lambda tensors: None, config: str | None = None
) -> bytes:
    parts = parts_of("model1")
    own = json.dumps(parts.pop("config"))
    tensors = {f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()}
    change(tensors)
    return safetensors.torch.save(tensors, {"config": own if config is None else config})


def list_models() -> Iterator[Case]:
    wrapped = {
        part: {f"module.{name}": value for name, value in state.items()} if part != "config" else state
        for part, state in parts_of("model1").items()
    }
    one_more = parts_of("model1")
    one_more["score"]["a\nerror: \x1b[31mred"] = torch.ones(1)
    yield Case("as it was written", "model1", saved(parts_of("model1")), None)
    yield Case("names that begin with module.", "model1", saved(wrapped), None)
    yield Case("of double precision", "model1", changed("query", lambda value: value.double()), None)
    yield Case("of half precision", "model1", changed("query", lambda value: value.half()), None)
    yield Case("whole numbers", "model1", changed("query", lambda value: value.long()), "is of torch.int64")
    yield Case(
        "complex numbers", "model1", changed("query", lambda value: value.cfloat()), "is of torch.complex64"
    )
    yield Case("a NaN", "model1", changed("item", lambda value: value * float("nan")), "not finite")
    yield Case("an infinity", "model1", changed("score", lambda value: value / 0), "not finite")
    yield Case("a list for a tensor", "model1", changed("item", lambda value: value.tolist()), "does not fit")
    yield Case("another shape", "model1", changed("item", lambda value: value[:1]), "expected [")
    yield Case("a name of control characters", "model1", saved(one_more), "is left over")
    yield Case("a checkpoint of model2", "model1", saved(parts_of("model2")), "is a checkpoint of model2")
    yield Case("a checkpoint of model1", "model2", saved(parts_of("model1")), "is a checkpoint of model1")
    yield Case(
        "a checkpoint of stage 2", "model1", saved(parts_of("multilabel")), "is a checkpoint of multilabel"
    )
    yield Case("a checkpoint of stage 2", "encoder", saved(parts_of("multilabel")), "export its encoder")
    yield Case("a bare state dict", "encoder", saved(parts_of("model1")["item"]), None)
    yield Case("as it was written", "model1, safetensors", as_safetensors(), None)
    yield Case("a config that is not JSON", "model1, safetensors", as_safetensors(config="{"), "not JSON")
    yield Case(
        "a config in 100,000 lists", "model1, safetensors", as_safetensors(config="[" * 100_000), "not JSON"
    )
    yield Case(
        "a tensor less",
        "model1, safetensors",
        as_safetensors(lambda tensors: tensors.popitem()),
        "is missing",
    )
    yield Case("a torn file", "model1, safetensors", as_safetensors()[:-9], "is not a file of safetensors")
    yield Case("a checkpoint of PyTorch", "model1, safetensors", saved({}), "is not a file of safetensors")
    laughs = VALUES["laughs"][0]
    for name, config in {
        "size": {"size": "huge"},
        "width in letters": {"model": {"width": "1" * 10}},
        "width below 0": {"model": {"width": -1}},
        "width of a billion": {"model": {"width": 10**9}},
        "no region": {"model": {"region_dim": 0}},
        "dropout": {"model": {"dropout": 5.0}},
        "model": {"model": 3},
        "training": {"training": [1]},
        "setting of a dict": {"training": {"seed": {}}},
        "vocabulary": {"vocabulary": "red"},
        "feature length": {"model": {"feature_length": -1.0}},
        "figure of valid": {"valid": [0.5, float("nan")]},
        "list of valid": {"valid": "0.5"},
        "one more entry": {"more": 1},
    }.items():
        yield Case(
            f"a config of another {name}", "checkpoint", configured(**config), "config that does not fit"
        )
    yield Case("a config that is a list", "checkpoint", saved({"config": [1]}), "config that does not fit")
    yield Case("a config of laughs", "checkpoint", configured(training={"seed": laughs}), "occurs twice")


def bert_of(words: torch.Tensor, width: int = 4) -> dict[str, torch.Tensor]:
    norm = {f"embeddings.LayerNorm.{name}": torch.ones(width) for name in ("weight", "bias")}
    return {"embeddings.word_embeddings.weight": words, **norm}


def list_texts() -> Iterator[Case]:
    yield Case("as it was published", "BERT", saved(bert_of(torch.ones(5, 4))), None)
    yield Case(
        "as it was published", "BERT, safetensors", safetensors.torch.save(bert_of(torch.ones(5, 4))), None
    )
    for name, (content, expected) in {
        "a list": ([1, 2], "is not a state dict"),
        "a number": ({"embeddings.word_embeddings.weight": 3}, "is not a tensor"),
        "a number for each tensor": (bert_of(3), "is not a tensor"),
        "one dimension": (bert_of(torch.zeros(5)), "does not hold BERT's embeddings"),
        "fewer vectors than words": (bert_of(torch.zeros(4, 4)), "5 tokens but 4 word vectors"),
        "whole numbers": (bert_of(torch.ones(5, 4, dtype=torch.int64)), "is of torch.int64"),
        "complex numbers": (bert_of(torch.ones(5, 4, dtype=torch.complex64)), "is of torch.complex64"),
        "a NaN": (bert_of(torch.full((5, 4), float("nan"))), "not finite"),
        "no width": (bert_of(torch.zeros(5, 0), 0), "which no BERT has"),
        "two million words": (bert_of(torch.zeros(2_000_000, 1), 1), "which no BERT has"),
        "a number repeated": (bert_of(torch.zeros(1).expand(30_000_000, 8), 8), "is not dense"),
        "meta tensors": (bert_of(torch.zeros(5, 4, device="meta")), "which is not data"),
        "sparse tensors": (bert_of(torch.zeros(5, 4).to_sparse()), "which is not data"),
    }.items():
        yield Case(name, "BERT", functools.partial(saved, content), expected)
    for header in (b"{}", b"{" * 1000, b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 1]}}'):
        for length in (len(header), 1 << 60):
            content = struct.pack("<Q", length) + header
            yield Case(f"{header[:9]!r} of {length} bytes", "BERT, safetensors", content, "weights")
    for name, content in {
        "an open brace": "{",
        "100,000 lists": "[" * 100_000,
        "a model of another kind": '{"model": {"type": "Evil"}}',
        "a version alone": '{"version": "1.0"}',
        "a list": "[]",
    }.items():
        yield Case(name, "tokenizer", content, "no WordPiece vocabulary")
    evil = '{"auto_map": {"AutoTokenizer": ["tokenization.Evil", null]}, "trust_remote_code": true}'
    yield Case("code of its own", "tokenizer's settings", evil, "names code of its own (auto_map)")
    yield Case(
        "a word for a switch", "tokenizer's settings", '{"do_lower_case": "no"}', "no WordPiece vocabulary"
    )
    yield Case("a list for a kind", "tokenizer's settings", '{"kind": ["bert"]}', "no WordPiece vocabulary")
    yield Case("settings in a list", "tokenizer's settings", "[]", "is not an object of settings")


def npz_of(
    kind: str, shape: tuple, extra: str = "", content: bytes = b"", method: int = zipfile.ZIP_STORED
) -> bytes:
    header = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, {extra}}}\n".encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header + content)
    return file.getvalue()


def list_data() -> Iterator[Case]:
    for name, content in {
        "a header of a petabyte": npz_of("<f8", (1 << 50,)),
        "objects": npz_of("|O", (1,), content=pickle.dumps([Touches()])),
        "a nested header": npz_of("<f8", (1,), "'more': " + "[" * 5000),
        "a long header": npz_of("<f8", (1,), " " * 20_000),
        "a pickle": pickle.dumps(Touches()),
        "an empty file": b"",
        "more than its own size": npz_of("<f8", (6_000_000,), "", bytes(48_000_000), zipfile.ZIP_DEFLATED),
    }.items():
        yield Case(name, "word vectors", content, "vectors.npz cannot be read (")
    yield Case("an array", "word vectors", npz_of("<f8", (1,), content=bytes(8)), None)
    for content in ("", "{", "[" * 100_000, "9" * 5000, "[NaN]", "[-Infinity]", '{"a": Infinity}'):
        yield Case(f"{content[:12]} of {len(content)}", "JSON", content, "a.json is not JSON")
    yield Case("bytes of no letters", "JSON", b"\xff\xfe\xfa", "a.json is not JSON")
    for score in ("1e999", "-1e999", "9" * 400, '"1"', "null", "true", "[1]"):
        yield Case(f"the score {score[:9]}", "predictions", f'{{"1": [[2, {score}]]}}', "p.json, query 1")
    for answers in (
        "[]",
        '{"1": [1e999]}',
        '{"1": ["2"]}',
        '{"1": {"2": 3}}',
        '{"1": []}',
        '{"\\ud800": [1]}',
    ):
        yield Case(answers, "answers", answers, "valid_answer.json")
    for files in (
        "[]",
        "3",
        '{"a": 1}',
        '{"a": {"bytes": "1"}}',
        '{"../a": {"bytes": 1}}',
        '{"/a": {"bytes": 1}}',
    ):
        yield Case(files, "marker", f'{{"files": {files}}}', "complete.json does not say what is finished")
    yield Case("a file that is absent", "marker", '{"files": {"a": {"bytes": 1}}}', "a does not exist")
    yield Case("no file", "marker", '{"files": {}}', None)


def list_settings() -> Iterator[Case]:
    for flags, expected in {
        "--epochs -1": "--epochs -1 is not a whole number from 1",
        "--seed x": "--seed x is not a whole number from 0, below 4,294,967,296",
        "--seed 4294967296": "--seed 4294967296 is not a whole number from 0, below",
        f"--epochs {'9' * 5000}": "9… is not a whole number from 1",
        "--epochs 1.5": "--epochs 1.5 is not a whole number from 1",
        "--epochs": "--epochs needs a value",
        "--devices": "--devices needs a value",
        "--devices 0 a": "--devices a is not a whole number",
        "--rate 0": "--rate 0 is not a number above 0",
        "--rate nan": "--rate nan is not a number above 0",
        "--rate inf": "--rate inf is not a number above 0",
        "--dropout 2": "--dropout 2 is not a number from 0 to 1",
        "--precision half": "--precision half is not one of float32, tf32, bf16",
        "--resume=maybe": "--resume takes no value, and has maybe",
        "--no_such_flag 3": "--no_such_flag 3: there is no such flag",
        "word": "word: there is no such flag",
        "--e 3": "--e is short for several flags",
        "--config absent.yaml": "--config absent.yaml cannot be read (No such file",
        "--config .": "--config . cannot be read (Is a directory)",
    }.items():
        yield Case(flags[:40], "flags", flags.split(), expected)
    yield Case("all is well", "flags", ["--devices", "0", "1", "--rate", "1e-3", "--resume"], None)
    for name, (content, expected) in {
        "no letters": (b"\xff\xfe", "it is not UTF-8"),
        "a number of 10,000 digits": ("seed: " + "9" * 10_000, "a number or a date in it is not one"),
        "another file": ("config: /etc/passwd", "there is no setting config"),
        "code": ("seed: !!python/object/apply:os.system ['touch ran']", "python/object/apply:os.system"),
        "100,000 lists": ("data_dir: " + "[" * 100_000, "more than 20,000 bytes"),
        "19,000 lists": ("data_dir: " + "[" * 19_000, "line 1 has a reference, or a list in a list"),
        "9,000 lists in lines": ("- " * 9_000, "line 1 has a reference, or a list in a list"),
        "a list in a list": ("devices: [[1]]", "line 1 has a reference, or a list in a list"),
        "an open bracket": ("seed: [1", "line 1: expected"),
        "a reference": ("seed: &a [*a]", "line 1 has a reference, or a list in a list"),
        "a month that is not": ("seed: 2020-13-45", "a number or a date in it is not one"),
        "a control character": ("seed: \x1b", "it has control characters"),
        "a list": ("- 1", "has no settings by name"),
        "a number": ("1", "has no settings by name"),
        "an unknown setting": ("seeds: 1", "there is no setting seeds"),
        "a key that is a number": ("1: 1", "there is no setting 1"),
        "a seed below 0": ("seed: -1", "seed -1 is not a whole number from 0"),
        "a seed of true": ("seed: true", "seed True is not a whole number from 0"),
        "a seed of nothing": ("seed:", "seed None is not a whole number from 0"),
        "devices in no list": ("devices: 3", "devices 3 is not a list"),
        "a switch of a word": ("resume: maybe", "resume maybe is not true or false"),
        "a folder that is a number": ("data_dir: 3", "data_dir 3 is not a text"),
        "nothing": ("", None),
        "some settings": ("seed: 1\nrate: 1e-3\ndevices: [0, 1]\nresume: true\n", None),
    }.items():
        yield Case(name, "settings", content, expected)


CASES = [*list_pickles(), *list_values(), *list_models(), *list_texts(), *list_data(), *list_settings()]

if __name__ == "__main__":
    for door, count in Counter(case.door for case in CASES).items():
        refused = sum(case.expected is not None for case in CASES if case.door == door)
        print(f"{door}: {count} cases, {refused} refused, {count - refused} read")
    print(f"{len(CASES)} cases in all")
