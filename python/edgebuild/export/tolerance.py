"""How far an exported model's output may be from the original's, derived from dtype and depth.

Both models compute the same expression in another order. For an inner product of length k in arithmetic with unit roundoff u
the error is, with high probability, at most a small constant times sqrt(k) * u relative to the sum of magnitudes (N. J. Higham
and T. Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41(5), 2019); the worst case k * u
(Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 3.1) is never seen. Errors of successive
operations add up the same way, so along a path with reductions of lengths k_1 .. k_n

    relative error of the output  <=  GROWTH * u * sqrt(k_1 + ... + k_n)

where an elementwise operation counts 1 and a transcendental one 4 (its library is accurate to some ulps). In float16 and bfloat16
engines accumulate in float32, so a reduction rounds once there: k_i = 1 (Blanchard, Higham, Lopez, Mary, Pranesh, "Mixed
precision block fused multiply-add", 2020). The path with the largest sum counts. GROWTH covers what a layer amplifies and
that both sides round. Where values are interpolated at a computed place of an axis of n elements, the place is rounded to n * u,
and the value with it: that counts n^2. The bound is relative to the output tensor's largest magnitude (normwise: what cancels to a small
element has the error of the large ones it came from), so atol = t * max|output| and rtol = t.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

GROWTH = 16.0
"""Amplification allowed on top of the rounding model."""

CEILING = 0.1
"""No derived tolerance is looser than this part of an output's magnitude."""

UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Half the distance from 1 to the next number, by dtype."""

_WIDE = {"float64", "float32"}
_MOVES = frozenset(
    {
        *("Identity", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Concat", "Gather"),
        *(
            "GatherND",
            "GatherElements",
            "Expand",
            "Tile",
            "Pad",
            "Shape",
            "Size",
            "Constant",
            "ConstantOfShape",
            "Cast",
        ),
        *("DepthToSpace", "SpaceToDepth", "ScatterND", "ScatterElements", "Where", "Relu", "MaxPool", "Max", "Min"),
        *("SequenceConstruct", "SequenceInsert", "SequenceAt", "ConcatFromSequence", "SplitToSequence", "NonZero"),
    }
)
_TRANSCENDENTAL = frozenset(
    {
        *(
            "Exp",
            "Log",
            "Sigmoid",
            "Tanh",
            "Erf",
            "Gelu",
            "Softplus",
            "Sin",
            "Cos",
            "Tan",
            "Pow",
            "Elu",
            "Selu",
            "Mish",
        ),
        *(
            "Atan",
            "Asin",
            "Acos",
            "Sinh",
            "Cosh",
            "Asinh",
            "Acosh",
            "Atanh",
            "HardSwish",
            "Celu",
            "Swish",
        ),
    }
)
_REDUCTIONS = frozenset({"Softmax", "LogSoftmax", "LayerNormalization", "GroupNormalization", "InstanceNormalization"})
_UNKNOWN_LENGTH = 256  # of a reduction whose size the graph does not say
_UNKNOWN_STEPS = 64  # of a loop or recurrence whose length the graph does not say


@dataclass(frozen=True, kw_only=True)
class Depth:
    """What an output's error grows with: the longest path's sum of reduction lengths, and the coarsest dtype on it."""

    operations: float
    dtype: str

    @property
    def relative(self) -> float:
        """The derived tolerance, as a part of the output's largest magnitude."""
        return min(GROWTH * UNIT_ROUNDOFF[self.dtype] * math.sqrt(max(self.operations, 4.0)), CEILING)


def _dims(value: ir.Value | None) -> list[int | None] | None:
    if value is None:
        return None
    if value.const_value is not None:
        return [int(d) for d in value.const_value.shape.numpy()]
    if value.shape is None:
        return None
    return [d if isinstance(d, int) else None for d in value.shape]


def _product(sizes: list[int | None] | None) -> float:
    if sizes is None:
        return _UNKNOWN_LENGTH
    product = 1.0
    for size in sizes:
        product *= _UNKNOWN_LENGTH if size is None else max(size, 1)
    return product


def _length(node: ir.Node) -> float:
    """The reduction length of one node, summed over its own recurrent steps."""
    kind = node.op_type
    if kind in _MOVES:
        return 0.0
    if kind in _TRANSCENDENTAL:
        return 4.0
    if kind in ("Resize", "GridSample"):
        return _interpolation(node)
    first = _dims(node.inputs[0]) if node.inputs else None
    weight = _dims(node.inputs[1]) if len(node.inputs) > 1 else None
    if kind in ("Conv", "ConvTranspose"):
        return _product(weight[1:] if weight else None) if kind == "Conv" else _product(weight[2:] if weight else None)
    if kind in ("MatMul", "Gemm", "Einsum"):
        if weight and len(weight) > 1:
            transposed = node.attributes.get("transB") if kind == "Gemm" else None
            return _product([weight[-1 if transposed is not None and transposed.as_int() else -2]])
        return _product([first[-1]]) if first else _UNKNOWN_LENGTH
    if kind in ("LSTM", "GRU", "RNN"):
        steps = first[0] if first and first[0] is not None else _UNKNOWN_STEPS
        return steps * (_product([weight[-1]]) + 16.0) if weight else steps * _UNKNOWN_LENGTH
    if kind.startswith("Reduce") or kind in _REDUCTIONS or kind in ("AveragePool", "GlobalAveragePool", "CumSum"):
        out = _dims(node.outputs[0])
        if (
            kind.startswith("Reduce")
            and kind not in ("ReduceMax", "ReduceMin")
            and out is not None
            and first is not None
        ):
            return max(_product(first) / max(_product(out), 1.0), 1.0)
        return _product(first[1:]) if first and len(first) > 1 and kind in _REDUCTIONS else _UNKNOWN_LENGTH
    return 1.0


def _interpolation(node: ir.Node) -> float:
    """The square of the longest interpolated axis; little where the places are exact: nearest, or between powers of two."""
    mode = node.attributes.get("mode")
    default = "nearest" if node.op_type == "Resize" else "linear"
    if (default if mode is None else mode.as_string()) == "nearest":
        return 1.0
    sizes, out = _dims(node.inputs[0]), _dims(node.outputs[0])
    if node.op_type == "Resize":
        transformation = node.attributes.get("coordinate_transformation_mode")
        aligned = transformation is not None and transformation.as_string() == "align_corners"
        scales = node.inputs[2].const_value if len(node.inputs) > 2 and node.inputs[2] is not None else None
        if scales is not None and scales.size:
            ratios: list[float | None] = [float(scale) for scale in scales.numpy()]
        elif sizes is None or out is None:
            ratios = [None]
        else:
            ratios = [b / a if a and b else None for a, b in zip(sizes, out, strict=True)]
        if not aligned and all(ratio is not None and math.frexp(ratio)[0] == 0.5 for ratio in ratios):
            return 8.0  # only the weights round
    longest = max(
        (_UNKNOWN_LENGTH if size is None else size for size in (sizes or [None])[2:]), default=_UNKNOWN_LENGTH
    )
    return float(max(longest, 4)) ** 2


def _graph_depth(graph: ir.Graph | ir.Function, known: dict[ir.Value, Depth]) -> None:
    for node in graph:
        best, dtype = 0.0, "float64"
        for value in node.inputs:
            if value is not None and value in known:
                best = max(best, known[value].operations)
                dtype = _coarser(dtype, known[value].dtype)
        inner = 0.0
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                body = attribute.as_graph()
                _graph_depth(body, known)
                for out in body.outputs:
                    if out in known:
                        inner = max(inner, known[out].operations - best if known[out].operations > best else 0.0)
                        dtype = _coarser(dtype, known[out].dtype)
        for out in node.outputs:
            kind = dtype
            if out.dtype is not None:
                kind = _coarser(kind, out.dtype.name.lower())
            length = _length(node)
            if kind not in _WIDE:
                length = min(length, 1.0)
            if node.op_type == "Loop":
                inner *= _UNKNOWN_STEPS
            known[out] = Depth(operations=best + length + inner, dtype=kind)


def _coarser(left: str, right: str) -> str:
    return max((left, right), key=lambda name: UNIT_ROUNDOFF.get(name, 0.0))


def output_depths(model: ir.Model, output_dtypes: Mapping[str, str]) -> dict[str, Depth]:
    """The Depth of each graph output by its name; ``output_dtypes`` fills in what the graph does not say."""
    known: dict[ir.Value, Depth] = {}
    for value in model.graph.inputs:
        dtype = value.dtype.name.lower() if value.dtype is not None else "float64"
        known[value] = Depth(operations=0.0, dtype=dtype if dtype in UNIT_ROUNDOFF else "float64")
    _graph_depth(model.graph, known)
    depths = {}
    for value in model.graph.outputs:
        depth = known.get(value, Depth(operations=0.0, dtype="float64"))
        dtype = _coarser(depth.dtype, output_dtypes.get(str(value.name), "float64"))
        depths[str(value.name)] = Depth(operations=depth.operations, dtype=dtype)
    return depths
