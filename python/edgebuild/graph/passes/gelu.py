"""Writes GELU as one operator.

Takes: ``x * 0.5 * (1 + erf(x / sqrt(2)))`` and ``x * 0.5 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x^3)))``, products and sums in any order,
quotients by constants for products with them: Gelu of opset 20; below, where the backend has them, com.microsoft Gelu and FastGelu.

Refuses: constants other than these (up to their rounding); values inside that something else reads; types other than float32.

Numbers: rounding.
"""

import math

import onnx_ir as ir

from edgebuild.graph.arrange import Writer
from edgebuild.graph.framework import GraphPass
from edgebuild.graph.match import factors, maker, near, nothing_else_reads, scalar, with_scalar
from edgebuild.graph.softmax import only_reader
from edgebuild.graph.symbolic import sizes_of
from edgebuild.graph.values import input_at, is_op, opset_of, supersede

DOMAIN = "com.microsoft"
_GELU_OPSET = 20
_CUBIC = 0.044715


class GeluFusion(GraphPass):
    """GELU from its parts, in the graph and all bodies.

    Args:
        legal: Operators outside the standard that the backend has.
    """

    def __init__(self, legal: frozenset[str]) -> None:
        super().__init__()
        self._legal = legal

    @property
    def name(self) -> str:
        return "gelu"

    def rewrite(self, model: ir.Model) -> int:
        fused = 0
        for node in list(model.graph.all_nodes()):
            found = _match(node) if is_op(node, "Mul", "Div") and node.graph is not None else None
            if found is None:
                continue
            x, tanh = found
            operator = "FastGelu" if tanh else "Gelu"
            writer = Writer(model.graph, node)
            if opset_of(model) >= _GELU_OPSET:
                attributes: dict[str, int | float | str | list[int]] = {"approximate": "tanh"} if tanh else {}
                out = writer.node("Gelu", [x], attributes, like=x, sizes=sizes_of(x))
            elif f"{DOMAIN}.{operator}" in self._legal:
                out = writer.node(operator, [x], domain=DOMAIN, like=x, sizes=sizes_of(x))
                model.graph.opset_imports.setdefault(DOMAIN, 1)
            else:
                continue
            supersede(node.outputs[0], out)
            fused += 1
        return fused


def _inner(value: ir.Value) -> bool:
    return only_reader(value) is not None


def _match(node: ir.Node) -> tuple[ir.Value, bool] | None:
    """``x``, and whether it is the tanh form."""
    product = factors(node.outputs[0], _inner)
    if product is None or len(product[0]) != 2 or not near(product[1], 0.5):
        return None
    for index in (0, 1):
        add, x = maker(product[0][index], "Add"), product[0][1 - index]
        plus_one = with_scalar(add) if add is not None else None
        if add is None or plus_one is None or plus_one[1] != 1.0 or x.dtype != ir.DataType.FLOAT:
            continue
        curve = maker(plus_one[0], "Erf", "Tanh")
        if curve is None or curve.inputs[0] is None:
            continue
        nodes = [*product[2], add, curve]
        argument = _erf_argument if curve.op_type == "Erf" else _tanh_argument
        inside = argument(curve.inputs[0], x)
        if inside is not None and nothing_else_reads([*nodes, *inside], node.outputs[0]):
            return x, curve.op_type == "Tanh"
    return None


def _erf_argument(value: ir.Value, x: ir.Value) -> list[ir.Node] | None:
    product = factors(value, _inner)
    if product is None or product[0] != [x] or not near(product[1], math.sqrt(0.5)):
        return None
    return product[2]


def _tanh_argument(value: ir.Value, x: ir.Value) -> list[ir.Node] | None:
    """The nodes of ``sqrt(2/pi) * (x + 0.044715 x^3)`` or ``sqrt(2/pi) * x * (1 + 0.044715 x^2)``."""
    product = factors(value, _inner)
    if product is None or not near(product[1], math.sqrt(2 / math.pi)):
        return None
    leaves, _, nodes = product
    sums = [(leaf, maker(leaf, "Add")) for leaf in leaves if leaf is not x]
    if len(sums) != 1 or sums[0][1] is None or not _inner(sums[0][0]):
        return None
    add = sums[0][1]
    if len(leaves) == 1:  # x + 0.044715 x^3
        rest = [operand for operand in add.inputs if operand is not x]
        power = 3
    elif len(leaves) == 2 and x in leaves:  # x (1 + 0.044715 x^2)
        found = with_scalar(add)
        rest, power = ([found[0]] if found is not None and found[1] == 1.0 else []), 2
    else:
        return None
    if len(rest) != 1 or rest[0] is None or not _inner(rest[0]):
        return None
    cubic = factors(rest[0], _inner)
    if cubic is None or not near(cubic[1], _CUBIC):
        return None
    degree, powers = 0, []
    for leaf in cubic[0]:
        raised = maker(leaf, "Pow")
        if leaf is x:
            degree += 1
        elif (
            raised is not None and raised.inputs[0] is x and scalar(input_at(raised, 1)) in (2.0, 3.0) and _inner(leaf)
        ):
            degree += int(scalar(input_at(raised, 1)) or 0)
            powers.append(raised)
        else:
            return None
    return [*nodes, add, *cubic[2], *powers] if degree == power else None
