"""How exactly a GPU computes the products of float32 matrices."""

import contextlib
from collections.abc import Iterator

import torch


def set_tf32(allowed: bool) -> None:
    """Say whether float32 products may be computed in TensorFloat-32, whose factors have 11 significant bits.

    PyTorch itself allows it to cuDNN's layers, a GRU's among them, and not to other products.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Within the block TensorFloat-32 may be used, if ``allowed``; after it, it may not."""
    set_tf32(allowed)
    try:
        yield
    finally:
        set_tf32(False)
