"""Models in half precision, between integers too, and quantised ones without the quantised biases that TensorRT does not read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgebuild.backends.candidate import Candidate

_SAFETY = 4.0
"""The samples show some of the rounding, not all of it."""

_FLOOR = 2.0**-6
"""Of an output's largest magnitude, 32 roundings of float16: what kernels that sum in another order may differ by."""

_CAP = 0.1
"""Of an output's largest magnitude: a difference beyond it is no rounding, and the variant does not ship."""


_MIXED_OPSET = 19
"""The first whose Q and DQ take scales in float16."""


@dataclass(frozen=True, kw_only=True)
class HalfModel:
    """A model in float16 between float32 inputs and outputs, and the tolerances (atol, rtol) of its goldens by output name."""

    model: onnx.ModelProto
    tolerances: Mapping[str, tuple[float, float]]


def to_float16(model: onnx.ModelProto, candidate: Candidate) -> HalfModel | None:
    """The model with weights and computation in float16; None: on the samples it overflows, or differs by more than a tenth.

    What is integer in a quantised model stays so, with scales in float16, and the rest between becomes float16: that needs opset 19.

    Operators that float16 hurts or that engines have not in it (sums along an axis, sorting, random numbers) stay float32.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    half = convert_float_to_float16(copy, keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, "ReduceSum"])
    _quantize_inputs_at_once(half, model)
    tolerances = dict(candidate.tolerances)
    spread: dict[str, tuple[float, float]] = {}
    for feed in candidate.feeds():
        plain, rounded = _run(model, feed, candidate), _run(half, feed, candidate)
        for index, spec in enumerate(candidate.signature.outputs):
            a, b = plain[index], rounded[index]
            if not isinstance(a, np.ndarray) or not np.issubdtype(a.dtype, np.floating) or a.size == 0:
                continue
            if not np.all(np.isfinite(b[np.isfinite(a)])):
                return None
            finite = np.isfinite(a)
            error = float(np.max(np.abs(a[finite].astype(np.float64) - b[finite]), initial=0.0))
            most = float(np.max(np.abs(a[finite]), initial=0.0))
            worst = spread.get(spec.name, (0.0, 0.0))
            spread[spec.name] = (max(worst[0], error), max(worst[1], most))
    for name, (error, most) in spread.items():
        if error > _CAP * most:
            return None
        atol, rtol = tolerances[name]
        tolerances[name] = (max(atol, _SAFETY * error, _FLOOR * most), rtol)
    return HalfModel(model=half, tolerances=tolerances)


def can_mix(model: onnx.ModelProto) -> bool:
    """Whether Q and DQ of this model may stand between integers and float16, and there are any."""
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    return opset >= _MIXED_OPSET and any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def _quantize_inputs_at_once(half: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Takes away the rounding to float16 of inputs that are quantised next: they are read once less, and rounded once."""
    scales = {tensor.name: tensor for tensor in model.graph.initializer}
    constants = {tensor.name: tensor for tensor in half.graph.initializer}
    inputs = {value.name for value in half.graph.input}
    casts = {n.output[0]: n for n in half.graph.node if n.op_type == "Cast" and n.input[0] in inputs}
    for node in half.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] not in casts or node.input[1] not in scales:
            continue
        scale = onnx.TensorProto()
        scale.CopyFrom(scales[node.input[1]])
        scale.name = f"{node.input[1]}_float32"
        if scale.name in constants or scale.data_type != onnx.TensorProto.FLOAT:
            continue
        constants[scale.name] = scale
        half.graph.initializer.append(scale)
        node.input[0], node.input[1] = casts[node.input[0]].input[0], scale.name
    read = {name for node in half.graph.node for name in node.input} | {value.name for value in half.graph.output}
    for node in casts.values():
        if node.output[0] not in read:
            half.graph.node.remove(node)


def with_float_biases(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every dequantised 32-bit constant as the float values that it stands for: TensorRT dequantises 8 bits and less."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    kept = []
    added = []
    for node in result.graph.node:
        tensor = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if tensor is None or tensor.data_type != onnx.TensorProto.INT32 or node.input[1] not in constants:
            kept.append(node)
            continue
        integers = numpy_helper.to_array(tensor).astype(np.float64)
        scale = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
        axis = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "axis"), 1)
        if scale.ndim == 1 and scale.size > 1 and integers.ndim > 1:
            scale = scale.reshape([-1 if i == axis % integers.ndim else 1 for i in range(integers.ndim)])
        added.append(numpy_helper.from_array((integers * scale).astype(np.float32), node.output[0]))
    del result.graph.node[:]
    result.graph.node.extend(kept)
    result.graph.initializer.extend(added)
    used = {name for node in kept for name in node.input} | {value.name for value in result.graph.output}
    left = [tensor for tensor in result.graph.initializer if tensor.name in used]
    del result.graph.initializer[:]
    result.graph.initializer.extend(left)
    return result


def _run(model: onnx.ModelProto, feed: Mapping[str, Any], candidate: Candidate) -> list[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # As written: fused casts would hide the rounding that is looked for.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results: list[Any] = session.run(list(candidate.outputs), dict(feed))
    return results
