"""Files of strangers who mean harm: each is refused in one line, and nothing of what it asks for happens."""

import copyreg
import functools
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch

import kddcup.io.unpickler
from kddcup.io.errors import UserError
from kddcup.io.files import read_arrays, read_json, read_pickle, write_pickle
from kddcup.rank.predictions import read_answers, read_predictions
from kddcup.text.bert import read_bert
from kddcup.text.vocabulary import Vocabulary
from kddcup.train.checkpoint import Checkpoint
from kddcup.train.resumption import load_moments
from tests.conftest import assert_one_line_error, run_script

EXTENSION = 240


class Touches:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Reached:
    """Is made, or gets a state, without REDUCE."""

    def __new__(cls, *args, **options):
        if args or options:
            os.system(f"touch {[*args, *options.values()][0]}")
        return super().__new__(cls)

    def __setstate__(self, state):
        os.system(f"touch {state}")


def text(value: str) -> bytes:
    """A string on the stack."""
    return b"\x8c" + bytes([len(value.encode())]) + value.encode()


def found(module: str, name: str) -> bytes:
    """What STACK_GLOBAL finds."""
    return text(module) + text(name) + b"\x93"


def of_reached(opcodes: bytes) -> bytes:
    return opcodes.replace(b"HERE", __name__.encode())


def routes(ran) -> dict[str, bytes]:
    """Pickles that run ``touch RAN``, or would change the process: a pickle by the route that it takes."""
    command = text(f"touch {ran}")
    where = text(str(ran))
    line = f"touch {ran}\n".encode()
    dtype = found("numpy", "dtype") + text("i8") + b"\x89\x88\x87R"
    order = b"K\x03" + text("<")
    array = found("numpy._core.multiarray", "_reconstruct")
    empty = found("numpy", "ndarray") + b"K\x00\x85C\x01b\x87"
    return {
        "GLOBAL REDUCE": b"cposix\nsystem\n(" + command + b"tR.",
        "STACK_GLOBAL REDUCE": b"\x80\x04" + found("posix", "system") + command + b"\x85R.",
        "builtins eval": b"\x80\x04"
        + found("builtins", "eval")
        + text(f"open({str(ran)!r}, 'w')")
        + b"\x85R.",
        "INST": b"(S'" + line.strip() + b"'\niposix\nsystem\n.",
        "OBJ": b"(cposix\nsystem\n" + command + b"o.",
        "NEWOBJ": of_reached(b"cHERE\nReached\n") + where + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04" + found(__name__, "Reached") + b")}" + text("path") + where + b"s\x92.",
        "BUILD __setstate__": b"\x80\x04" + found(__name__, "Reached") + b")\x81" + where + b"b.",
        "BUILD of a module's name": b"\x80\x04" + array + b"N}" + text("__module__") + where + b"s\x86b.",
        "BUILD of the class": b"\x80\x04" + array + b"N}" + text("__setstate__") + where + b"s\x86b.",
        "BUILD of numpy.dtype": b"\x80\x04"
        + found("numpy", "dtype")
        + b"N}"
        + text("x")
        + where
        + b"s\x86b.",
        "EXT1": b"\x80\x02\x82" + bytes([EXTENSION]) + command + b"\x85R.",
        "EXT2": b"\x80\x02\x83" + struct.pack("<H", EXTENSION) + command + b"\x85R.",
        "EXT4": b"\x80\x02\x84" + struct.pack("<i", EXTENSION) + command + b"\x85R.",
        "PERSID": b"P" + line + b".",
        "BINPERSID": command + b"Q.",
        "NEXT_BUFFER": b"\x80\x05\x97.",
        "dotted name": b"\x80\x04" + found("numpy._core.multiarray", "_reconstruct.__init__") + b".",
        "dotted module": b"\x80\x04" + found("numpy", "f2py.os.system") + command + b"\x85R.",
        "name of numpy": b"\x80\x04" + found("numpy", "load") + where + b"\x85R.",
        "numpy's scalar": b"\x80\x04" + found("numpy._core.multiarray", "scalar") + b")R.",
        "array of a subclass": b"\x80\x04" + array + found("numpy", "memmap") + b"K\x00\x85C\x01b\x87R.",
        "array made by the type": b"\x80\x04"
        + found("numpy", "ndarray")
        + b"K\x01\x85"
        + text("O")
        + b"\x86R.",
        "array of objects": b"\x80\x04" + found("numpy", "dtype") + text("O8") + b"\x89\x88\x87R.",
        "code beneath an array of objects": pickle.dumps(np.array([Touches(ran)], object), protocol=4),
        "code as an array's state": b"\x80\x04" + array + empty + b"R" + found("posix", "system") + b"b.",
        "fields of a number": b"\x80\x04" + dtype + b"(" + order + b"N" + text("ab") + b"}K\x08K\x01K\x01tb.",
        "subarray of a number": b"\x80\x04" + dtype + b"(" + order + b"K\x09NNJ\xff\xff\xff\xffK\x01K\x00tb.",
        "flags of objects on a number": b"\x80\x04" + dtype + b"(" + order + b"NNNK\x08K\x01K\x3ftb.",
        "a bare dtype": b"\x80\x04" + dtype + b".",
        "code in the memo": b"\x80\x04" + found("posix", "system") + b"\x940h\x00" + command + b"\x85R.",
        "a set": b"\x80\x04\x8f.",
        "bytes": b"\x80\x04C\x01a.",
        "a tuple": b"\x80\x04}" + text("a") + b"K\x01\x85s.",
        "a tuple for a key": b"\x80\x04}K\x01\x85K\x01s.",
    }


ROUTES = list(routes("RAN"))


@pytest.fixture
def ran(tmp_path):
    """The file that is there once an attack has had its way."""
    return tmp_path / "ran"


@pytest.fixture
def extension():
    copyreg.add_extension("posix", "system", EXTENSION)
    pickle.loads(b"\x80\x02\x82" + bytes([EXTENSION]) + b".")  # the code is now found without find_class
    yield
    copyreg.remove_extension("posix", "system", EXTENSION)


def assert_refused(read, *args, naming):
    with pytest.raises(UserError) as caught:
        read(*args)
    message = str(caught.value)
    assert str(naming) in message
    assert "\n" not in message
    assert len(message) < 1000


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("route", ROUTES)
def test_a_pickle_runs_nothing_by_any_route(tmp_path, ran, route):
    path = tmp_path / "data.pkl"
    path.write_bytes(routes(ran)[route])
    before = {name: vars(getattr(kddcup.io.unpickler, name)).copy() for name in ("_Array", "_NumberType")}
    assert_refused(read_pickle, path, "python preprocess.py", naming=path)
    assert not ran.exists()
    for name, attributes in before.items():
        assert dict(vars(getattr(kddcup.io.unpickler, name))) == attributes
    write_pickle(path, {"a": np.arange(3)})
    assert read_pickle(path, "python preprocess.py")["a"].tolist() == [0, 1, 2]


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize(
    "route",
    [
        *("GLOBAL REDUCE", "STACK_GLOBAL REDUCE", "builtins eval", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"),
        *(
            "BUILD __setstate__",
            "EXT1",
            "EXT2",
            "EXT4",
            "code in the memo",
            "code beneath an array of objects",
        ),
    ],
)
def test_the_routes_lead_there_where_nothing_refuses_them(ran, route):
    pickle.loads(routes(ran)[route])
    assert ran.exists()


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("route", ROUTES)
def test_a_checkpoint_runs_nothing_by_any_route(tmp_path, ran, route, zipped):
    path, content = tmp_path / "model-epoch0.pth", routes(ran)[route]
    torch.save({"item": {}}, path, _use_new_zipfile_serialization=zipped)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, value in entries.items():
                archive.writestr(name, content if name.endswith("data.pkl") else value)
    else:
        path.write_bytes(path.read_bytes().replace(pickle.dumps({"item": {}}, protocol=2), content))
        assert content in path.read_bytes()
    assert_refused(Checkpoint.read, path, "python train.py", naming=path)
    assert not ran.exists()


def test_a_checkpoint_of_the_oldest_format_and_one_with_a_program_in_it_are_refused(tmp_path, ran):
    path = tmp_path / "model-epoch0.pth"
    with tarfile.open(path, "w") as tar:
        for name in ("storages", "tensors", "pickle"):
            add(tar, name, routes(ran)["GLOBAL REDUCE"])
    assert_refused(Checkpoint.read, path, "python train.py", naming=path)
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    assert_refused(Checkpoint.read, path, "python train.py", naming=path)
    assert not ran.exists()


@pytest.mark.parametrize("script", ["multilabel", "model1", "model2"])
def test_a_stage_ends_in_one_line_at_a_checkpoint_that_would_run_code(tmp_path, ran, script):
    torch.save({"item": Touches(ran), "model": Touches(ran)}, tmp_path / "model-epoch0.pth")
    done = run_script(script, "validation.py", "--checkpoints_dir", tmp_path, "--epoch", 0)
    assert_one_line_error(done, "model-epoch0.pth is no checkpoint that can be read safely")
    assert not ran.exists()


MEMORY = {
    "a place in the memo far away": b"\x80\x02]r\xff\xff\xff\x7f.",
    "a place in the memo, written out": b"(lp9999999999\n.",
    "a long string": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"a.",
    "long bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"a.",
    "a long bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"a.",
    "a long frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
    "a long number": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"a.",
    "a number of many digits": b"I" + b"9" * 5000 + b"\n.",
    "lists in lists": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "tuples in tuples, for a key": b"\x80\x04})" + b"\x85" * 1_000_000 + b"K\x01s.",
    "laughs": b"\x80\x04]\x94" + b"".join(b"]\x94(h%c" % i + b"h%c" % i * 9 + b"e" for i in range(60)) + b".",
    "a list in itself": b"\x80\x04]\x94h\x00a.",
    "an array larger than its bytes": b"".join(
        (
            b"\x80\x04",
            found("numpy._core.multiarray", "_reconstruct"),
            found("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R",
            b"(K\x01\x8a\x06\0\0\0\0\0\x10\x85" + found("numpy", "dtype") + text("i8") + b"\x89\x88\x87R",
            b"\x89C\x08aaaaaaaatb.",
        )
    ),
}


@pytest.mark.parametrize("name", MEMORY)
def test_a_pickle_that_asks_for_more_than_there_is_gets_nothing(tmp_path, name):
    (tmp_path / "data.pkl").write_bytes(MEMORY[name])
    assert_refused(read_pickle, tmp_path / "data.pkl", "python preprocess.py", naming="data.pkl")


def test_many_arrays_of_the_same_bytes_are_refused(tmp_path):
    path = tmp_path / "data.pkl"
    write_pickle(path, {str(i): np.full(1000, 7, np.uint8) for i in range(1, 5)})
    content = path.read_bytes().replace(path.read_bytes()[2:11], b"")  # without FRAME
    first = content.index(b"B\xe8\x03\x00\x00") + 5 + 1000  # BINBYTES
    number = content[:first].count(b"\x94")  # its place in the memo, as MEMOIZE follows
    head, tail = content[: first + 1], content[first + 1 :]
    bytes_again = b"B\xe8\x03\x00\x00" + b"\x07" * 1000
    assert tail.count(bytes_again) == 3
    path.write_bytes(head + tail.replace(bytes_again, b"h%c" % number))
    assert_refused(read_pickle, path, "python preprocess.py", naming="more than its own size")


def test_an_array_that_occurs_twice_comes_back_twice(tmp_path):
    array = np.asfortranarray(np.arange(2000, dtype=np.int32).reshape(40, 50))
    write_pickle(tmp_path / "data.pkl", {"a": array, "b": array, "none": np.empty((0, 3), np.float16)})
    content = read_pickle(tmp_path / "data.pkl", "python preprocess.py")
    np.testing.assert_array_equal(content["a"], array)
    assert content["a"] is content["b"]
    assert content["a"].flags.writeable
    assert content["none"].shape == (0, 3)
    assert content["none"].dtype == np.float16


def add(tar, name: str, content: bytes = b"", **attributes) -> None:
    """Add a member to an archive; ``attributes`` are those of its TarInfo."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    for attribute, value in attributes.items():
        setattr(entry, attribute, value)
    tar.addfile(entry, io.BytesIO(content))


def zip_bomb(path, name: str, start: bytes = b"") -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, start + bytes(50_000_000))


def test_a_zip_that_unpacks_to_more_than_itself_is_no_checkpoint_and_no_arrays(tmp_path):
    zip_bomb(tmp_path / "model-epoch0.pth", "model/data.pkl", b"\x80\x02}.")
    with zipfile.ZipFile(tmp_path / "model-epoch0.pth", "a") as archive:
        archive.writestr("model/version", "3")
    assert_refused(Checkpoint.read, tmp_path / "model-epoch0.pth", "x", naming="more than its own size")
    zip_bomb(tmp_path / "vectors.npz", "vectors.npy", npy_header("<f8", (6_000_000,)))
    assert_refused(read_arrays, tmp_path / "vectors.npz", "x", naming="more than its own size")


def npy_header(kind: str, shape: tuple, extra: str = "") -> bytes:
    header = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, {extra}}}\n".encode()
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header


@pytest.mark.parametrize(
    "content",
    [
        npy_header("<f8", (1 << 50,)),
        npy_header("|O", (1,)) + pickle.dumps([Touches("/none")]),
        npy_header("<f8", (1,), "'more': " + "[" * 5000),
        npy_header("<f8", (1,), " " * 20_000),
        pickle.dumps(Touches("/none")),
    ],
    ids=["shape", "objects", "nested", "long", "pickle"],
)
def test_arrays_with_a_hostile_header_are_refused(tmp_path, content):
    with zipfile.ZipFile(tmp_path / "vectors.npz", "w") as archive:
        archive.writestr("vectors.npy", content)
    assert_refused(read_arrays, tmp_path / "vectors.npz", "x", naming="vectors.npz")


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"9" * 5000, b"[NaN]", b"[-Infinity]", b'{"a": Infinity}']
)
def test_json_that_no_program_should_read_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    assert_refused(read_json, tmp_path / "a.json", "get it again", naming="a.json is not JSON")


@pytest.mark.parametrize("score", ["1e999", "-1e999", "9" * 400, '"1"', "null", "true", "[1]"])
def test_predictions_with_a_score_that_is_no_finite_number_are_refused(tmp_path, score):
    (tmp_path / "p.json").write_text(f'{{"1": [[2, {score}]]}}')
    assert_refused(read_predictions, tmp_path / "p.json", "python validation.py", naming="p.json, query 1")


@pytest.mark.parametrize("answers", ["[]", '{"1": [1e999]}', '{"1": ["2"]}', '{"1": {"2": 3}}', '{"1": []}'])
def test_answers_that_are_not_product_ids_are_refused(tmp_path, answers):
    (tmp_path / "valid_answer.json").write_text(answers)
    assert_refused(read_answers, tmp_path / "valid_answer.json", naming="valid_answer.json")


def test_settings_that_would_run_code_are_refused(tmp_path, ran):
    (tmp_path / "evil.yaml").write_text(f"seed: !!python/object/apply:os.system ['touch {ran}']\n")
    done = run_script(".", "preprocess.py", "--config", tmp_path / "evil.yaml")
    assert_one_line_error(done, "python/object/apply:os.system")
    assert not ran.exists()


def bert(folder, **settings):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red"]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"auto_map": {"AutoTokenizer": ["tokenization.Evil", None]}, "trust_remote_code": True},
        {"do_lower_case": "no"},
        {"kind": ["bert"]},
    ],
)
def test_a_tokenizer_that_names_code_of_its_own_is_refused(tmp_path, ran, settings):
    bert(tmp_path, **settings)
    (tmp_path / "tokenization.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    assert_refused(Vocabulary.read, tmp_path, naming=tmp_path)
    assert not ran.exists()


@pytest.mark.parametrize(
    "content", ["{", "[" * 100_000, '{"model": {"type": "Evil"}}', '{"version": "1.0"}', "[]"]
)
def test_a_tokenizer_file_that_is_no_word_pieces_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    assert_refused(Vocabulary.read, tmp_path, naming="no WordPiece vocabulary")


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize(
    "route", ["GLOBAL REDUCE", "STACK_GLOBAL REDUCE", "INST", "EXT1", "BUILD __setstate__"]
)
def test_berts_weights_run_nothing(tmp_path, ran, route):
    bert(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(routes(ran)[route])
    assert_refused(read_bert, str(tmp_path), naming="pytorch_model.bin")
    assert not ran.exists()


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"embeddings.word_embeddings.weight": 3},
        {
            "embeddings.word_embeddings.weight": torch.zeros(5),
            "embeddings.LayerNorm.weight": torch.zeros(4),
            "embeddings.LayerNorm.bias": torch.zeros(4),
        },
    ],
    ids=["list", "number", "shapes"],
)
def test_berts_weights_of_another_form_are_refused(tmp_path, content):
    bert(tmp_path)
    torch.save(content, tmp_path / "pytorch_model.bin")
    assert_refused(read_bert, str(tmp_path), naming=tmp_path)


@pytest.mark.parametrize(
    "header", [b"{}", b"{" * 1000, b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 1]}}']
)
@pytest.mark.parametrize("length", [None, 1 << 60])
def test_a_safetensors_file_that_lies_is_refused(tmp_path, header, length):
    bert(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", length or len(header)) + header)
    assert_refused(read_bert, str(tmp_path), naming=tmp_path)


LAUGHS = functools.reduce(lambda inner, _: [inner] * 9, range(40), ["ha"])
"""Takes 40 lines in a file, and more than the universe has atoms when it is written out."""


@pytest.mark.parametrize(
    "config",
    [
        {"size": "huge"},
        {"model": {"width": "1" * 10}},
        {"model": {"width": -1}},
        {"model": {"region_dim": 0}},
        {"model": {"dropout": 5.0}},
        {"model": {"width": LAUGHS}},
        {"size": LAUGHS},
        {"size": tuple(LAUGHS)},
        {"training": {"seed": LAUGHS}},
        {"model": 3},
        {"training": [1]},
        {"vocabulary": "red"},
        {"stranger": 1},
        [1],
    ],
)
def test_a_checkpoint_with_a_config_of_other_types_is_refused(tmp_path, config):
    path = tmp_path / "model-epoch0.pth"
    torch.save({"item": {}, "config": {"model": {}, **config} if isinstance(config, dict) else config}, path)
    assert_refused(Checkpoint.read, path, "python train.py", naming=path)


@pytest.fixture
def pretrained(trained, tmp_path):
    """A checkpoint that a test changes, as a stranger's: its content, and a function that writes it."""
    path = tmp_path / "model-epoch0.pth"
    content = torch.load(trained / "multilabel" / path.name, weights_only=True)
    return content, lambda: torch.save(content, path)


def resumed(trained, folder):
    told = ("--data_dir", trained / "data", "--checkpoints_dir", folder, "--epochs", 2, "--use_epoch", 1)
    return run_script("multilabel", "train.py", *told, "--resume")


def shortened(state):
    for one in state.values():
        one["exp_avg"] = one["exp_avg_sq"] = torch.zeros(3)


MOMENTS = {
    "of another shape": shortened,
    "of another type": lambda state: state[0].update(exp_avg=state[0]["exp_avg"].double()),
    "sparse": lambda state: state[0].update(exp_avg=state[0]["exp_avg"].to_sparse()),
    "none": lambda state: state[0].pop("exp_avg"),
    "no tensor": lambda state: state[0].update(exp_avg=1.0),
    "not finite": lambda state: state[0]["exp_avg"].fill_(float("nan")),
    "negative": lambda state: state[0]["exp_avg_sq"].fill_(-1.0),
    "of no parameter": lambda state: state.update({10**6: state[0]}),
}
"""The fused optimizer of PyTorch would write through most of these to where no tensor is."""


@pytest.mark.parametrize("moments", MOMENTS)
def test_moments_of_a_stranger_are_refused(pretrained, moments):
    content, _ = pretrained
    values = [torch.nn.Parameter(one["exp_avg"].clone()) for one in content["optimizer"]["state"].values()]
    optimizer = torch.optim.Adam(values, 0.1, fused=True)
    load_moments(optimizer, content["optimizer"])
    MOMENTS[moments](content["optimizer"]["state"])
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError, IndexError)):
        load_moments(optimizer, content["optimizer"])


def test_moments_are_copied_and_this_runs_rates_stay():
    saved = torch.nn.Parameter(torch.ones(3))
    before = torch.optim.Adam([saved], 0.1, weight_decay=0.5, fused=True)
    saved.sum().backward()
    before.step()
    state = before.state_dict()
    value = torch.nn.Parameter(torch.ones(3))
    after = torch.optim.Adam([value], 0.3, fused=True)
    load_moments(after, state)
    for name, moment in state["state"][0].items():
        assert torch.equal(after.state[value][name], moment)
        assert after.state[value][name].data_ptr() != moment.data_ptr()
    assert (after.param_groups[0]["lr"], after.param_groups[0]["weight_decay"]) == (0.3, 0)


def test_a_run_does_not_go_on_from_hostile_moments_or_from_a_step_that_is_not_there(
    trained, pretrained, tmp_path
):
    content, write = pretrained
    content["config"]["training"] |= {"batch_size": 16, "dropout": 0.2}
    content["state"]["step"] = 10**6
    content["state"]["ranks"][0]["losses"] = {"tagging": torch.tensor(1.0)}
    write()
    assert_one_line_error(resumed(trained, tmp_path), "step 1000000 of an epoch that has")
    shortened(content["optimizer"]["state"])
    write()
    assert_one_line_error(resumed(trained, tmp_path), "cannot be resumed", "train anew without --resume")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: one["config"]["model"].update(width=10**9), "widths that no model has"),
        (lambda one: one["config"]["model"].update(width=10**6), "does not fit the model"),
        (lambda one: one["config"]["vocabulary"]["tokens"].extend(["a", "b"] * 9999), "word vectors"),
        (lambda one: one["model"].update({"a\nerror: \x1b[31mred": torch.ones(1)}), "is left over"),
    ],
)
def test_a_checkpoint_that_is_no_model_ends_in_one_line(trained, pretrained, tmp_path, change, said):
    content, write = pretrained
    change(content)
    write()
    told = ("--data_dir", trained / "data", "--checkpoints_dir", tmp_path, "--epoch", 0)
    done = run_script("multilabel", "validation.py", *told)
    assert_one_line_error(done, said)
    assert "\x1b" not in done.stderr


def test_a_number_repeated_to_the_size_of_a_model_is_refused(tmp_path):
    torch.save({"item": {"weight": torch.zeros(1).expand(1000, 1000)}}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a tensor \[1000, 1000\] that is not dense"):
        Checkpoint.read(tmp_path / "a.pth", "train")


def test_answers_that_name_a_query_by_half_a_letter_are_refused(tmp_path):
    (tmp_path / "answers.json").write_text('{"\\ud800": [1]}')
    assert_refused(read_answers, tmp_path / "answers.json", naming="answers.json")
