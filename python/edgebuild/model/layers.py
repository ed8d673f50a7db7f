"""What each TorchScript operator asks of its operands, and how it moves axes. One table entry an operator."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgebuild.model import demand as d
from edgebuild.model.demand import Carry, Demand
from edgebuild.model.equations import einsum, stft
from edgebuild.model.operators import BINARY, COMPARING, REDUCING, RETYPED, SAME, SPATIAL
from edgebuild.model.values import dtype_name

if TYPE_CHECKING:
    from edgebuild.model.graphfacts import GraphReader


@dataclass(frozen=True, kw_only=True)
class Use:
    """One use of a value: it is operand ``index`` of ``node``; ``inside``: which item of a container is meant."""

    reader: "GraphReader"
    node: Any
    kind: str
    inputs: list[Any]
    index: int
    inside: tuple[str, ...]

    def constant(self, position: int, default: Any = None) -> Any:
        """The constant at an operand's position; ``default`` if it is computed or absent."""
        if position >= len(self.inputs) or not self.reader.known(self.inputs[position]):
            return default
        return self.reader.constant(self.inputs[position])

    def weight(self, position: int) -> Any:
        """The tensor at an operand's position if it is a parameter or a constant, else None."""
        value = self.constant(position)
        return value if hasattr(value, "shape") and hasattr(value, "dtype") else None

    def label(self, position: int) -> str:
        return self.reader.label(self.inputs[position])


def _features(use: Use, position: int, axis: int, size: int, **more: Any) -> Demand:
    weight = use.weight(position)
    dtype = dtype_name(weight.dtype) if weight is not None and weight.is_floating_point() else None
    return Demand(sizes={axis: size}, dtype=dtype, reason=use.label(position), **more)


def demands(use: Use) -> Iterator[Demand]:
    """What ``use.node`` asks of the operand. Axis roles are "batch", "sequence", "space", "length", "waveform"."""
    kind = use.kind.removeprefix("aten::")
    if kind in _HANDLERS:
        yield from _HANDLERS[kind](use)
    elif kind in ("size", "dim", "unsqueeze", "select", "slice", "transpose", "permute", "softmax", "cat", "flatten"):
        yield from _rank(use, kind)
    elif kind in ("logical_not", "bitwise_not", "__and__", "__or__", "logical_and", "logical_or"):
        yield Demand(dtype="bool", reason=f"operand of {kind}", weak=True)
    elif kind in BINARY_NAMES:
        other = use.weight(1 - use.index) if use.index < 2 else None
        if other is not None and other.ndim:
            yield _broadcast(use, other, 1 - use.index)


BINARY_NAMES = {name.removeprefix("aten::") for name in BINARY}


def _broadcast(use: Use, other: Any, position: int) -> Demand:
    sizes = {i - other.ndim: n for i, n in enumerate(other.shape) if n > 1}
    dtype = dtype_name(other.dtype) if other.is_floating_point() else None
    return Demand(sizes=sizes, min_rank=other.ndim, dtype=dtype, reason=f"operand {use.label(position)}", weak=True)


def _rank(use: Use, kind: str) -> Iterator[Demand]:
    if use.index != 0:
        return
    if kind == "size" and len(use.inputs) == 1:
        for user in use.node.output().uses():
            if user.user.kind() == "prim::ListUnpack":
                yield Demand(rank=user.user.outputsSize(), reason="the shape is unpacked", weak=True)
        return
    if kind == "permute":
        order = use.constant(1)
        if isinstance(order, list):
            yield Demand(rank=len(order), reason="permute", weak=True)
        return
    axes = [use.constant(i) for i in ((1, 2) if kind in ("transpose", "flatten") else (1,))]
    numbers = [a + 1 if a >= 0 else -a for a in axes if isinstance(a, int) and not isinstance(a, bool)]
    if numbers:
        yield Demand(min_rank=max(numbers) + (1 if kind == "flatten" and numbers[0] > 1 else 0), weak=True)


def _conv(use: Use) -> Iterator[Demand]:
    weight = use.weight(1)
    if use.index or weight is None:
        return
    transposed = use.kind == "aten::_convolution" and use.constant(6) is True
    transposed = transposed or "transpose" in use.kind
    groups_at = {"aten::_convolution": 8, "aten::convolution": 8}.get(use.kind, 7 if transposed else 6)
    groups = use.constant(groups_at, 1)
    groups = groups if isinstance(groups, int) else 1
    rank = weight.ndim
    channels = weight.shape[0] if transposed else weight.shape[1] * groups
    roles = {0: "batch", **dict.fromkeys(range(2, rank), "space" if rank > 3 else "length")}
    if rank == 5:
        roles[2] = "depth"
    yield Demand(
        rank=rank,
        sizes={1: channels},
        roles=roles,
        dtype=dtype_name(weight.dtype),
        reason=f"channels from {use.label(1)}",
    )


def _linear(use: Use) -> Iterator[Demand]:
    weight = use.weight(1)
    if use.index == 0 and weight is not None:
        yield _features(use, 1, -1, weight.shape[-1])


def _bilinear(use: Use) -> Iterator[Demand]:
    weight = use.weight(2)
    if use.index < 2 and weight is not None:
        yield _features(use, 2, -1, int(weight.shape[1 + use.index]))


def _matmul(use: Use) -> Iterator[Demand]:
    if use.kind in ("aten::addmm", "aten::baddbmm"):
        if use.index == 1 and use.weight(2) is not None:
            yield _features(use, 2, -1, use.weight(2).shape[-2], rank=2).ranked(2)
        return
    other = use.weight(1 - use.index) if use.index < 2 else None
    if other is None:
        return
    if use.index == 0:
        yield _features(use, 1, -1, other.shape[-2] if other.ndim > 1 else other.shape[0])
    elif other.ndim > 1:
        yield _features(use, 0, -2, other.shape[-1], min_rank=2)


def _recurrent(use: Use) -> Iterator[Demand]:
    packed = use.constant(1) is None and use.constant(3) is not None and isinstance(use.constant(3), list)
    weights = use.constant(3 if packed else 2)
    if not isinstance(weights, list) or not weights:
        return
    batch_first = not packed and use.constant(8) is True
    dtype = dtype_name(weights[0].dtype)
    if use.index == 0:
        sizes, roles = {2: int(weights[0].shape[1])}, {0: "sequence", 1: "batch"}
        if batch_first:
            roles = {0: "batch", 1: "sequence"}
        if packed:  # the packed form of a padded batch: the layout is that of pack_padded_sequence
            yield Demand(sizes={-1: sizes[2]}, dtype=dtype, reason="input_size of the recurrent layer")
            return
        yield Demand(rank=3, sizes=sizes, roles=roles, dtype=dtype, reason="input_size of the recurrent layer")
        return
    if use.index != (2 if packed else 1):
        return
    layers = use.constant(5 if packed else 4, 1)
    both = 2 if use.constant(8 if packed else 7) is True else 1
    hidden = int(weights[1].shape[1])
    if use.inside and use.inside[0] == "1" and use.kind == "aten::lstm":
        hidden = int(weights[1].shape[0]) // 4  # the cell; with a projection it is wider than the hidden state
    yield Demand(
        rank=3,
        sizes={0: layers * both, 2: hidden},
        roles={1: "batch"},
        dtype=dtype,
        reason="state of the recurrent layer",
    )


def _cell(use: Use) -> Iterator[Demand]:
    weight = use.weight(2 if use.index == 0 else 3)
    if use.index < 2 and weight is not None:
        yield Demand(
            rank=2,
            sizes={1: int(weight.shape[1])},
            roles={0: "batch"},
            dtype=dtype_name(weight.dtype),
            reason=use.label(2 + use.index),
        )


def _embedding(use: Use) -> Iterator[Demand]:
    weight = use.weight(0)
    if use.index == 1 and weight is not None:
        reason = f"{weight.shape[0]} rows of {use.label(0)}"
        roles = {}
        if use.kind == "aten::embedding_bag":
            flat = use.constant(2, use) is not None  # with offsets, bags lie behind each other
            roles = {0: "sequence"} if flat else {0: "batch", 1: "sequence"}
            yield Demand(rank=len(roles), dtype="int64", limit=int(weight.shape[0]), roles=roles, reason=reason)
            return
        yield Demand(dtype="int64", limit=int(weight.shape[0]), roles=roles, reason=reason)
    elif use.kind == "aten::embedding_bag" and use.index == 2:
        yield Demand(rank=1, dtype="int64", limit=1, reason="offsets of embedding_bag")


def _index(use: Use) -> Iterator[Demand]:
    kind = use.kind.removeprefix("aten::")
    if kind in ("index", "index_put") and use.index == 1 and use.inside:
        table = use.weight(0)
        axis = int(use.inside[0])
        limit = int(table.shape[axis]) if table is not None else None
        yield Demand(dtype="int64", limit=limit, reason=f"index into {use.label(0)}")
    elif kind in ("gather", "index_select", "take_along_dim", "scatter", "index_add") and use.index == 2:
        table, axis = use.weight(0), use.constant(1)
        limit = int(table.shape[axis]) if table is not None and isinstance(axis, int) else None
        yield Demand(
            rank=1 if kind in ("index_select", "index_add") else None,
            dtype="int64",
            limit=limit,
            reason=f"index of {kind}",
        )
    elif kind == "one_hot" and use.index == 0:
        classes = use.constant(1)
        limit = classes if isinstance(classes, int) and classes > 0 else None
        yield Demand(dtype="int64", limit=limit, reason="classes of one_hot")
    elif kind == "bincount" and use.index == 0:
        yield Demand(rank=1, dtype="int64", reason="bincount")


def _mask(use: Use) -> Iterator[Demand]:
    kind = use.kind.removeprefix("aten::")
    at = 0 if kind == "where" else 1
    if use.index == at:
        yield Demand(dtype="bool", reason=f"mask of {kind}", weak=True)


def _norm(use: Use) -> Iterator[Demand]:
    if use.index:
        return
    kind = use.kind.removeprefix("aten::")
    if kind in ("layer_norm", "native_layer_norm", "rms_norm"):
        shape = use.constant(1)
        weight = use.weight(2)
        if isinstance(shape, list) and all(isinstance(n, int) for n in shape):
            dtype = dtype_name(weight.dtype) if weight is not None else None
            sizes = {i - len(shape): n for i, n in enumerate(shape)}
            yield Demand(sizes=sizes, min_rank=len(shape), dtype=dtype, reason="the normalised shape of a layer norm")
        return
    if kind == "group_norm":
        weight = use.weight(2)
    else:
        weight = next((w for w in (use.weight(i) for i in (1, 2, 3)) if w is not None), None)
    if weight is not None:
        yield Demand(
            sizes={1: int(weight.shape[0])},
            min_rank=2,
            roles={0: "batch"},
            dtype=dtype_name(weight.dtype) if kind == "group_norm" else None,
            reason=f"features of {kind}",
            weak=True,
        )


def _transformer(use: Use) -> Iterator[Demand]:
    kind = use.kind.removeprefix("aten::")
    width = use.constant(1 if kind == "_transformer_encoder_layer_fwd" else 3)
    if use.index < (1 if kind == "_transformer_encoder_layer_fwd" else 3) and isinstance(width, int):
        roles = {0: "batch", 1: "sequence"}
        yield Demand(rank=3, sizes={2: width}, roles=roles, dtype="float32", reason="width of the attention")


def _packing(use: Use) -> Iterator[Demand]:
    first = use.constant(2) is True
    if use.index == 0:
        yield Demand(min_rank=2, roles={0: "batch", 1: "sequence"} if first else {0: "sequence", 1: "batch"}, weak=True)
    elif use.index == 1:
        yield Demand(rank=1, roles={0: "batch"}, dtype="int64", reason="lengths of pack_padded_sequence")


_HANDLERS = {
    "stft": stft,
    "einsum": einsum,
    **dict.fromkeys(["conv1d", "conv2d", "conv3d", "_convolution", "convolution"], _conv),
    **dict.fromkeys(["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"], _conv),
    "linear": _linear,
    "bilinear": _bilinear,
    **dict.fromkeys(["matmul", "mm", "bmm", "addmm", "mv"], _matmul),
    **dict.fromkeys(["lstm", "gru", "rnn_tanh", "rnn_relu"], _recurrent),
    **dict.fromkeys(["lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"], _cell),
    **dict.fromkeys(["embedding", "embedding_bag"], _embedding),
    **dict.fromkeys(["index", "index_put", "gather", "index_select", "take_along_dim", "scatter", "index_add"], _index),
    **dict.fromkeys(["one_hot", "bincount"], _index),
    **dict.fromkeys(["masked_fill", "masked_fill_", "where", "masked_select"], _mask),
    **dict.fromkeys(
        ["layer_norm", "native_layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm"], _norm
    ),
    **dict.fromkeys(["_transformer_encoder_layer_fwd", "_native_multi_head_attention"], _transformer),
    "_pack_padded_sequence": _packing,
}


def carries(use: Use) -> Iterator[tuple[int, tuple[Carry, tuple[str, ...]]]]:
    """Where the operand's data goes on: output position, how axes move, item of a container."""
    carry = _carry(use)
    if carry is not None:
        yield 0, (carry, ())
    if use.kind in ("aten::chunk", "aten::split", "aten::unbind", "aten::tensor_split") and use.index == 0:
        axis = use.constant(1 if use.kind == "aten::unbind" else 2, 0)
        count = use.constant(1) if use.kind == "aten::chunk" else None
        if isinstance(axis, int):
            inner = d.removed(axis, _unpacked(use)) if use.kind == "aten::unbind" else d.resized(axis, count)
            yield 0, (inner, ("0",))


def _unpacked(use: Use) -> int | None:
    """Into how many variables the result, a list, is taken apart."""
    users = [user.user for user in use.node.output().uses()]
    return next((user.outputsSize() for user in users if user.kind() == "prim::ListUnpack"), None)


def _carry(use: Use) -> Carry | None:
    kind = use.kind
    name = kind.removeprefix("aten::")
    if kind == "aten::_pack_padded_sequence" and use.index == 0:
        return d.same
    if kind in ("aten::cat", "aten::concat", "aten::stack") and use.index == 0:
        axis = use.constant(1, 0)
        if not isinstance(axis, int):
            return None
        return d.stacked(axis) if name == "stack" else d.joined
    if kind == "aten::embedding" and use.index == 1:
        return d.looked_up
    if use.index != 0 and kind not in BINARY:
        return None
    if kind in ("aten::linear", "aten::layer_norm"):
        return d.projected
    condition = kind == "aten::where" and use.index == 0  # its shape is the result's, its element type its own
    if kind in RETYPED or kind in COMPARING or condition:
        return d.retyped
    if name in ("div", "div_", "mul", "mul_") and use.index == 0 and _is_byte_scale(use.constant(1), name):
        return d.scaled
    if kind in SAME or kind in BINARY:
        return d.same
    if kind in SPATIAL:
        return d.unspaced
    if kind in REDUCING:
        return _reduction(use)
    if name in ("flatten", "view", "reshape", "_unsafe_view", "unflatten"):
        return d.flattened
    one, two = use.constant(1), use.constant(2)
    if name in ("transpose", "swapaxes", "transpose_") and isinstance(one, int) and isinstance(two, int):
        return d.transposed(one, two)
    if name == "t" or name == "numpy_T":
        return d.permuted([1, 0])
    if name in ("permute",) and isinstance(one, list):
        return d.permuted(one)
    if name in ("unsqueeze", "unsqueeze_") and isinstance(one, int):
        return d.inserted(one)
    if name == "squeeze" and isinstance(one, int):
        return d.removed(one, 1)
    if name == "select" and isinstance(one, int):
        return d.removed(one, None, (two + 1 if two >= 0 else -two) if isinstance(two, int) else 1)
    if name in ("slice", "narrow") and isinstance(one, int):
        end = use.constant(3)
        bound = end if isinstance(end, int) and 0 < end < 2**31 else 1
        whole = two in (0, None) and (end is None or (isinstance(end, int) and end > 2**31)) and use.constant(4, 1) == 1
        return d.same if whole else d.resized(one, None, bound)
    return None


def _is_byte_scale(value: Any, name: str) -> bool:
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        return False
    return abs((number if name.startswith("div") else 1 / number if number else 0.0) - 255) < 1


def _reduction(use: Use) -> Carry | None:
    axes, keep = use.constant(1), use.constant(2)
    if isinstance(axes, int) and not isinstance(axes, bool):
        axes = [axes]
    if not isinstance(axes, list) or not all(isinstance(a, int) for a in axes):
        return None
    if keep is True:
        return d.unspaced if len(axes) > 1 else d.resized(axes[0], None)
    chain = [d.removed(axis, None) for axis in sorted(axes, key=lambda a: (a < 0, a if a >= 0 else -a))]

    def carry(demand: Demand) -> Demand | None:
        current: Demand | None = demand
        for inner in chain:
            current = inner(current) if current is not None else None
        return current

    return carry


def square_side(features: int) -> tuple[int, int] | None:
    """``(channels, side)`` if ``features`` are those of a square image with 1 or 3 channels."""
    for channels in (1, 3):
        side = math.isqrt(features // channels) if features % channels == 0 else 0
        if side >= 4 and side * side * channels == features:
            return channels, side
    return None
