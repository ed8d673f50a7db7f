"""From a float graph and a plan to the graph that a backend runs on integers."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import onnx_ir as ir

from edgebuild.errors import InternalError
from edgebuild.graph.values import is_op
from edgebuild.quantize import products
from edgebuild.quantize.adaround import apply_rounding
from edgebuild.quantize.correct import bias_correction
from edgebuild.quantize.editor import GraphEditor
from edgebuild.quantize.fused_rows import DOMAIN as ROWS_DOMAIN
from edgebuild.quantize.fused_rows import OPERATORS, RowQuantizer, preparation_of
from edgebuild.quantize.layers import Kind, Layer, find_layers
from edgebuild.quantize.parameters import Parameters, quantization_parameters
from edgebuild.quantize.plan import Mode, Plan
from edgebuild.quantize.recurrent import quantize_lstm
from edgebuild.quantize.region import MOVING, Region, find_region, float_inputs
from edgebuild.quantize.tables import quantize_table
from edgebuild.quantize.weights import (
    QuantizedWeight,
    quantize_bias,
    quantize_weight,
    rounding_key,
    scales_for_bias,
)
from edgebuild.targets.spec import QuantizationScheme

DTYPES = {
    "uint8": ir.DataType.UINT8,
    "int8": ir.DataType.INT8,
    "uint16": ir.DataType.UINT16,
    "int16": ir.DataType.INT16,
}

_MODES_OF_KIND: Mapping[Kind, tuple[Mode, ...]] = {
    "conv": ("static",),
    "matmul": ("static", "dynamic", "rowwise", "two_terms", "blockwise"),
    "recurrent": ("dynamic",),
}


@dataclass(frozen=True, kw_only=True)
class Forms:
    """How a backend wants products written.

    Args:
        fused_products: Whether com.microsoft's MatMulIntegerToFloat and DynamicQuantizeMatMul are legal, which take the bias in.
        recurrent: Whether its DynamicQuantizeLSTM is.
        blockwise: Whether its MatMulNBits with 8 bits is.
        fused_rows: Whether edgebuild's own QuantizeRows and RescaleRows are.
        fused_activations: Whether a range that begins at 0 may do the work of Relu and Clip.
    """

    fused_products: bool
    recurrent: bool = False
    blockwise: bool = False
    fused_rows: bool = False
    fused_activations: bool = True

    @property
    def modes(self) -> tuple[Mode, ...]:
        """In which products may be computed without ranges measured before."""
        return (
            "dynamic",
            *(mode for mode in get_args(Mode) if mode not in ("static", "dynamic") and self.has("matmul", mode)),
        )

    def has(self, kind: Kind, mode: Mode) -> bool:
        """Whether the backend has the operators that a layer is computed with in a mode."""
        if mode == "static":
            return True
        if kind == "recurrent":
            return self.recurrent
        legal = {"two_terms": self.fused_rows, "blockwise": self.blockwise}
        return legal.get(mode, self.fused_products)


def forms_of(fused_operators: Collection[str]) -> Forms:
    """What a backend with these operators outside the standard may be given."""
    products = {"com.microsoft.MatMulIntegerToFloat", "com.microsoft.DynamicQuantizeMatMul"}
    return Forms(
        fused_products=products <= set(fused_operators),
        recurrent="com.microsoft.DynamicQuantizeLSTM" in fused_operators,
        blockwise="com.microsoft.MatMulNBits" in fused_operators,
        fused_rows=products <= set(fused_operators) >= set(OPERATORS),
    )


def insert(model: ir.Model, plan: Plan, scheme: QuantizationScheme, forms: Forms) -> None:
    """Rewrites ``model`` in place: what the plan names computes on integers, the rest stays as it is.

    Dead weights are left for dead-code elimination.

    Raises:
        InternalError: The plan names a layer or a range that the graph has not, or lacks one that it needs.
    """
    graph = model.graph
    layers = {layer.name: layer for layer in find_layers(graph)}
    unknown = sorted(set(plan.modes) - set(layers))
    if unknown:
        msg = f"the quantisation plan names layers that the graph has not: {', '.join(unknown[:3])}"
        raise InternalError(msg)
    for name, mode in plan.modes.items():
        if mode not in _MODES_OF_KIND[layers[name].kind]:
            msg = f"the quantisation plan wants '{name}' {mode}, which no {layers[name].kind} layer can be"
            raise InternalError(msg)
        if not forms.has(layers[name].kind, mode):
            words = mode.replace("_", " ")
            msg = f"the quantisation plan wants '{name}' in mode '{words}', for which the target has no operators"
            raise InternalError(msg)
    static = [layer for name, layer in layers.items() if plan.modes.get(name) == "static"]
    region = static_region(model, plan, forms)
    editor = GraphEditor(graph)
    pairs = _carry(editor, region, plan, scheme)
    for layer in static:
        _static_layer(editor, layer, pairs[layer.data], plan, scheme, forms)
    fused = False
    fused_rows = False
    scaled_rows: products.ScaledRows = {}
    quantizer = RowQuantizer(editor)
    for name, mode in plan.modes.items():
        layer = layers[name]
        if mode == "static":
            fused |= layer.kind == "matmul" and forms.fused_products
        elif layer.kind == "recurrent":
            quantize_lstm(editor, layer, per_channel=scheme.per_channel, reduce_range=scheme.reduce_range)
            fused = True
        elif _in_one_pass(layer, mode, plan, layers, forms):
            weight = _weight(layer, scheme, plan)
            data = layer.nodes[0].inputs[0]  # as it is now: what gave it may have been replaced
            assert data is not None
            rows = quantizer.rows(data, scaled=mode != "dynamic", terms=2 if mode == "two_terms" else 1)
            products.fused(editor, layer, weight, rows, _shift(layer, weight, plan))
            fused = fused_rows = True
        elif mode == "rowwise":
            weight = _weight(layer, scheme, plan)
            products.rowwise(editor, layer, weight, scaled_rows, _shift(layer, weight, plan))
            fused = True
        elif mode == "dynamic":
            weight = _weight(layer, scheme, plan)
            products.dynamic(editor, layer, weight, _shift(layer, weight, plan))
            fused = True
        else:
            products.blockwise(editor, layer)
            fused = True
    for name in sorted(plan.tables):
        quantize_table(editor, name)
    if fused:
        graph.opset_imports.setdefault("com.microsoft", 1)
    if fused_rows:
        graph.opset_imports.setdefault(ROWS_DOMAIN, 1)


def _in_one_pass(layer: Layer, mode: Mode, plan: Plan, layers: Mapping[str, Layer], forms: Forms) -> bool:
    """Whether QuantizeRows has anything to do that DynamicQuantizeMatMul has not: prepare rows, or serve several products."""
    if not forms.fused_rows or mode == "blockwise":
        return False
    together = sum(other.data is layer.data and plan.modes.get(name) == mode for name, other in layers.items())
    data = layer.nodes[0].inputs[0]
    return mode != "dynamic" or together > 1 or (data is not None and preparation_of(data).any)


def static_region(model: ir.Model, plan: Plan, forms: Forms) -> Region:
    """Where the plan makes the graph integer: what has to be observed for it, and what will carry Q/DQ."""
    static = [layer for layer in find_layers(model.graph) if plan.modes.get(layer.name) == "static"]
    return find_region(
        model.graph,
        static,
        operators=plan.operators,
        float_outputs=True,
        fused_activations=forms.fused_activations,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class CarriedValue:
    """A value with its Q/DQ: ``quantized`` and ``dequantized`` are its two forms behind them."""

    scale: ir.Value
    zero_point: ir.Value
    quantized: ir.Value
    dequantized: ir.Value
    parameters: Parameters


def _carry(editor: GraphEditor, region: Region, plan: Plan, scheme: QuantizationScheme) -> dict[ir.Value, CarriedValue]:
    shared: dict[ir.Value, tuple[ir.Value, ir.Value, Parameters]] = {}
    pairs: dict[ir.Value, CarriedValue] = {}
    readers = {value: _region_uses(value, region) for value in region.carried}
    for value in region.carried:
        leader = region.leader(value)
        if leader not in shared:
            shared[leader] = _parameters(editor, leader, plan, scheme)
        pairs[value] = _insert_pair(editor, value, *shared[leader], readers[value], everyone=value in region.producers)
    return pairs


def _region_uses(value: ir.Value, region: Region) -> list[tuple[ir.Node, int]]:
    return [(use.node, use.idx) for use in value.uses() if use.node in region.nodes]


def _parameters(
    editor: GraphEditor, value: ir.Value, plan: Plan, scheme: QuantizationScheme
) -> tuple[ir.Value, ir.Value, Parameters]:
    name = value.name or ""
    extent = _range(value, plan)
    found = quantization_parameters(*extent, scheme.activation, symmetric=scheme.symmetric_activations)
    scale = editor.initializer(f"{name}_scale", np.asarray(found.scale), ir.DataType.FLOAT)
    zero = editor.initializer(f"{name}_zero_point", np.asarray(found.zero_point), DTYPES[scheme.activation])
    return scale, zero, found


def _range(value: ir.Value, plan: Plan) -> tuple[float, float]:
    """The plan's range of a value, or of that which a moving operator made it from.

    With fewer layers in the region such a value carries Q/DQ of its own.
    """
    at: ir.Value | None = value
    while at is not None:
        if at.name is not None and at.name in plan.ranges:
            return plan.ranges[at.name]
        node = at.producer()
        at = next(float_inputs(node), None) if node is not None and node.op_type in MOVING else None
    msg = f"the quantisation plan has no range for '{value.name}'"
    raise InternalError(msg)


def _insert_pair(
    editor: GraphEditor,
    value: ir.Value,
    scale: ir.Value,
    zero: ir.Value,
    parameters: Parameters,
    readers: Sequence[tuple[ir.Node, int]],
    *,
    everyone: bool,
) -> CarriedValue:
    """Puts Q and DQ behind ``value``; ``readers``, or all that read it now, read the dequantised form."""
    graph, name = editor.graph, value.name or ""
    uses = [(use.node, use.idx) for use in value.uses()] if everyone else list(readers)
    quantize = ir.node("QuantizeLinear", [value, scale, zero], name=editor.fresh_node(f"{name}_QuantizeLinear"))
    quantized = quantize.outputs[0]
    quantized.name = editor.fresh(f"{name}_quantized")
    quantized.type, quantized.shape = ir.TensorType(zero.dtype), value.shape  # type: ignore[arg-type]
    dequantize = ir.node(
        "DequantizeLinear", [quantized, scale, zero], name=editor.fresh_node(f"{name}_DequantizeLinear")
    )
    dequantized = dequantize.outputs[0]
    dequantized.type, dequantized.shape = value.type, value.shape
    producer = value.producer()
    if producer is None:
        first = next(iter(graph))
        graph.insert_before(first, [quantize, dequantize])
    else:
        graph.insert_after(producer, [quantize, dequantize])
    for node, index in uses:
        node.replace_input_with(index, dequantized)
    if everyone and value.is_graph_output():
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[index] = dequantized
        value.name, dequantized.name = editor.fresh(f"{name}_exact"), name
    else:
        dequantized.name = editor.fresh(f"{name}_dequantized")
    return CarriedValue(
        scale=scale, zero_point=zero, quantized=quantized, dequantized=dequantized, parameters=parameters
    )


def _weight(layer: Layer, scheme: QuantizationScheme, plan: Plan, data_scale: float | None = None) -> QuantizedWeight:
    weight = layer.weight_array()
    axis = layer.channel_axis
    if layer.kind == "matmul" and layer.transposed:
        weight, axis = np.ascontiguousarray(weight.T), 1
    bounds = None if data_scale is None else scales_for_bias(layer.bias_array(), data_scale)
    if bounds is not None and not scheme.per_channel:
        bounds = np.max(bounds, keepdims=True)
    nearest = quantize_weight(
        weight, axis, per_channel=scheme.per_channel, reduce_range=scheme.reduce_range, smallest_scales=bounds
    )
    packed = plan.roundings.get(layer.name, {}).get(rounding_key(scheme))
    return nearest if packed is None else apply_rounding(layer, nearest, packed)


def _shift(
    layer: Layer, weight: QuantizedWeight, plan: Plan
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None":
    """What the plan's means make of the rounding of a weight, to be added to the bias."""
    means = plan.means.get(layer.name)
    return None if means is None or layer.bias is None else bias_correction(layer, weight, np.asarray(means))


def _static_layer(
    editor: GraphEditor, layer: Layer, data: CarriedValue, plan: Plan, scheme: QuantizationScheme, forms: Forms
) -> None:
    if layer.kind == "matmul" and forms.fused_products and not _read_by_quantizer_only(layer.output):
        integers = _weight(layer, scheme, plan)
        shift = _shift(layer, integers, plan)
        products.static(editor, layer, data.quantized, data.scale, data.zero_point, integers, shift)
        return
    node = layer.nodes[0]
    step = float(data.parameters.scale)
    integers = _weight(layer, scheme, plan, step)
    values, axis = integers.values, integers.axis
    name = layer.weight.name or layer.name
    weight = _dequantized(editor, node, name, values, integers.scales, axis)
    if layer.kind == "conv" or is_op(node, "Gemm"):
        node.replace_input_with(1, weight)
        if is_op(node, "Gemm"):
            node.attributes["transB"] = ir.AttrInt64("transB", 0)
        bias, shift = layer.bias_array(), _shift(layer, integers, plan)
        if bias is not None:
            bias = bias if shift is None else bias + shift
            integer_bias, steps = quantize_bias(bias, step, integers.scales)
            node.replace_input_with(2, _dequantized(editor, node, f"{name}_bias", integer_bias, steps, 0))
        return
    node.replace_input_with(1, weight)
    shift = _shift(layer, integers, plan)
    if shift is not None:
        add, bias = layer.nodes[-1], layer.bias_array()
        assert bias is not None
        corrected = editor.initializer(f"{name}_corrected_bias", bias + shift, ir.DataType.FLOAT)
        add.replace_input_with(next(index for index, value in enumerate(add.inputs) if value is layer.bias), corrected)


def _read_by_quantizer_only(value: ir.Value) -> bool:
    uses = list(value.uses())
    return bool(uses) and not value.is_graph_output() and all(is_op(use.node, "QuantizeLinear") for use in uses)


def _dequantized(
    editor: GraphEditor,
    before: ir.Node,
    name: str,
    values: "np.ndarray[tuple[int, ...], np.dtype[np.signedinteger]]",
    scales: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]",
    axis: int,
) -> ir.Value:
    """Integers as an initialiser with a DequantizeLinear behind; one scale is written as a scalar."""
    kind = ir.DataType.INT8 if values.dtype == np.int8 else ir.DataType.INT32
    single = scales.size == 1 and values.shape[axis] != 1
    steps = scales.reshape(()) if single else scales
    integers = editor.initializer(f"{name}_quantized", values, kind)
    scale = editor.initializer(f"{name}_scale", steps, ir.DataType.FLOAT)
    zero = editor.initializer(f"{name}_zero_point", np.zeros(steps.shape, values.dtype), kind)
    attributes: Mapping[str, int] = {} if single else {"axis": axis}
    node = ir.node(
        "DequantizeLinear", [integers, scale, zero], attributes, name=editor.fresh_node(f"{name}_DequantizeLinear")
    )
    output = node.outputs[0]
    output.name = editor.fresh(f"{name}_dequantized")
    output.type, output.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(values.shape)
    editor.graph.insert_before(before, node)
    return output
