"""What a training step at the published size has to hold, computed: the least memory that a GPU needs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks import inputs, jobs
from kddcup.config import ModelConfig
from kddcup.nn.words import list_trainable
from kddcup.stages import Stage

NUMBER = 4
"""Bytes of a float32."""
TRAINED = 3
"""Numbers beside each trained parameter: its gradient and Adam's two moments."""


@dataclass
class Memory:
    """A line of the table: bytes of what is ``fixed``, and of the ``activations`` of a step."""

    stage: str
    batch: int
    parameters: int
    trained: int
    fixed: int
    activations: int


def compute_memory(stage: Stage) -> Memory:
    """Compute what a step of a stage holds, at the published size and batch, in float32."""
    config, rows = ModelConfig(), stage.recipes["full"].batch_size
    model = jobs.build_model(stage.name, config, plain=False).train()
    batch = inputs.draw_batch(config, rows, negatives=stage.kind == "matcher")
    activations = count_activations(model, lambda: sum(jobs.LOSSES[stage.name](model(batch), batch).values()))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in list_trainable(model))
    fixed = NUMBER * (parameters + TRAINED * trained)
    return Memory(stage.name, rows, parameters, trained, fixed, activations)


def count_activations(model: nn.Module, compute_loss: Callable[[], Tensor]) -> int:
    """Count the bytes that a step keeps for its backward pass, the model's parameters aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # which also keeps its address from being used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        compute_loss()
    return sum(storage.nbytes() for storage in kept.values())
