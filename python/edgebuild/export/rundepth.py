"""How deep a PyTorch model computes, found by running it: for models that have no ONNX graph to read it from.

The same sum as in ``tolerance``: along the path to an output the lengths of its reductions add up, an elementwise operation counts 1, a
transcendental one 4. Every operator that a run executes is seen with its real shapes, loops with the steps that they really take.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from edgebuild.export.tolerance import UNIT_ROUNDOFF, Depth

_MOVES = re.compile(
    r"view|reshape|_unsafe_view|_reshape_alias|permute|transpose|t|expand|slice|select|cat|stack|clone|copy|"
    r"contiguous|index|gather|where|relu|max_pool1d|max_pool2d|max_pool2d_with_indices|max_pool3d_with_indices|"
    r"embedding|unsqueeze|squeeze|unbind|split|split_with_sizes|chunk|alias|detach|to|_to_copy|masked_fill|"
    r"clamp|clamp_min|clamp_max|maximum|minimum|max|min|amax|amin|topk|sort|lift_fresh|constant_pad_nd|"
    r"reflection_pad1d|reflection_pad2d|replication_pad2d|upsample_nearest1d|upsample_nearest2d|neg|abs|flip|"
    r"roll|as_strided|index_select|scatter|fill|zero|index_put|masked_select|unfold|diagonal|empty_like|"
    r"zeros_like|ones_like|real|imag|view_as_real|view_as_complex|complex|argmax|argmin|nonzero|repeat|tril|"
    r"triu|resolve_conj|resolve_neg"
)
_TRANSCENDENTAL = re.compile(
    r"exp|expm1|log|log2|log10|log1p|sigmoid|tanh|erf|erfc|gelu|softplus|sin|cos|tan|asin|acos|atan|atan2|sinh|"
    r"cosh|asinh|acosh|atanh|pow|elu|selu|celu|mish|silu|hardswish|rsqrt|sqrt|reciprocal|log_sigmoid_forward"
)
_PRODUCTS = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "linear": 0, "matmul": 0, "addmm": 1, "baddbmm": 1, "addmv": 1}
"""Matrix products, with the operand whose last axis is summed over."""

_UNSEEN = Depth(operations=float(1 << 14), dtype="float32")
"""For an output whose operators could not be seen: a tolerance of 1.2e-4 of its magnitude in float32."""

Mark = tuple[float, str]


def measured_depths(run: Callable[[], Sequence[Any]]) -> list[Depth]:
    """The Depth of each tensor that ``run`` returns; ``run`` calls the model once."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    known: dict[int, Mark] = {}

    class Watcher(TorchDispatchMode):  # type: ignore[misc]  # torch is untyped here
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            taken = _tensors(tree_leaves((args, kwargs)))
            given = _tensors(tree_leaves(result))
            operations, dtype = 0.0, "float64"
            for tensor in taken:
                before, theirs = known.get(_memory(tensor), (0.0, _float_dtype(tensor)))
                operations, dtype = max(operations, before), _coarser(dtype, theirs)
            name = func.__name__.partition(".")[0].rstrip("_")
            length = _length(name, taken, given, args) if given else 0.0
            shared = {_memory(tensor) for tensor in taken}
            for tensor in given:
                kind = _coarser(dtype, _float_dtype(tensor))
                # Engines accumulate 16-bit floats in 32 bits: a reduction rounds once.
                step = min(length, 1.0) if kind in ("float16", "bfloat16") else length
                mark = (operations + step, kind)
                place = _memory(tensor)
                if (
                    place in shared and place in known
                ):  # a view, or written in place: the rest of it keeps its own depth
                    mark = (max(mark[0], known[place][0]), mark[1])
                known[place] = mark
            return result

    try:
        with Watcher():
            outputs = list(run())
    except Exception:  # some models can't run under a dispatch mode, and run well without
        outputs = list(run())
        known.clear()
    depths = []
    for tensor in outputs:
        mark = known.get(_memory(tensor))
        unseen = Depth(operations=_UNSEEN.operations, dtype=_coarser("float32", _float_dtype(tensor)))
        depths.append(unseen if mark is None else Depth(operations=mark[0], dtype=mark[1]))
    return depths


def _tensors(leaves: Sequence[Any]) -> list[Any]:
    import torch

    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _memory(tensor: Any) -> int:
    """What tells tensors apart that share no memory; a freed block's number comes back with its next owner, who marks it anew."""
    try:
        return int(tensor.untyped_storage().data_ptr())
    except (RuntimeError, NotImplementedError):  # sparse and opaque layouts have none
        return id(tensor)


def _float_dtype(tensor: Any) -> str:
    name = str(tensor.dtype).removeprefix("torch.")
    name = {"complex64": "float32", "complex128": "float64"}.get(name, name)
    return name if name in UNIT_ROUNDOFF else "float64"


def _coarser(left: str, right: str) -> str:
    return max((left, right), key=lambda name: UNIT_ROUNDOFF[name])


def _length(name: str, taken: Sequence[Any], given: Sequence[Any], args: Sequence[Any]) -> float:
    """The reduction length of one operator."""
    if _MOVES.fullmatch(name) or not taken:
        return 0.0
    if _TRANSCENDENTAL.fullmatch(name):
        return 4.0
    first = taken[0]
    if "convolution" in name or name.startswith(("conv", "mkldnn_conv")):
        weight = taken[1]
        transposed = "transpose" in name or (len(args) > 6 and args[6] is True)
        return float(weight.numel() / max(weight.shape[1 if transposed else 0], 1))
    if name in _PRODUCTS:
        operand = taken[min(_PRODUCTS[name], len(taken) - 1)]
        return float(operand.shape[-1]) if operand.ndim else 1.0
    if "softmax" in name or name in ("cumsum", "cumprod", "logsumexp"):
        axis = next((a for a in args[1:] if isinstance(a, int) and not isinstance(a, bool)), -1)
        return float(first.shape[axis]) if first.ndim else 1.0
    if "layer_norm" in name or "group_norm" in name or "instance_norm" in name:
        return float(first.numel() / max(first.shape[0], 1))
    if "attention" in name:
        return float(sum(tensor.shape[-1] + tensor.shape[-2] for tensor in taken[:2] if tensor.ndim > 1))
    if "rnn" in name or "lstm" in name or "gru" in name:
        steps = max(first.shape[:2], default=1)
        return float(steps) * (16.0 + max((tensor.shape[-1] for tensor in taken[1:] if tensor.ndim), default=16))
    if name.startswith(("upsample", "grid_sampler", "_upsample")):
        return float(max((*first.shape[2:], 4))) ** 2
    if "fft" in name:
        return 4.0 * math.log2(max(first.numel(), 2))
    if name.startswith(("linalg", "_linalg", "cholesky", "triangular")):
        return float(max((*first.shape[-2:], 1))) ** 2
    largest = max(tensor.numel() for tensor in taken)
    smallest = min((tensor.numel() for tensor in given), default=0)
    return max(largest / smallest, 1.0) if smallest else 1.0
