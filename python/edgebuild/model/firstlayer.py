"""Facts about the inputs of a module whose graph can't be read: what its first layer with weights asks for."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgebuild.model.demand import Demand
from edgebuild.model.graphfacts import Facts
from edgebuild.model.values import dtype_name


def facts(module: Any, paths: Sequence[str]) -> Mapping[str, Facts]:
    """The first layers in registration order are given to the inputs in order; with one input that is nearly always right."""
    layers = [demand for name, part in module.named_modules() if (demand := _demand(name, part)) is not None]
    found = {path: Facts(used=True) for path in paths}
    for path, demand in zip(paths, layers, strict=False):
        found[path].demands.append(demand)
    return found


def _demand(name: str, part: Any) -> Demand | None:
    from torch import nn

    label = f"{name}.weight" if name else "weight"
    if isinstance(
        part, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
    ):
        rank = part.weight.ndim
        roles = {0: "batch", **dict.fromkeys(range(2, rank), "space" if rank > 3 else "length")}
        if rank == 5:
            roles[2] = "depth"
        return Demand(
            rank=rank,
            sizes={1: part.in_channels},
            roles=roles,
            dtype=dtype_name(part.weight.dtype),
            reason=f"channels from {label}",
        )
    if isinstance(part, nn.Linear):
        return Demand(sizes={-1: part.in_features}, dtype=dtype_name(part.weight.dtype), reason=label)
    if isinstance(part, nn.Embedding | nn.EmbeddingBag):
        rows = part.num_embeddings
        return Demand(dtype="int64", limit=rows, reason=f"{rows} rows of {label}")
    if isinstance(part, nn.LSTM | nn.GRU | nn.RNN):
        roles = {0: "batch", 1: "sequence"} if part.batch_first else {0: "sequence", 1: "batch"}
        dtype = dtype_name(part.weight_ih_l0.dtype)
        return Demand(
            rank=3, sizes={2: part.input_size}, roles=roles, dtype=dtype, reason=f"input_size of {name or 'the layer'}"
        )
    if isinstance(part, nn.MultiheadAttention):
        roles = {0: "batch", 1: "sequence"} if part.batch_first else {0: "sequence", 1: "batch"}
        return Demand(rank=3, sizes={2: part.embed_dim}, roles=roles, dtype="float32", reason=f"width of {name}")
    return None
