"""Faults, each planted by a transformation of the graph, the data, the plan or the target's scheme; none is told to the explainer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgebuild.quantize.layers import Layer, find_layers
from edgebuild.quantize.plan import Plan
from edgebuild.targets.spec import QuantizationScheme
from faults.bases import Base

Images = NDArray[np.float32]
Rng = np.random.Generator

VNNI = QuantizationScheme(
    activation="uint8",
    weight="int8",
    symmetric_activations=False,
    per_channel=True,
    reduce_range=False,
    cpu_features=("avx512_vnni",),
)
"""What x86-64 with VNNI takes: sums are exact."""


@dataclass(kw_only=True)
class Case:
    """A net on its way to a fault.

    Args:
        model: The float graph, to be changed in place.
        calibration: What it is calibrated and judged with.
        in_use: What it will meet; None: as what the build held out.
        scheme: Of the target.
        plan: Changes what the search chose, as an edited or outdated decision would.
        layers: The layers where the fault is.
        causes: Names of the explanation that are right.
    """

    model: ir.Model
    calibration: Images
    labels: NDArray[np.int64]
    in_use: Images | None = None
    scheme: QuantizationScheme = VNNI
    plan: Callable[[Plan], Plan] | None = None
    layers: set[str] = field(default_factory=set)
    causes: tuple[str, ...] = ()


def channel_times_1000(case: Case, rng: Rng, base: Base) -> None:
    """One channel grows by 1,000 and its readers' weights shrink by as much: the same function."""
    maker, readers, channel_of = _pairs(case.model)[int(rng.integers(len(_pairs(case.model))))]
    channel = int(rng.integers(channel_of))
    for value, axis in maker:
        array = np.array(value.const_value.numpy(), np.float32)
        np.moveaxis(array, axis, 0)[channel] *= 1000
        _set(value, array)
    for layer in readers:
        weight = layer.weight_array().copy()
        _input_rows(layer, weight, channel)[...] /= 1000
        _set(layer.weight, weight)
    case.causes = ("channel range ratio",)
    case.layers = {layer.name for layer in readers}
    case.layers |= {layer.name for layer in find_layers(case.model.graph) if maker[0][0] is layer.weight}


def clipped(case: Case, rng: Rng, base: Base) -> None:
    """The range of one layer's input is a tenth of what it was, as if calibrated on too little."""
    layers = [layer for layer in find_layers(case.model.graph) if layer.data.producer() is not None]
    layer = layers[int(rng.integers(len(layers)))]

    def change(plan: Plan) -> Plan:
        known = [other for other in layers if other.data.name in plan.ranges and plan.modes.get(other.name) == "static"]
        chosen = layer if layer in known else known[int(rng.integers(len(known)))]
        name = chosen.data.name or ""
        low, high = plan.ranges[name]
        case.layers |= {other.name for other in layers if other.data is chosen.data}
        case.layers |= _behind(case.model, name)
        return replace(plan, ranges={**plan.ranges, name: (0.1 * low, 0.1 * high)})

    case.plan = change
    case.causes = ("clipping",)


def wrong_scale(case: Case, rng: Rng, base: Base) -> None:
    """Calibrated on pixels of 0 to 255, used on 0 to 1; or the other way round."""
    case.in_use = base.in_use
    factor = 255.0 if rng.random() < 0.5 else 1 / 255
    case.calibration = (case.calibration * np.float32(factor)).astype(np.float32)
    case.causes = ("calibration data",)


def swapped_channels(case: Case, rng: Rng, base: Base) -> None:
    """Calibrated on BGR, used on RGB."""
    case.in_use = base.in_use
    case.calibration = np.ascontiguousarray(case.calibration[:, ::-1])
    case.causes = ("calibration data",)


def unlike(case: Case, rng: Rng, base: Base) -> None:
    """Calibrated on one class, dark: a night's photographs of one thing."""
    case.in_use = base.in_use
    kept = case.calibration[case.labels == int(rng.integers(10))]
    dark = np.float32(0.35) * np.repeat(kept, 8, axis=0)[:48]
    case.calibration = (dark + rng.uniform(0, 0.02, dark.shape)).astype(np.float32)
    case.causes = ("calibration data",)


def saturating_pairs(case: Case, rng: Rng, base: Base) -> None:
    """A target file with 8-bit weights for CPUs without VNNI, and one layer whose weights all lie at the ends."""
    layers = [
        layer
        for layer in find_layers(case.model.graph)
        if (layer.kind == "matmul" or layer.weight_array().shape[1] > 3) and not _averaged(layer.data)
    ]
    layer = layers[int(rng.integers(len(layers)))]
    weight = layer.weight_array()
    axis = layer.channel_axis
    others = tuple(i for i in range(weight.ndim) if i != axis)
    size = np.sqrt(np.mean(weight**2, axis=others, keepdims=True))
    _set(layer.weight, (np.where(weight < 0, -1, 1) * size * rng.uniform(0.9, 1.0, weight.shape)).astype(np.float32))
    case.scheme = replace(VNNI, cpu_features=("avx2",))
    case.causes = ("saturation",)
    case.layers = {layer.name}


def saturating_bias(case: Case, rng: Rng, base: Base) -> None:
    """One scale for all weights, and a dead channel whose bias is far below 0: it does not fit 32 bits at that scale."""
    layers = [
        layer
        for layer in find_layers(case.model.graph)
        if layer.kind == "conv" and layer.bias is not None and _relu_behind(layer)
    ]
    layer = layers[int(rng.integers(len(layers)))]
    bias = np.array(layer.bias_array(), np.float32)
    bias[int(rng.integers(len(bias)))] = -5e6
    assert layer.bias is not None
    _set(layer.bias, bias)
    case.scheme = replace(VNNI, per_channel=False)
    case.causes = ("saturation",)
    case.layers = {layer.name}


def outliers(case: Case, rng: Rng, base: Base) -> None:
    """One channel of one layer answers seldom and then hugely."""
    pairs = _pairs(case.model)
    maker, readers, count = pairs[int(rng.integers(len(pairs)))]
    channel = int(rng.integers(count))
    weight, axis = maker[0]
    size = 40.0
    for index, (value, at) in enumerate(maker):
        array = np.array(value.const_value.numpy(), np.float32)
        view = np.moveaxis(array, at, 0)
        if index == 0:
            view[channel] *= size
        else:
            spread = float(np.abs(np.moveaxis(np.array(weight.const_value.numpy()), axis, 0)[channel]).sum())
            view[channel] = view[channel] * size - 0.25 * spread
        _set(value, array)
    for layer in readers:
        array = layer.weight_array().copy()
        _input_rows(layer, array, channel)[...] /= size
        _set(layer.weight, array)
    case.causes = ("outliers", "channel range ratio")
    case.layers = {layer.name for layer in readers}
    case.layers |= {layer.name for layer in find_layers(case.model.graph) if maker[0][0] is layer.weight}


def exponential(case: Case, rng: Rng, base: Base) -> None:
    """The scores, brought to a deviation of 6, go through exp: likelihoods in place of their logarithms."""
    output = case.model.graph.outputs[0]
    _append(case.model, output, [("Mul", 6 / _deviation(base)), ("Exp", None)])
    case.causes = ("sensitive operator",)
    case.layers = _behind(case.model, output.name or "")


def cancellation(case: Case, rng: Rng, base: Base) -> None:
    """A layer's results lie around a large offset that the next operator takes away: small differences of large numbers."""
    layers = [
        layer
        for layer in find_layers(case.model.graph)
        if layer.bias is not None and len(list(layer.output.uses())) == 1 and not layer.output.is_graph_output()
    ]
    layer = layers[int(rng.integers(len(layers)))]
    assert layer.bias is not None
    bias = np.array(layer.bias.const_value.numpy(), np.float32)  # type: ignore[union-attr]
    offset = np.float32(60.0 * max(float(np.abs(bias).max()), 1.0))
    _set(layer.bias, bias + offset)
    _append(case.model, layer.output, [("Sub", float(offset))])
    case.causes = ("sensitive operator",)
    case.layers = {layer.name}


def sharp_attention(case: Case, rng: Rng, base: Base) -> None:
    """Queries are 40 times as large: the softmax decides by small differences."""
    by_output = {layer.output: layer for layer in find_layers(case.model.graph)}
    for node in case.model.graph:
        if node.op_type == "MultiHeadAttention":
            query, key, _ = (by_output[value] for value in node.inputs[:3] if value is not None)
            _set(query.weight, query.weight_array() * 40)
            if query.bias is not None:
                _set(query.bias, np.asarray(query.bias_array(), np.float32) * 40)
            case.layers |= {query.name, key.name}
    case.causes = ("sensitive operator",)


_PROPORTIONAL = frozenset({"Relu", "MaxPool", "ReduceMean", "GlobalAveragePool", "Flatten", "Reshape", "Squeeze"})
"""Operators through which a positive factor goes unchanged."""

Maker = list[tuple[ir.Value, int]]


def _pairs(model: ir.Model) -> list[tuple[Maker, list[Layer], int]]:
    """Places where a channel can be scaled without a change of the function: weights before, layers behind, channels."""
    found: list[tuple[Maker, list[Layer], int]] = []
    layers = find_layers(model.graph)
    for node in model.graph:
        weight = node.inputs[1] if node.op_type == "Conv" else None
        if weight is None or weight.const_value is None:
            continue
        value = node.outputs[0]
        while len(uses := list(value.uses())) == 1 and uses[0].node.op_type in _PROPORTIONAL:
            value = uses[0].node.outputs[0]
        readers = [other for other in layers if other.data is value]
        if readers and len(readers) == len(uses) and not value.is_graph_output():
            bias = node.inputs[2] if len(node.inputs) > 2 else None
            maker = [(weight, 0), *([(bias, 0)] if bias is not None else [])]
            found.append((maker, readers, int(weight.const_value.numpy().shape[0])))
    for node in model.graph:
        if node.op_type != "LayerNormalization":
            continue
        value = node.outputs[0]
        readers = [other for other in layers if other.data is value]
        if readers and len(readers) == len(list(value.uses())):
            maker = [(item, 0) for item in node.inputs[1:3] if item is not None and item.const_value is not None]
            found.append((maker, readers, int(np.prod(maker[0][0].const_value.numpy().shape))))
    return found


def _input_rows(layer: Layer, weight: Images, channel: int) -> Images:
    """The weights that read one channel, as a view."""
    if layer.kind == "matmul":
        return weight[:, channel] if layer.transposed else weight[channel]
    if weight.shape[1] == 1:  # depthwise: one filter or more for each channel
        return weight[channel : channel + 1]
    return weight[:, channel]


def _set(value: ir.Value, array: NDArray[Any]) -> None:
    value.const_value = ir.Tensor(np.ascontiguousarray(array), name=value.name)


def _relu_behind(layer: Layer) -> bool:
    uses = list(layer.output.uses())
    return len(uses) == 1 and uses[0].node.op_type == "Relu"


def _append(model: ir.Model, value: ir.Value, steps: list[tuple[str, float | None]]) -> None:
    """Operators behind a value, for all that read it."""
    uses = [(use.node, use.idx) for use in value.uses()]
    node = value.producer()
    assert node is not None
    at = value
    for index, (operator, constant) in enumerate(steps):
        inputs = [at]
        if constant is not None:
            name = f"{value.name}_fault_{index}_constant"
            tensor = ir.tensor(np.float32(constant), name=name)
            other = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
            model.graph.register_initializer(other)
            inputs.append(other)
        new = ir.node(operator, inputs, name=f"{value.name}_fault_{index}")
        result = new.outputs[0]
        result.name, result.type, result.shape = f"{value.name}_fault_{index}_y", value.type, value.shape
        model.graph.insert_after(node, new)
        node, at = new, result
    for user, index in uses:
        user.replace_input_with(index, at)
    for index, output in enumerate(model.graph.outputs):
        if output is value:
            name = value.name
            model.graph.outputs[index] = at
            value.name, at.name = f"{name}_before", name


def _deviation(base: Base) -> float:
    """Standard deviation of a sound net's scores."""
    import onnxruntime

    session = onnxruntime.InferenceSession(base.graph, providers=["CPUExecutionProvider"])
    return float(np.std([session.run(None, {"x": image[None]})[0] for image in base.calibration]))


def _behind(model: ir.Model, name: str) -> set[str]:
    """The layer that a value comes from, through activations, sums and the like."""
    ends = {layer.output.name: layer.name for layer in find_layers(model.graph)}
    makers = {value.name: node for node in model.graph for value in node.outputs}
    front, found = [name], set[str]()
    for _ in range(10):
        found |= {ends[item] for item in front if item in ends}
        if found:
            break
        front = [v.name or "" for item in front if item in makers for v in makers[item].inputs if v is not None]
    return found


def _averaged(value: ir.Value) -> bool:
    """Whether a value is a mean: too small beside its own range for sums of two to saturate."""
    node = value.producer()
    return node is not None and node.op_type in ("ReduceMean", "GlobalAveragePool")


def none(case: Case, rng: Rng, base: Base) -> None:
    """The sound net."""


FAULTS: Mapping[str, Callable[[Case, Rng, Base], None]] = {
    "channel x1000": channel_times_1000,
    "layer clipped": clipped,
    "wrong scale": wrong_scale,
    "swapped BGR": swapped_channels,
    "unlike data": unlike,
    "saturating pairs": saturating_pairs,
    "saturating bias": saturating_bias,
    "outliers": outliers,
    "exponential": exponential,
    "cancellation": cancellation,
    "sharp attention": sharp_attention,
    "none": none,
}
