"""Sums that do not fit: pairs of 8-bit products on CPUs that add them in 16 bits.

Before VNNI, x86 multiplies unsigned by signed bytes with an instruction (pmaddubsw) that adds two neighbouring products in 16 bits
and saturates. A machine with VNNI computes the same graph exactly, so nothing that is measured there shows it; here the
instruction is imitated.
"""

import numpy as np
import numpy.typing as npt

from edgebuild.quantize.layers import Layer
from edgebuild.quantize.parameters import Parameters
from edgebuild.quantize.weights import quantize_weight
from edgebuild.targets.spec import QuantizationScheme

_ROWS = 256
"""Positions of the input that are looked at."""

_LIMIT = 2**15 - 1


def may_saturate(scheme: QuantizationScheme, arch: str) -> bool:
    """Whether a scheme's 8-bit weights can meet a CPU that adds pairs in 16 bits."""
    exact = any("vnni" in feature for feature in scheme.cpu_features)
    return (
        arch == "x86_64"
        and not exact
        and not scheme.reduce_range
        and scheme.activation == "uint8"
        and scheme.weight == "int8"
    )


def saturation_noise(
    layer: Layer, data: npt.NDArray[np.float32], parameters: Parameters, scheme: QuantizationScheme
) -> tuple[float, float]:
    """Noise over signal that saturating pairs add to a layer's sums, and the share of pairs that saturate.

    Args:
        layer: A convolution without groups, or a product; others have kernels that widen first: 0.
        data: What it reads, one batch.
        parameters: Of its integers.
        scheme: How weights are quantised.
    """
    weight = layer.weight_array()
    if layer.kind == "conv":
        if weight.ndim != 4 or data.ndim != 4 or weight.shape[1] != data.shape[1]:
            return 0.0, 0.0
        integers = quantize_weight(weight, 0, per_channel=scheme.per_channel).values
        columns = integers.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])  # channels are neighbours
        rows = _patches(_quantized(data, parameters), weight.shape[2], weight.shape[3])
    elif layer.kind == "matmul":
        if layer.transposed:
            weight = np.ascontiguousarray(weight.T)
        columns = quantize_weight(weight, 1, per_channel=scheme.per_channel).values
        rows = _quantized(data, parameters).reshape(-1, data.shape[-1])
        if rows.shape[1] != columns.shape[0]:
            return 0.0, 0.0
    else:
        return 0.0, 0.0
    rows = rows[:: max(1, len(rows) // _ROWS)][:_ROWS]
    if rows.shape[1] % 2:
        rows = np.pad(rows, ((0, 0), (0, 1)))
        columns = np.pad(columns, ((0, 1), (0, 0)))
    zero = int(parameters.zero_point)
    exact = (rows - zero) @ columns.astype(np.int64)
    lost = np.zeros(exact.shape, np.int64)
    saturated = 0
    for start in range(0, rows.shape[1], 2):
        pair = rows[:, start, None] * columns[None, start].astype(np.int64)
        pair = pair + rows[:, start + 1, None] * columns[None, start + 1].astype(np.int64)
        kept = np.clip(pair, -_LIMIT - 1, _LIMIT)
        saturated += int(np.count_nonzero(kept != pair))
        lost += kept - pair
    signal = float(np.sum(exact.astype(np.float64) ** 2))
    pairs = exact.size * rows.shape[1] // 2
    return (float(np.sum(lost.astype(np.float64) ** 2)) / signal if signal > 0 else 0.0), saturated / max(pairs, 1)


def _quantized(data: npt.NDArray[np.float32], parameters: Parameters) -> npt.NDArray[np.int64]:
    scaled = np.rint(data.astype(np.float64) / float(parameters.scale)) + int(parameters.zero_point)
    return np.asarray(np.clip(scaled, 0, 255), np.int64)


def _patches(data: npt.NDArray[np.int64], height: int, width: int) -> npt.NDArray[np.int64]:
    """Windows of an image as rows, the channels of one position side by side; no padding, stride 1."""
    if data.shape[2] < height or data.shape[3] < width:
        return np.zeros((0, height * width * data.shape[1]), np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(data, (height, width), axis=(2, 3))  # (N, C, H', W', h, w)
    return np.ascontiguousarray(windows.transpose(0, 2, 3, 4, 5, 1)).reshape(-1, height * width * data.shape[1])
