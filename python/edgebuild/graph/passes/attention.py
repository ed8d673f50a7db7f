"""Writes attention as com.microsoft MultiHeadAttention.

Takes: ``Softmax(q k^T * c + mask) v`` over ``(B, H, S, D)``, ``(B*H, S, D)`` or, with one head, ``(B, S, D)``, in any of the ways that heads are split and joined: q, k and v are followed back
through Reshape, Transpose, Squeeze, Unsqueeze, Gather, Slice and Split to ``(B, S, H*D)``, and the result forward the same way; what moved
elements on the way is no longer needed. Constants may be multiplied to q, k or the scores. Projections stay MatMul and Add, biases stay in
them; a packed projection of q, k and v that nothing else reads becomes one each, with the columns in the order that
the operator wants. The mask becomes ``attention_bias`` ``(1|B, 1|H, S, T)``, expanded along S and T where it is not so large.
``Where(c, m, scores)`` with m = -infinity or the smallest float32 is a mask too.

A guard against NaN (``softmax_guard``) that had to stay is put behind the attention: a row whose scores are all -infinity gives NaN there
in all its elements, which then become 0 as before.

Refuses: other types than float32; an unknown number of heads or size of a head; scores or weights that something else reads; a mask that
does not fit or is subtracted; a constant that is not positive and finite; layouts that take sizes computed at run time.

Numbers: rounding. The smallest float32 in place of a score equals adding it for scores below 1e31 in magnitude. With a guard behind the
attention, NaN in v gives 0 instead of NaN.
"""

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgebuild.graph.arrange import Delivery, Writer, arrange, deliver
from edgebuild.graph.attention_mask import Mask, mask_of
from edgebuild.graph.framework import GraphPass
from edgebuild.graph.layout import Atom, Axes, Source, atoms_of, regroup, scale_of, trace
from edgebuild.graph.softmax import Guard, along_last_axis, guard_of, only_reader
from edgebuild.graph.symbolic import ONE, Size, sizes_of
from edgebuild.graph.values import is_op, opset_of, supersede

DOMAIN = "com.microsoft"
OPERATOR = "com.microsoft.MultiHeadAttention"

_MAX_SHAPE_STEPS = 8


class AttentionFusion(GraphPass):
    """Fuses attention, in the graph and all bodies."""

    @property
    def name(self) -> str:
        return "attention"

    def rewrite(self, model: ir.Model) -> int:
        if opset_of(model) < 13:  # Softmax meant something else
            return 0
        fused = 0
        for node in list(model.graph.all_nodes()):
            if not is_op(node, "Softmax") or node.graph is None:
                continue
            found = _match(node)
            if found is not None and _fuse(model.graph, found):
                model.graph.opset_imports.setdefault(DOMAIN, 1)
                fused += 1
        return fused


@dataclass(frozen=True, kw_only=True)
class _Attention:
    scores: ir.Node
    context: ir.Node
    guard: Guard | None
    scale: float
    mask: Mask | None
    merged: bool
    batch: Size
    heads: int
    head_size: Size
    queries: Size
    keys: Size
    value_size: Size

    def outer(self, batch: list[Atom], heads: list[Atom]) -> Axes:
        """The axes in front: batch and heads, or both in one."""
        return [[*batch, *heads]] if self.merged else [batch, heads]


def _match(softmax: ir.Node) -> _Attention | None:
    if not along_last_axis(softmax):
        return None
    guard = guard_of(softmax)
    weights = softmax.outputs[0] if guard is None else guard.where.outputs[0]
    context = only_reader(weights)
    if context is None or not is_op(context, "MatMul") or context.inputs[0] is not weights:
        return None
    if context.graph is not softmax.graph:
        return None
    mask, value, scale = None, softmax.inputs[0], 1.0
    if value is not None and only_reader(value) is softmax:
        found = mask_of(value)
        if found is not None:
            mask, value = found
    while value is not None:
        node = value.producer()
        if node is None or len(value.uses()) != 1 or value.is_graph_output() or node.graph is not softmax.graph:
            return None
        if is_op(node, "MatMul"):
            break
        scaled = scale_of(node) if is_op(node, "Mul", "Div") else None
        if scaled is None:
            return None
        value, scale = scaled[0], scale * scaled[1]
    if value is None or node is None:
        return None
    values = (node.inputs[0], node.inputs[1], context.inputs[1])
    shapes = [sizes_of(v) for v in values]
    query, key, held = (shape or [] for shape in shapes)
    if not len(query) == len(key) == len(held) or len(query) not in (3, 4):
        return None
    if any(v is None or v.dtype != ir.DataType.FLOAT for v in values):
        return None
    outer, (queries, head_size) = query[:-2], query[-2:]
    keys, value_size = key[-1], held[-1]
    if key != [*outer, head_size, keys] or held != [*outer, keys, value_size]:
        return None
    heads = outer[1] if len(outer) == 2 else _heads_in_batch(_value(node, 0), query)
    batch = outer[0] if len(outer) == 2 else (outer[0].divided_by(heads) if heads is not None else None)
    if heads is None or batch is None or heads.number is None:
        return None
    if any(size.number is None or size.number < 1 for size in (heads, head_size, value_size)):
        return None
    return _Attention(
        scores=node,
        context=context,
        guard=guard,
        scale=scale,
        mask=mask,
        merged=len(outer) == 1,
        batch=batch,
        heads=heads.number,
        head_size=head_size,
        queries=queries,
        keys=keys,
        value_size=value_size,
    )


def _heads_in_batch(query: ir.Value, sizes: list[Size]) -> Size | None:
    """The number of heads where they are merged with the batch, ``(B*H, S, D)``: told by the Reshape that merged them."""
    source = trace(query, atoms_of(*sizes), factors=True)
    node = source.value.producer()
    if node is None or not is_op(node, "Reshape"):
        return ONE
    before = sizes_of(node.inputs[0]) or []
    for heads in [
        size for size in (*(size.divided_by(sizes[-1]) for size in before[-1:]), *before) if size is not None
    ]:
        batch = sizes[0].divided_by(heads)
        if batch is None or heads.number is None or heads == ONE:
            continue
        b, h, s, d = atoms_of(batch, heads, *sizes[1:])
        if any(passed is node for passed in trace(query, [[*b, *h], s, d], factors=True).passed):
            return heads
    return None


def _fuse(main: ir.Graph, found: _Attention) -> bool:
    heads = Size(found.heads)
    b, h, s, d = atoms_of(found.batch, heads, found.queries, found.head_size)
    query = trace(_value(found.scores, 0), [*found.outer(b, h), s, d], factors=True)
    wanted: list[tuple[Source, Axes]] = [(query, [b, s, [*h, *d]])]
    b, h, d, t = atoms_of(found.batch, heads, found.head_size, found.keys)
    key = trace(_value(found.scores, 1), [*found.outer(b, h), d, t], factors=True)
    wanted.append((key, [b, t, [*h, *d]]))
    b, h, t, d = atoms_of(found.batch, heads, found.keys, found.value_size)
    held = trace(_value(found.context, 1), [*found.outer(b, h), t, d], factors=False)
    wanted.append((held, [b, t, [*h, *d]]))
    free = _only_for_this(found, [query, key, held])
    deliveries: list[Delivery] = []
    for source, axes in wanted:
        delivery = deliver(source, axes, may_project=free)
        if delivery is None:
            return False
        deliveries.append(delivery)
    scale = found.scale * query.factor * key.factor
    if not math.isfinite(scale) or np.float32(scale) <= 0:
        return False
    b, h, s, d = atoms_of(found.batch, heads, found.queries, found.value_size)
    joined: Axes = [b, s, [*h, *d]]
    result, axes = _follow(found.context.outputs[0], [*found.outer(b, h), s, d], joined)
    finish = arrange(joined, axes)
    mask = None if found.mask is None else found.mask.plan(found.batch, heads, found.queries, found.keys)
    if finish is None or (mask is None) != (found.mask is None):
        return False

    writer = Writer(main, found.context)
    inputs: list[ir.Value | None] = [delivery.write(writer) for delivery in deliveries]
    if mask is not None:
        inputs += [None, None, mask.write(writer, inputs[0])]
    out = writer.node(
        "MultiHeadAttention",
        inputs,
        {"num_heads": found.heads, "scale": float(np.float32(scale))},
        domain=DOMAIN,
        like=found.context.outputs[0],
        sizes=[found.batch, found.queries, heads * found.value_size],
    )
    if found.guard is not None:
        missing = writer.node("IsNaN", [out], sizes=sizes_of(out), dtype=ir.DataType.BOOL)
        zero = writer.constant("attention.zero", np.zeros((), np.float32), ir.DataType.FLOAT)
        out = writer.node("Where", [missing, zero, out], like=out, sizes=sizes_of(out))
    out = finish.write(writer, out)
    supersede(result, out)
    return True


def _value(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _follow(value: ir.Value, axes: Axes, joined: Axes) -> tuple[ir.Value, Axes]:
    """The last value behind the result, through Transpose and Reshape that nothing else reads, that can be had from the joined heads."""
    best = (value, axes)
    while (node := only_reader(value)) is not None:
        value = node.outputs[0]
        if is_op(node, "Transpose") and node.attributes.get("perm") is not None:
            axes = [axes[place] for place in node.attributes["perm"].as_ints()]
        elif is_op(node, "Reshape") and node.inputs[0] is not None:
            sizes = sizes_of(value)
            grouped = None if sizes is None else regroup([atom for axis in axes for atom in axis], sizes)
            if grouped is None:
                break
            axes = grouped
        else:
            break
        if node.graph is not best[0].graph:
            break
        if arrange(joined, axes) is not None:
            best = (value, axes)
    return best


def _only_for_this(found: _Attention, sources: list[Source]) -> bool:
    """Whether nothing but this attention reads what packed q, k and v are made of, from their roots on."""
    inside = {id(node) for source in sources for node in source.passed} | {id(found.scores), id(found.context)}
    packed = [source for source in sources if source.picks()]
    values = [source.value for source in packed] + [v for s in packed for node in s.passed for v in node.outputs]
    return all(_read_only_by(value, inside, 0) for value in values)


def _read_only_by(value: ir.Value, inside: set[int], depth: int) -> bool:
    """Whether a value serves these nodes only, if by way of shapes that are computed from it."""
    if value.is_graph_output() or depth > _MAX_SHAPE_STEPS:
        return False
    return all(
        id(use.node) in inside or all(_read_only_by(output, inside, depth + 1) for output in use.node.outputs)
        for use in value.uses()
    )
