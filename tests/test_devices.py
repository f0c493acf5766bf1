"""What matters on a GPU, as far as a CPU can show it."""

import pytest
import torch
from torch import nn

from model1.model import WordImageModel
from model2.model import SentenceImageModel
from multilabel.model import MultiLabelClassifier
from tests import small

START, END = 2, 3
BUILDS = {
    "multilabel": lambda config: MultiLabelClassifier(config, START, END),
    "model1": WordImageModel,
    "model2": SentenceImageModel,
}


@pytest.fixture(params=BUILDS)
def model(request) -> nn.Module:
    torch.manual_seed(0)
    return BUILDS[request.param](small.CONFIG)


def test_no_step_asks_the_device_for_a_value(model):
    # Tensors of the meta device have no values: whoever asks for one fails.
    with pytest.raises(Exception, match="meta"):
        torch.ones(2, device="meta").nonzero()
    model.to("meta")
    sum(model(small.batch().to(torch.device("meta"))).values()).backward()
    assert any(one.grad is not None for one in model.parameters())


def test_bf16_agrees_with_float32(model):
    losses, gradients = [], []
    for precise in (True, False):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
            found = model(small.batch())
        assert all(loss.dtype == torch.float32 for loss in found.values())
        sum(found.values()).backward()
        losses.append(torch.stack(list(found.values())))
        gradients.append(
            torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])
        )
    torch.testing.assert_close(losses[1], losses[0], atol=0.01, rtol=0.01)
    assert not torch.equal(losses[0], losses[1])
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99
