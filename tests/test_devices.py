"""What matters on a GPU, as far as a CPU can show it."""

import contextlib
import importlib

import pytest
import torch
import torch._meta_registrations  # of the fused step of Adam

from benchmarks import inputs
from kddcup import stages
from kddcup.config import ModelConfig
from kddcup.nn.words import list_trainable
from kddcup.train.processes import Process, pick_device
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


def products() -> tuple[str, bool]:
    """How PyTorch computes products, and whether cuDNN's may be in TensorFloat-32."""
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def test_tf32_is_for_the_steps_of_a_run_that_asks_for_it(stage, tmp_path):
    torch.backends.cudnn.allow_tf32 = True  # as PyTorch has it at first
    pick_device([])
    assert products() == ("highest", False)
    for precision, expected in (("tf32", ("high", True)), ("bf16", ("highest", False))):
        seen = []
        model = stage.build(small.CONFIG)
        model.item.register_forward_hook(lambda *_, seen=seen: seen.append(products()))
        model.item.dense[0].weight.register_hook(lambda _, seen=seen: seen.append(products()))
        settings = small.settings("--precision", precision, "--checkpoints_dir", str(tmp_path))
        trainer = small.trainer(model, settings, stage=stage)
        small.train(trainer, small.Batches([[small.batch()]]))
        assert set(seen) == {expected}
        assert len(seen) > 1  # forward and backward
        trainer.finish(0, lambda seen=seen: seen.append(products()) or 0.5)
        assert seen[-1] == ("highest", False)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("tf32", 1e-3), ("bf16", 1e-2)])
def test_a_step_on_a_gpu_is_that_on_a_cpu_to_within_its_precision(stage, precision, tolerance, tmp_path):
    # Where there is no GPU both are on the CPU, which has no TensorFloat-32.
    config = ModelConfig(region_dim=64, width=32, vocabulary=2000, ff=128, dropout=0.0)
    batch, steps = inputs.draw_batch(config, 16, negatives=stage.kind == "matcher"), []
    for device, name in ((torch.device("cpu"), "float32"), (pick_device([]), precision)):
        torch.manual_seed(0)
        settings = small.settings("--precision", name, "--checkpoints_dir", str(tmp_path))
        trainer = small.trainer(stage.build(config), settings, Process(0, 1, device), stage=stage)
        trainer.step([batch.to(device)])
        losses = torch.stack([loss.cpu() for loss in trainer._progress.losses.values()])
        gradients = [weight.grad.flatten().cpu() for weight in list_trainable(trainer.model)]
        steps.append((losses, torch.cat(gradients)))
    (exact, exact_gradient), (losses, gradient) = steps
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, exact, rtol=tolerance, atol=tolerance)
    assert torch.cosine_similarity(gradient, exact_gradient, dim=0) > 1 - tolerance
    assert precision != "bf16" or not torch.equal(losses, exact)
