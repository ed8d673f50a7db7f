"""Writes a transposed convolution whose kernel is its stride as a 1x1 convolution and DepthToSpace: what a quantiser wants.

ONNX Runtime has no integer kernel for ConvTranspose, but for both of these. Measured with 1.31.1, one VNNI core, on a U-Net: INT8 at 3.3 times
the float speed instead of 2.7 times. In float it is the worse form: DepthToSpace is a pass over the result that ConvTranspose does without
(the U-Net takes 3% to 15% longer). So it is not part of ``optimize``, but done to the layers that are about to be quantised.

Takes: ConvTranspose of two spatial axes with ``kernel_shape`` = ``strides`` (k, k), k > 1, without padding, with constant float32 weight
``(C, M / group, k, k)`` and, if any, constant bias ``(M)``; groups too. Where one activation alone reads it, that goes before the DepthToSpace, so
that it stays next to its convolution. The Conv gets the node's name.

Refuses: other kernels, strides, dilations; padding of any sort; an asked-for output shape; other types; weights that are not constant.

Numbers: the same products, summed in another order: rounding.
"""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from edgebuild.graph.arrange import Writer
from edgebuild.graph.framework import GraphPass
from edgebuild.graph.softmax import only_reader
from edgebuild.graph.symbolic import Size, sizes_of
from edgebuild.graph.values import constant_array, input_at, int_attribute, is_op, supersede, unique_name

_ELEMENTWISE = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu")


class SubPixelConvolutions(GraphPass):
    """Conv and DepthToSpace for ConvTranspose, in the main graph.

    Args:
        only: Names of the nodes to rewrite; None: all that fit.
    """

    def __init__(self, only: Collection[str] | None = None) -> None:
        self._only = only

    @property
    def name(self) -> str:
        return "sub-pixel-convolutions"

    def rewrite(self, model: ir.Model) -> int:
        nodes = [node for node in model.graph if is_op(node, "ConvTranspose")]
        return sum(_rewrite(model.graph, node) for node in nodes if self._only is None or node_name(node) in self._only)


def node_name(node: ir.Node) -> str:
    """The node's name, or that of what it gives."""
    return node.name or node.outputs[0].name or ""


def _rewrite(graph: ir.Graph, node: ir.Node) -> int:
    size, group = _kernel(node), int_attribute(node, "group", 1)
    weight, bias_value = constant_array(input_at(node, 1)), input_at(node, 2)
    data, old = node.inputs[0], node.outputs[0]
    if size is None or group is None or weight is None or data is None or weight.dtype != np.float32:
        return 0
    channels, per_group, *kernel = weight.shape
    if kernel != [size, size] or group < 1 or channels % group or weight.size == 0:
        return 0
    outputs = per_group * group
    bias = constant_array(bias_value)
    if bias_value is not None and (bias is None or bias.shape != (outputs,)):
        return 0
    # (group, C / group, M / group, k, k) -> a filter for every output channel and place inside of its square.
    grouped = weight.reshape(group, channels // group, per_group, size * size)
    filters = grouped.transpose(0, 2, 3, 1).reshape(outputs * size * size, channels // group, 1, 1)
    writer, name = Writer(graph, node), old.name or "upsampled"
    inputs = [data, writer.constant(f"{name}.filters", np.ascontiguousarray(filters), ir.DataType.FLOAT)]
    if bias is not None:
        inputs.append(writer.constant(f"{name}.biases", np.repeat(bias, size * size), ir.DataType.FLOAT))
    source = sizes_of(data)
    sizes = None if source is None or len(source) != 4 else [source[0], Size(outputs * size * size), *source[2:]]
    result = writer.node("Conv", inputs, {"kernel_shape": [1, 1], "group": group}, like=old, sizes=sizes)
    result.name = unique_name(graph, f"{name}.sub_pixels")
    convolution, last = result.producer(), old
    activation = _activation(old)
    if activation is not None:
        last, reads = activation.outputs[0], list(activation.inputs[1:])
        copied = {key: attribute.value for key, attribute in activation.attributes.items()}
        result = writer.node(activation.op_type, [result, *reads], copied, like=old, sizes=sizes)
        result.name = unique_name(graph, f"{name}.activated")
    new = writer.node("DepthToSpace", [result], {"blocksize": size, "mode": "CRD"}, like=old)
    new.shape = last.shape
    kept, layer = last.name, node_name(node)
    supersede(last, new)
    last.name, new.name = None, kept
    assert convolution is not None
    convolution.name = layer
    return 1


def _kernel(node: ir.Node) -> int | None:
    """The side of a square kernel that is also the stride, where nothing else is asked for."""
    if "output_shape" in node.attributes or any(attribute.is_ref() for attribute in node.attributes.values()):
        return None
    auto_pad = node.attributes.get("auto_pad")
    if auto_pad is not None and auto_pad.as_string() not in ("NOTSET", "VALID"):
        return None
    rank = 2
    wanted = {"pads": [0] * 2 * rank, "output_padding": [0] * rank, "dilations": [1] * rank}
    for name, values in wanted.items():
        attribute = node.attributes.get(name)
        if attribute is not None and list(attribute.as_ints()) != values:
            return None
    strides = node.attributes.get("strides")
    steps = [] if strides is None else list(strides.as_ints())
    return int(steps[0]) if len(steps) == rank and steps[0] == steps[1] > 1 else None


def _activation(value: ir.Value) -> ir.Node | None:
    """The operator on single elements that alone reads a value."""
    node = only_reader(value)
    if node is None or not is_op(node, *_ELEMENTWISE) or node.inputs[0] is not value or node.graph is not _graph(value):
        return None
    return node if all(other is None or other.is_initializer() for other in node.inputs[1:]) else None


def _graph(value: ir.Value) -> ir.Graph | ir.Function | None:
    producer = value.producer()
    return None if producer is None else producer.graph
