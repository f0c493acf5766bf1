"""What matters on a GPU, as far as a CPU can show it."""

import contextlib
import importlib

import pytest
import torch
import torch._meta_registrations  # of the fused step of Adam

from kddcup import stages
from kddcup.nn.words import list_trainable
from kddcup.train.processes import Process
from tests import small

META = torch.device("meta")


@pytest.fixture(params=stages.STAGES, ids=lambda stage: stage.name)
def stage(request) -> stages.Stage:
    torch.manual_seed(0)
    return request.param


@pytest.fixture
def meta(monkeypatch) -> Process:
    """A process on the meta device, for which autocast and the fused Adam say no by its name alone."""
    monkeypatch.setattr(torch, "autocast", lambda *_: contextlib.nullcontext())
    adam = importlib.import_module("torch.optim.adam")
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda parameter: None)
    return Process(0, 1, META)


def test_no_step_asks_the_device_for_a_value(stage, meta):
    # Tensors of the meta device have no values: whoever asks for one fails.
    with pytest.raises(Exception, match="meta"):
        torch.ones(2, device=META).nonzero()
    trainer = small.trainer(stage.build(small.CONFIG).to(META), small.settings(), meta, stage=stage)
    trainer.step([small.batch().to(META)] * 2)
    assert trainer.optimizer.found_inf.device == META
    assert {value.device for state in trainer.optimizer.state.values() for value in state.values()} == {META}
    # The flags of a step are read in the next one; from a GPU they have travelled by then.
    with pytest.raises(NotImplementedError, match="meta"):
        trainer.step([small.batch().to(META)])


def test_bf16_agrees_with_float32(stage):
    model, losses, gradients = stage.build(small.CONFIG), [], []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled):
            found = small.losses(stage.name, model, small.batch())
        assert all(loss.dtype == torch.float32 for loss in found.values())
        sum(found.values()).backward()
        losses.append(torch.stack(list(found.values())))
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in list_trainable(model)]))
    torch.testing.assert_close(losses[1], losses[0], atol=0.01, rtol=0.01)
    assert not torch.equal(losses[0], losses[1])
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99
