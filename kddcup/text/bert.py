"""The vocabulary and the input embeddings of a BERT."""

from pathlib import Path
from typing import Any

import numpy as np

from kddcup.io.errors import UserError
from kddcup.io.tensors import check_weights, read_safetensors, read_tensors
from kddcup.text.vocabulary import Vocabulary, WordVectors

MAX_WORDS, MAX_WIDTH = 1 << 20, 1 << 14
"""The bounds of V and E; the largest vocabularies have 250,000 words, the widest vectors 4,096 numbers."""
ADVICE = "get BERT's weights again"


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
    count, width = words.vectors.shape
    if count > MAX_WORDS or not 0 < width <= MAX_WIDTH:
        raise UserError(f"{folder} has word vectors [{count}, {width}], which no BERT has: {ADVICE}")
    if count < len(vocabulary):
        raise UserError(f"{folder}: {len(vocabulary)} tokens but {count} word vectors")
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
    own_names = (
        ("word_embeddings.weight",),
        ("LayerNorm.weight", "LayerNorm.gamma"),
        ("LayerNorm.bias", "LayerNorm.beta"),
    )
    keys = [
        [f"{prefix}embeddings.{name}" for name in names for prefix in ("", "bert.")] for names in own_names
    ]
    wanted = {key for names in keys for key in names}
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= read_safetensors(path, ADVICE, wanted)[0]
    if not found:
        for path in sorted(folder.glob("*.bin")):
            content = read_tensors(path, ADVICE)
            if not isinstance(content, dict):
                raise UserError(f"{path} is not a state dict: {ADVICE}")
            found |= {key: value for key, value in content.items() if key in wanted}
    arrays = []
    for names in keys:
        here = [found[name] for name in names if name in found]
        if not here:
            raise UserError(
                f"{folder} has no {names[0]} in a .safetensors or .bin file: name one with BERT's weights"
            )
        try:
            check_weights(here[0])
        except ValueError as error:
            raise UserError(f"{names[0]} of {folder} {error}: {ADVICE}") from None
        arrays.append(here[0].detach().float().numpy())
    return arrays
