"""Where the elements of a value come from: axes followed backwards through operators that only move elements.

A value's axes are lists of atoms, outermost first; an atom is a part of an axis that no operator on the way takes apart. Reshape
groups atoms anew, Transpose permutes the groups, Gather, Slice and Split pick one index of an atom. There are no atoms of size 1:
where such an axis stands makes no difference to the order of elements.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from edgebuild.graph.symbolic import ONE, Size, product, sizes_of
from edgebuild.graph.values import constant_array, input_at, int_attribute, is_op

_MAX_STEPS = 32


@dataclass(frozen=True, eq=False)
class Atom:
    """A part of an axis; equal only to itself. ``pick``: the one index of it that is read."""

    size: Size
    pick: int | None = None


Axes = list[list[Atom]]


def atoms_of(*sizes: Size) -> list[list[Atom]]:
    """One axis a size, each of one new atom, or of none where the size is 1."""
    return [[] if size == ONE else [Atom(size)] for size in sizes]


@dataclass
class Source:
    """Where elements come from: ``value``, its axes as atoms, and the constant they were multiplied by on the way."""

    value: ir.Value
    axes: Axes
    factor: float = 1.0
    passed: list[ir.Node] = field(default_factory=list)

    def order(self) -> list[Atom]:
        """The atoms that are read whole, outermost first."""
        return [atom for axis in self.axes for atom in axis if atom.pick is None]

    def picks(self) -> list[Atom]:
        """The atoms of which one index is read."""
        return [atom for axis in self.axes for atom in axis if atom.pick is not None]


def trace(value: ir.Value, axes: Axes, *, factors: bool) -> Source:
    """Follow a value backwards as far as its elements are only moved.

    Args:
        value: Where to start.
        axes: Its axes.
        factors: Whether to go through products with and quotients by one positive finite constant, too.
    """
    source = Source(value, axes)
    for _ in range(_MAX_STEPS):
        node = source.value.producer()
        if node is None or not node.inputs or node.inputs[0] is None:
            break
        if factors and is_op(node, "Mul", "Div"):
            scaled = scale_of(node)
            if scaled is None:
                break
            source.passed.append(node)
            source.value, source.factor = scaled[0], source.factor * scaled[1]
            continue
        step = _STEPS.get(node.op_type) if is_op(node, node.op_type) else None
        before = step(node, source.value, source.axes) if step is not None else None
        if before is None:
            break
        source.passed.append(node)
        source.value, source.axes = node.inputs[0], before
    return source


def scale_of(node: ir.Node) -> tuple[ir.Value, float] | None:
    """``x`` and ``c`` of ``x * c``, ``c * x`` or ``x / c`` with one constant, positive and finite, that adds no axes."""
    for index in (0, 1) if node.op_type == "Mul" else (1,):
        other, array = node.inputs[1 - index], constant_array(input_at(node, index), max_elements=1)
        if other is None or other.shape is None or array is None or array.size != 1 or array.ndim > len(other.shape):
            continue
        if array.dtype.kind != "f":
            continue
        factor = float(array.item())
        if not (math.isfinite(factor) and factor > 0):
            return None
        return other, factor if node.op_type == "Mul" else 1 / factor
    return None


def regroup(atoms: Sequence[Atom], sizes: Sequence[Size]) -> Axes | None:
    """The atoms in consecutive groups of these sizes; at most one of them may be unknown."""
    unknown = [index for index, size in enumerate(sizes) if any(s.startswith("?") for s in size.symbols)]
    if len(unknown) > 1:
        return None
    split = unknown[0] if unknown else len(sizes)
    left = _take(list(atoms), sizes[:split])
    if left is None:
        return None
    groups, rest = left
    if not unknown:
        return None if rest else groups
    right = _take(rest[::-1], sizes[:split:-1])
    if right is None:
        return None
    tail, middle = right
    return [*groups, middle[::-1], *[group[::-1] for group in tail[::-1]]]


def _take(atoms: list[Atom], sizes: Sequence[Size]) -> tuple[Axes, list[Atom]] | None:
    """Groups of these sizes from the front, and what is left."""
    groups: Axes = []
    for size in sizes:
        group: list[Atom] = []
        total = ONE
        while total != size:
            if not atoms or size.divided_by(total) is None:
                return None
            atom = atoms.pop(0)
            group.append(atom)
            total = total * atom.size
        groups.append(group)
    return groups, atoms


def _transpose(node: ir.Node, value: ir.Value, axes: Axes) -> Axes | None:
    attribute = node.attributes.get("perm")
    perm = list(range(len(axes)))[::-1] if attribute is None else list(attribute.as_ints())
    if sorted(perm) != list(range(len(axes))):
        return None
    before: Axes = [[] for _ in axes]
    for axis, origin in enumerate(perm):
        before[origin] = axes[axis]
    return before


def _reshape(node: ir.Node, value: ir.Value, axes: Axes) -> Axes | None:
    sizes = sizes_of(node.inputs[0])
    return None if sizes is None else regroup([atom for axis in axes for atom in axis], sizes)


def _squeeze(node: ir.Node, value: ir.Value, axes: Axes) -> Axes | None:
    places = _axes_input(node)
    sizes = sizes_of(node.inputs[0])
    if sizes is None:
        return None
    if places is None:
        return None
    gone = {place % len(sizes) for place in places}
    if len(gone) + len(axes) != len(sizes):
        return None
    left = iter(axes)
    return [[] if place in gone else next(left) for place in range(len(sizes))]


def _unsqueeze(node: ir.Node, value: ir.Value, axes: Axes) -> Axes | None:
    places = _axes_input(node)
    if places is None:
        return None
    gone = {place % len(axes) for place in places}
    if any(axes[place] for place in gone):
        return None
    return [axis for place, axis in enumerate(axes) if place not in gone]


def _axes_input(node: ir.Node) -> list[int] | None:
    array = constant_array(input_at(node, 1), max_elements=16)
    return None if array is None or array.size == 0 else [int(place) for place in array.ravel()]


def _gather(node: ir.Node, value: ir.Value, axes: Axes) -> Axes | None:
    index = constant_array(input_at(node, 1), max_elements=1)
    sizes, axis = sizes_of(node.inputs[0]), int_attribute(node, "axis", 0)
    if index is None or index.ndim or sizes is None or axis is None or len(sizes) != len(axes) + 1:
        return None
    place = axis % len(sizes)
    count = sizes[place].number
    if count is None or not -count <= int(index.item()) < count:
        return None
    return [*axes[:place], _picked(count, int(index.item()) % count), *axes[place:]]


def _slice(node: ir.Node, value: ir.Value, axes: Axes) -> Axes | None:
    bounds = [constant_array(input_at(node, index), max_elements=1) for index in (1, 2, 3)]
    if any(bound is None or bound.size != 1 for bound in bounds):
        return None
    if input_at(node, 4) is not None:
        step = constant_array(input_at(node, 4), max_elements=1)
        if step is None or step.size != 1 or int(step.item()) != 1:
            return None
    start, end, axis = (int(bound.item()) for bound in bounds if bound is not None)
    sizes = sizes_of(node.inputs[0])
    place = axis % len(axes)
    count = None if sizes is None else sizes[place].number
    if count is None:
        return None
    start, end, _ = slice(start, end).indices(count)
    return _part(axes, place, start, end - start, count)


def _split(node: ir.Node, value: ir.Value, axes: Axes) -> Axes | None:
    sizes, axis = sizes_of(node.inputs[0]), int_attribute(node, "axis", 0)
    if sizes is None or axis is None:
        return None
    place = axis % len(axes)
    count, index = sizes[place].number, value.index()
    if count is None or index is None:
        return None
    if input_at(node, 1) is not None:
        parts = constant_array(input_at(node, 1), max_elements=64)
        if parts is None:
            return None
        lengths = [int(part) for part in parts.ravel()]
    else:
        share = -(-count // len(node.outputs))
        lengths = [min(share, count - share * number) for number in range(len(node.outputs))]
    if sum(lengths) != count or min(lengths) < 1:
        return None
    return _part(axes, place, sum(lengths[:index]), lengths[index], count)


def _part(axes: Axes, place: int, start: int, length: int, count: int) -> Axes | None:
    """One of the equal parts of an axis."""
    if length < 1 or count % length or start % length or product([atom.size for atom in axes[place]]) != Size(length):
        return None
    picked = _picked(count // length, start // length)
    return [*axes[:place], [*picked, *axes[place]], *axes[place + 1 :]]


def _picked(count: int, index: int) -> list[Atom]:
    return [] if count == 1 else [Atom(Size(count), pick=index)]


_STEPS: dict[str, Callable[[ir.Node, ir.Value, Axes], Axes | None]] = {
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Gather": _gather,
    "Slice": _slice,
    "Split": _split,
}
