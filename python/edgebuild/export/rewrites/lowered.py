"""Operators that ONNX exporters lack, written with operators that all of them know; exact up to rounding.

Each function takes what the ATen operator takes. ``LOWERED`` is used by the TorchScript interpreter, ``lower_program`` on
a program that torch.export made.
"""

import math
import struct
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F


def pooling_bins(size: int, bins: int) -> list[tuple[int, int]]:
    """(start, end) of each bin of adaptive pooling: floor(i * size / bins) to ceil((i + 1) * size / bins)."""
    return [(i * size // bins, -((i + 1) * size // -bins)) for i in range(bins)]


def _fixed(size: Any, what: str) -> int:
    if not isinstance(size, int):
        message = f"{what} over a dynamic axis: its size must be known at build"
        raise NotImplementedError(message)
    return size


def _adaptive(x: torch.Tensor, output_size: Sequence[int | None], rank: int) -> list[tuple[int, int, int]]:
    """(axis, size, bins) of each pooled axis."""
    axes = range(x.dim() - rank, x.dim())
    sizes = [x.shape[axis] for axis in axes]
    wanted: list[Any] = list(output_size) if isinstance(output_size, (list, tuple)) else [output_size] * rank
    found = []
    for axis, size, bins in zip(axes, sizes, wanted, strict=True):
        if bins is None or bins == 1:
            found.append((axis, size, 1 if bins == 1 else size))
        else:
            found.append((axis, _fixed(size, "adaptive pooling"), int(bins)))
    return found


def adaptive_avg_pool(x: torch.Tensor, output_size: Sequence[int], rank: int) -> torch.Tensor:
    """Adaptive average pooling over the last ``rank`` axes of ``(N, C, ...)``.

    Where the bins are equal, a reshape and a mean; else a product with a constant ``(size, bins)`` matrix of bin weights.
    """
    for axis, size, bins in _adaptive(x, output_size, rank):
        if bins == size:
            continue
        if bins == 1:
            x = x.mean(dim=axis, keepdim=True)
        elif size % bins == 0:
            x = x.unflatten(axis, (bins, size // bins)).mean(dim=axis + 1)
        else:
            weights = [[0.0] * bins for _ in range(size)]
            for number, (start, end) in enumerate(pooling_bins(size, bins)):
                for position in range(start, end):
                    weights[position][number] = 1.0 / (end - start)
            matrix = torch.tensor(weights, dtype=x.dtype)
            x = torch.matmul(x.transpose(axis, -1), matrix).transpose(axis, -1)
    return x


def adaptive_max_pool(x: torch.Tensor, output_size: Sequence[int], rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Adaptive max pooling over the last ``rank`` axes, and the flat positions of the maxima as ATen gives them."""
    axes = _adaptive(x, output_size, rank)
    offsets: torch.Tensor | None = None
    for axis, size, bins in axes:
        spans = [(0, size)] if bins == 1 else pooling_bins(int(size), bins)
        parts, places = [], []
        for start, end in spans:
            top, at = x.narrow(axis, start, end - start).max(dim=axis, keepdim=True)
            place = at + start
            if (
                offsets is not None
            ):  # an axis that was pooled before is slower: its positions count in steps of this size
                place = place + offsets.narrow(axis, start, end - start).gather(axis, at) * size
            parts.append(top)
            places.append(place)
        x = torch.cat(parts, dim=axis)
        offsets = torch.cat(places, dim=axis)
    assert offsets is not None
    return x, offsets


def _split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.unflatten(-1, (heads, x.shape[-1] // heads)).transpose(1, 2)


def _attention_mask(mask: torch.Tensor | None, kind: int | None, query: torch.Tensor, keys: int) -> torch.Tensor | None:
    """An additive mask that broadcasts over ``(N, heads, L, S)``; ``kind`` 0: (L, S), 1: padding (N, S), 2: (N, heads, L, S)."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=query.dtype).masked_fill(mask, float("-inf"))
    if kind == 1 and mask.dim() == 2:
        return mask.reshape(mask.shape[0], 1, 1, keys)
    return mask


def native_multi_head_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, embed_dim: int, num_heads: int, qkv_weight: torch.Tensor,
    qkv_bias: torch.Tensor, proj_weight: torch.Tensor, proj_bias: torch.Tensor, mask: torch.Tensor | None = None,
    need_weights: bool = True, average_attn_weights: bool = True, mask_type: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """``aten::_native_multi_head_attention`` on batch-first ``(N, L, E)``: projections, scaled products, softmax."""
    if query is key and key is value:
        q, k, v = F.linear(query, qkv_weight, qkv_bias).chunk(3, dim=-1)
    else:
        weights, biases = qkv_weight.chunk(3), qkv_bias.chunk(3)
        q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
    q, k, v = (_split_heads(x, num_heads) for x in (q, k, v))
    scores = torch.matmul(q * (embed_dim // num_heads) ** -0.5, k.transpose(-2, -1))
    additive = _attention_mask(mask, mask_type, query, key.shape[1])
    if additive is not None:
        scores = scores + additive
    weights_ = torch.softmax(scores, dim=-1)
    attended = torch.matmul(weights_, v).transpose(1, 2).flatten(2)
    projected = F.linear(attended, proj_weight, proj_bias)
    if not need_weights:
        return projected, None
    return projected, weights_.mean(dim=1) if average_attn_weights else weights_


def transformer_encoder_layer(
    src: torch.Tensor, embed_dim: int, num_heads: int, qkv_weight: torch.Tensor, qkv_bias: torch.Tensor,
    proj_weight: torch.Tensor, proj_bias: torch.Tensor, use_gelu: bool, norm_first: bool, eps: float,
    norm_weight_1: torch.Tensor, norm_bias_1: torch.Tensor, norm_weight_2: torch.Tensor, norm_bias_2: torch.Tensor,
    ffn_weight_1: torch.Tensor, ffn_bias_1: torch.Tensor, ffn_weight_2: torch.Tensor, ffn_bias_2: torch.Tensor,
    mask: torch.Tensor | None = None, mask_type: int | None = None,
) -> torch.Tensor:  # fmt: skip
    """``aten::_transformer_encoder_layer_fwd``, what nn.TransformerEncoderLayer runs in eval mode, on ``(N, L, E)``."""

    def attend(x: torch.Tensor) -> torch.Tensor:
        return native_multi_head_attention(
            x, x, x, embed_dim, num_heads, qkv_weight, qkv_bias, proj_weight, proj_bias, mask, False, True, mask_type
        )[0]

    def feed_forward(x: torch.Tensor) -> torch.Tensor:
        hidden = F.linear(x, ffn_weight_1, ffn_bias_1)
        return F.linear(F.gelu(hidden) if use_gelu else F.relu(hidden), ffn_weight_2, ffn_bias_2)

    def norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, [embed_dim], weight, bias, eps)

    if norm_first:
        src = src + attend(norm(src, norm_weight_1, norm_bias_1))
        return src + feed_forward(norm(src, norm_weight_2, norm_bias_2))
    src = norm(src + attend(src), norm_weight_1, norm_bias_1)
    return norm(src + feed_forward(src), norm_weight_2, norm_bias_2)


_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def convolution(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: list[int], padding: list[int],
    dilation: list[int], transposed: bool, output_padding: list[int], groups: int, *_: Any,
) -> torch.Tensor:  # fmt: skip
    """``aten::_convolution``, what a trace records for every convolution; the last flags choose cuDNN's kernels."""
    rank = weight.dim() - 2
    if transposed:
        return _TRANSPOSED[rank](x, weight, bias, stride, padding, output_padding, groups, dilation)
    return _CONVOLUTIONS[rank](x, weight, bias, stride, padding, dilation, groups)


def convolution_mode(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: list[int], padding: str,
    dilation: list[int], groups: int,
) -> torch.Tensor:  # fmt: skip
    """``aten::_convolution_mode``: padding "valid" or "same" (what is odd goes behind)."""
    rank = weight.dim() - 2
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation * (rank // len(dilation)), weight.shape[2:], strict=True)]
        x = F.pad(x, [side for amount in reversed(total) for side in (amount // 2, amount - amount // 2)])
    return _CONVOLUTIONS[rank](x, weight, bias, stride, 0, dilation, groups)


def select(x: torch.Tensor, dim: int, index: Any) -> torch.Tensor:
    """``aten::select``; ``index`` may be a 0-d tensor, the step of a scanned loop."""
    if isinstance(index, torch.Tensor):
        return x.index_select(dim, index.reshape(1)).squeeze(dim)
    return torch.ops.aten.select.int(x, dim, index)


def median(x: torch.Tensor, dim: int, keepdim: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """``aten::median.dim``: the lower of the middle elements, by sorting."""
    return kth_value(x, (x.shape[dim] + 1) // 2, dim, keepdim)


def kth_value(x: torch.Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """``aten::kthvalue``: the k-th smallest element, counted from 1, by sorting."""
    values, places = torch.sort(x, dim=dim)
    chosen, where = values.narrow(dim, k - 1, 1), places.narrow(dim, k - 1, 1)
    return (chosen, where) if keepdim else (chosen.squeeze(dim), where.squeeze(dim))


def upsample_nearest_exact(
    x: torch.Tensor, output_size: Sequence[int] | None, scales: Sequence[float] | None
) -> torch.Tensor:
    """``aten::_upsample_nearest_exact``: output i takes input floor((i + 0.5) * scale), by a constant index for each axis."""
    rank = x.dim() - 2
    for number in range(rank):
        axis = number + 2
        size = _fixed(x.shape[axis], "nearest-exact resizing")
        factor = None if scales is None else scales[number]
        bins = int(size * factor) if output_size is None and factor is not None else int(output_size[number])  # type: ignore[index]
        step = 1.0 / factor if factor is not None else size / bins
        # in float32, as ATen computes it
        places = [min(math.floor(_float32(_float32(i + 0.5) * _float32(step))), size - 1) for i in range(bins)]
        x = x.index_select(axis, torch.tensor(places))
    return x


def _float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


def _nearest_exact_scales(x: torch.Tensor, output_size: Any, *scales: Any) -> torch.Tensor:
    """Both overloads: (x, size, scale of each axis) and (x, size or None, list of scales)."""
    if len(scales) == 1 and isinstance(scales[0], (list, tuple)):
        return upsample_nearest_exact(x, output_size, list(scales[0]))
    known = [scale for scale in scales if scale is not None]
    return upsample_nearest_exact(x, output_size, known if len(known) == x.dim() - 2 else None)


def _by_whole_factors(name: str, rank: int) -> Callable[..., torch.Tensor]:
    """``aten::upsample_*``: asked for by whole scale factors, the output's size is said as a product.

    ATen rounds size * 2.0 down to a whole number. For a dynamic size torch.export can't see that this is 2 * size, and so refuses to
    add the result to anything that is.
    """
    operator: Callable[..., torch.Tensor] = getattr(torch.ops.aten, name)

    def resize(x: torch.Tensor, output_size: Any, *rest: Any) -> torch.Tensor:
        factors = rest[-1] if rest else None
        if output_size is not None or not isinstance(factors, (list, tuple)) or len(factors) != rank:
            return operator(x, output_size, *rest)
        if not all(float(factor).is_integer() for factor in factors):
            return operator(x, output_size, *rest)
        size = [x.shape[2 + number] * int(factor) for number, factor in enumerate(factors)]
        return operator(x, size, *rest[:-1], *map(float, factors))

    return resize


def cumulative_product(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """``aten::cumprod``, in log2(size) products: after step k each element is the product of the last 2^k up to it."""
    x = x if dtype is None else x.to(dtype)
    x = (
        x.to(torch.int64)
        if x.dtype in (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32) and dtype is None
        else x
    )
    if x.dim() == 0:
        return x
    size = _fixed(x.shape[dim], "a running product")
    step = 1
    while step < size:
        later = x.narrow(dim, step, size - step) * x.narrow(dim, 0, size - step)
        x = torch.cat([x.narrow(dim, 0, step), later], dim)
        step *= 2
    return x


def pairwise_distance(
    a: torch.Tensor, b: torch.Tensor, p: float = 2.0, compute_mode: int | None = None
) -> torch.Tensor:
    """``aten::cdist`` of ``(..., P, M)`` and ``(..., R, M)`` from differences, as exact as the original for any p."""
    difference = (a.unsqueeze(-2) - b.unsqueeze(-3)).abs()
    if p == 0:
        return (difference != 0).to(a.dtype).sum(-1)
    if p == math.inf:
        return difference.amax(-1)
    if p == 1:
        return difference.sum(-1)
    if p == 2:
        return (difference * difference).sum(-1).sqrt()
    return difference.pow(p).sum(-1).pow(1.0 / p)


LOWERED: dict[str, Callable[..., Any]] = {
    "aten::adaptive_avg_pool1d": lambda x, size: adaptive_avg_pool(x, size, 1),
    "aten::adaptive_avg_pool2d": lambda x, size: adaptive_avg_pool(x, size, 2),
    "aten::adaptive_avg_pool3d": lambda x, size: adaptive_avg_pool(x, size, 3),
    "aten::_adaptive_avg_pool2d": lambda x, size: adaptive_avg_pool(x, size, 2),
    "aten::_adaptive_avg_pool3d": lambda x, size: adaptive_avg_pool(x, size, 3),
    "aten::adaptive_max_pool1d": lambda x, size: adaptive_max_pool(x, size, 1),
    "aten::adaptive_max_pool2d": lambda x, size: adaptive_max_pool(x, size, 2),
    "aten::adaptive_max_pool3d": lambda x, size: adaptive_max_pool(x, size, 3),
    "aten::_convolution": convolution,
    "aten::_convolution_mode": convolution_mode,
    "aten::select": select,
    "aten::median": lambda x, *args: median(x, *args) if args else median(x.flatten(), 0)[0],
    "aten::kthvalue": kth_value,
    "aten::cumprod": cumulative_product,
    "aten::cdist": pairwise_distance,
    "aten::_cdist_forward": pairwise_distance,
    "aten::_upsample_nearest_exact1d": _nearest_exact_scales,
    "aten::_upsample_nearest_exact2d": _nearest_exact_scales,
    "aten::_upsample_nearest_exact3d": _nearest_exact_scales,
    **{
        f"aten::{name}": _by_whole_factors(name, rank)
        for name, rank in (
            ("upsample_nearest1d", 1),
            ("upsample_nearest2d", 2),
            ("upsample_nearest3d", 3),
            ("upsample_linear1d", 1),
            ("upsample_bilinear2d", 2),
            ("upsample_trilinear3d", 3),
            ("upsample_bicubic2d", 2),
        )
    },
    "aten::_native_multi_head_attention": native_multi_head_attention,
    "aten::_transformer_encoder_layer_fwd": transformer_encoder_layer,
}
"""By the operator's name in TorchScript."""


_OF_SCRIPTS = frozenset((select, *(LOWERED[name] for name in LOWERED if name.startswith("aten::upsample_"))))
"""What a program that torch.export made has no need of."""


def lower_program(program: "torch.export.ExportedProgram") -> "torch.export.ExportedProgram":
    """``program`` with the operators of LOWERED written out; the same object if it has none."""
    table = {}
    for node in program.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        lowered = LOWERED.get(node.target._schema.name)
        if lowered is not None and lowered not in _OF_SCRIPTS and not _all_ones(node):
            table[node.target] = lowered
    return program.run_decompositions(table) if table else program


def _all_ones(node: Any) -> bool:
    """Pooling to size 1 is a plain mean, which every exporter knows (and fuses better)."""
    size = node.args[1] if len(node.args) > 1 and "avg_pool" in str(node.target) else None
    return isinstance(size, (list, tuple)) and all(bins == 1 for bins in size)
