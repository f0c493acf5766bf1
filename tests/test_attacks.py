"""What others may give is refused in one line, or read; and nothing of what it asks for happens."""

import copyreg
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import kddcup.io.unpickler
from kddcup.io.errors import UserError
from kddcup.io.files import read_pickle, write_pickle
from kddcup.train.resumption import load_moments
from tests.cases import CASES, CODE, EXTENSION, Case, Touches
from tests.conftest import assert_one_line_error, run_script


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, in which the file ``ran`` is once an attack has had its way."""
    monkeypatch.chdir(tmp_path)
    copyreg.add_extension("posix", "system", EXTENSION)
    pickle.loads(b"\x80\x02\x82" + bytes([EXTENSION]) + b".")  # the code is now found without find_class
    yield tmp_path
    copyreg.remove_extension("posix", "system", EXTENSION)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_case_is_refused_in_one_line_or_read(folder: Path, case: Case):
    if case.expected is None:
        case.try_at_door(folder)
    else:
        with pytest.raises(UserError) as caught:
            case.try_at_door(folder)
        message = str(caught.value)
        assert case.expected in message
        assert "\n" not in message or case.name == "a name of control characters"
        assert len(message) < 2000
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("route", CODE)
def test_the_routes_to_code_lead_there_where_nothing_refuses_them(folder, route):
    pickle.loads(CODE[route])
    assert (folder / "ran").exists()


def test_no_case_changes_what_reads_the_next(folder):
    classes = [getattr(kddcup.io.unpickler, name) for name in ("_Array", "_NumberType", "ArrayReader")]
    before = [dict(vars(item)) for item in classes]
    for case in CASES:
        if case.door == "info" and case.expected:
            with pytest.raises(UserError):
                case.try_at_door(folder)
    assert [dict(vars(item)) for item in classes] == before
    write_pickle(folder / "data.pkl", {"a": np.arange(3)})
    assert read_pickle(folder / "data.pkl", "python preprocess.py")["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("script", ["multilabel", "model1", "model2"])
def test_a_stage_ends_in_one_line_at_a_checkpoint_that_would_run_code(folder, script):
    torch.save({"item": Touches(), "model": Touches()}, folder / "model-epoch0.pth")
    done = run_script(script, "validation.py", "--checkpoints_dir", folder, "--epoch", 0)
    assert_one_line_error(done, "model-epoch0.pth is not a checkpoint that can be read safely")


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
    with pytest.raises(UserError, match="more than its own size"):
        read_pickle(path, "python preprocess.py")


def test_an_array_that_occurs_twice_comes_back_twice(tmp_path):
    array = np.asfortranarray(np.arange(2000, dtype=np.int32).reshape(40, 50))
    write_pickle(tmp_path / "data.pkl", {"a": array, "b": array, "none": np.empty((0, 3), np.float16)})
    content = read_pickle(tmp_path / "data.pkl", "python preprocess.py")
    np.testing.assert_array_equal(content["a"], array)
    assert content["a"] is content["b"]
    assert content["a"].flags.writeable
    assert content["none"].shape == (0, 3)
    assert content["none"].dtype == np.float16


def shorten(state):
    for entry in state.values():
        entry["exp_avg"] = entry["exp_avg_sq"] = torch.zeros(3)


MOMENTS = {
    "of another shape": shorten,
    "of another type": lambda state: state[0].update(exp_avg=state[0]["exp_avg"].double()),
    "sparse": lambda state: state[0].update(exp_avg=state[0]["exp_avg"].to_sparse()),
    "none": lambda state: state[0].pop("exp_avg"),
    "no tensor": lambda state: state[0].update(exp_avg=1.0),
    "not finite": lambda state: state[0]["exp_avg"].fill_(float("nan")),
    "negative": lambda state: state[0]["exp_avg_sq"].fill_(-1.0),
    "of no parameter": lambda state: state.update({10**6: state[0]}),
    "of a parameter by name": lambda state: state.update({"weight": state[0]}),
}
"""The fused optimizer of PyTorch would write through most of these to where no tensor is."""


@pytest.fixture
def stepped():
    """Adam after a step, and a second Adam of parameters of the same shapes."""
    optimizers = []
    for rate in (0.1, 0.3):
        module = torch.nn.Linear(4, 2)
        optimizers.append(torch.optim.Adam(module.parameters(), rate, fused=True))
    module(torch.ones(4)).sum().backward()
    optimizers[1].step()
    return optimizers[1].state_dict(), optimizers[0]


@pytest.mark.parametrize("moments", MOMENTS)
def test_moments_that_are_not_those_of_the_parameters_are_refused(stepped, moments):
    state, optimizer = stepped
    MOMENTS[moments](state["state"])
    with pytest.raises(ValueError, match=r"moment|tensor|finite"):
        load_moments(optimizer, state)


def test_moments_are_copied_and_this_runs_rates_stay(stepped):
    state, optimizer = stepped
    load_moments(optimizer, state)
    for number, parameter in enumerate(optimizer.param_groups[0]["params"]):
        for name, moment in state["state"][number].items():
            assert torch.equal(optimizer.state[parameter][name], moment)
            assert optimizer.state[parameter][name].data_ptr() != moment.data_ptr()
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_checkpoint_of_a_larger_vocabulary_or_of_hostile_moments_ends_a_script_in_one_line(
    trained, tmp_path
):
    content = torch.load(trained / "multilabel" / "model-epoch0.pth", weights_only=True)
    flags = ("--data_dir", trained / "data", "--checkpoints_dir", tmp_path)
    shorten(content["optimizer"]["state"])
    torch.save(content, tmp_path / "model-epoch0.pth")
    done = run_script("multilabel", "train.py", *flags, "--epochs", 2, "--use_epoch", 1, "--resume")
    assert_one_line_error(done, "cannot be resumed", "train anew without --resume")
    content["config"]["vocabulary"]["tokens"].extend(["a", "b"] * 9999)
    torch.save(content, tmp_path / "model-epoch0.pth")
    assert_one_line_error(run_script("multilabel", "validation.py", *flags, "--epoch", 0), "word vectors")
