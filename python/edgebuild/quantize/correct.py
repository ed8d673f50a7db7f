"""Bias correction: what rounding a layer's weights adds to its outputs on average is taken off its bias.

From Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019: a weight that is off by ``e`` shifts the
output by ``E[e x] = e E[x]``. The paper takes E[x] from batch norms; here it is the mean of each input channel, measured in calibration. The plan
keeps the means, so that every scheme gets the correction of its own rounding.

Correcting by the difference of the whole quantised graph's means to the float graph's, all layers at once, counts what earlier layers shifted twice
and more (MobileNetV2: 17.7 dB to 14.1); layer after layer it took 115 s there, for nothing more than this gives.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgebuild.errors import InternalError
from edgebuild.quantize.layers import Layer, find_layers
from edgebuild.quantize.statistics import ChannelStatistics
from edgebuild.quantize.weights import QuantizedWeight


def correctable(graph: ir.Graph) -> dict[str, int]:
    """Axis of the channels, by name, of the activations whose means corrections need."""
    wanted: dict[str, int] = {}
    for layer in find_layers(graph):
        if layer.kind != "recurrent" and layer.bias is not None and layer.data.name:
            wanted.setdefault(layer.data.name, layer.data_axis)
    return wanted


def input_means(graph: ir.Graph, channels: Mapping[str, ChannelStatistics]) -> dict[str, tuple[float, ...]]:
    """Mean of each input channel, by layer name, as a plan keeps it.

    Args:
        graph: Float, with all that the plan does to it first.
        channels: Statistics of activations of that graph, by name; layers without get no correction.
    """
    means = {}
    for layer in find_layers(graph):
        found = channels.get(layer.data.name or "")
        if found is not None and layer.name and layer.bias is not None and found.axis == layer.data_axis:
            # Four digits do, and keep the decisions short.
            means[layer.name] = tuple(float(f"{mean:.4g}") for mean in found.mean)
    return means


def bias_correction(
    layer: Layer, quantized: QuantizedWeight, means: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """What to add to the bias, ``(M,)``.

    Args:
        layer: A convolution or product, float.
        quantized: Its weight, of a product ``(K, N)``.
        means: Of its input channels.

    Raises:
        InternalError: There are more or fewer of them than channels.
    """
    weight = layer.weight_array()
    if layer.kind == "matmul":
        error = quantized.dequantized().astype(np.float64) - (weight.T if layer.transposed else weight)
        error = error.T
    else:
        error = quantized.dequantized().astype(np.float64) - weight
        error = error.reshape(*error.shape[:2], -1).sum(axis=2)
    outputs, channels = error.shape
    groups = layer.groups
    if len(means) != channels * groups:
        msg = f"the quantisation plan has {len(means)} means for '{layer.name}', expected {channels * groups}"
        raise InternalError(msg)
    shift = np.einsum("goc,gc->go", error.reshape(groups, outputs // groups, channels), means.reshape(groups, channels))
    return np.asarray(-shift.reshape(-1), np.float32)
