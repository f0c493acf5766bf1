"""Networks of other people: their files are found, summed and loaded without running what is in them."""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kddcup.io.errors import UserError, explain_error
from kddcup.io.tensors import read_tensors

LIBRARIES = ("timm", "torchvision")
"""Libraries that transformers can do without, and that are not installed here."""


def sum_files(paths: Iterable[Path]) -> str:
    """The SHA-256 of files' contents, one after the other."""
    found = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    return found.hexdigest()


def find_folder(name: str) -> Path:
    """The folder of a network: ``name`` itself, or what the hub gives for it.

    Raises:
        UserError: there is no such folder, and the hub does not give it.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        settings = ["config.json", "preprocessor_config.json"]
        folder = Path(snapshot_download(name, allow_patterns=[*settings, "model*.safetensors*"]))
        if not list_weights(folder):
            folder = Path(snapshot_download(name, allow_patterns=[*settings, "pytorch_model.bin"]))
    except Exception as error:  # of a name that is none, of the network, of the hub
        raise UserError(
            f"{name}: no such folder, and the hub does not give it ({explain_error(error)}): name a folder "
            "as transformers saves it, with config.json"
        ) from None
    return folder


def list_weights(folder: Path) -> list[Path]:
    """The files of a network's weights in a folder: safetensors, or else torch's."""
    return sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model.bin"))


def load_network(auto_class: Any, folder: Path) -> nn.Module:
    """Build a network of transformers with the weights in its folder, in float32 and in eval mode.

    Args:
        auto_class: ``AutoModel``, or one of its kind.
        folder: with ``config.json`` and weights.

    Raises:
        UserError: it cannot be loaded, has not all of its weights, or needs a library that is not installed.
    """
    weights = list_weights(folder)
    if not weights:
        raise UserError(f"{folder} has neither model.safetensors nor pytorch_model.bin: get its weights")
    state = read_tensors(weights[0], "get its weights again") if weights[0].suffix == ".bin" else None
    with explain_failure(folder):
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        options = {"config": config, "dtype": torch.float32, "output_loading_info": True}
        if state is None:
            network, info = auto_class.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False, **options
            )
        else:
            network_class = type(auto_class.from_config(config, trust_remote_code=False))
            network, info = network_class.from_pretrained(None, state_dict=state, **options)
    # A classifier's checkpoint has no pooler, and no map needs one.
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)
    if missing:
        raise UserError(
            f"{folder} lacks {missing[0]} and {len(missing) - 1} more weights of {type(network).__name__}: "
            "get its weights again"
        )
    return network.eval()


@contextlib.contextmanager
def explain_failure(folder: Path) -> Iterator[None]:
    """Turn what transformers raises while it reads a folder into one line; it is silent meanwhile."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # what is wrong with a network shows itself in many ways
        needed = [name for name in LIBRARIES if f"`{name}`" in str(error) or f" {name} library" in str(error)]
        if isinstance(error, ImportError) and needed:
            raise UserError(
                f"{folder} needs {needed[0]}, which this project does without: name a network that does, as "
                "RT-DETR, D-FINE or YOLOS do"
            ) from None
        raise UserError(
            f"{folder} is not a network that transformers can load ({explain_error(error)}): "
            "name another folder"
        ) from None
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
