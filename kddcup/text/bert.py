"""The vocabulary and the input embeddings of a BERT."""

from pathlib import Path

import numpy as np
import torch

from kddcup.io.errors import UserError
from kddcup.io.tensors import read_tensors
from kddcup.text.vocabulary import Vocabulary, WordVectors


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
