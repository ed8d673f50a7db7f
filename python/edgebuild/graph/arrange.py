"""Writes the nodes that bring a value's elements into other axes, and columns of constant projections without any node for it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgebuild.graph.layout import Atom, Axes, Source
from edgebuild.graph.symbolic import Size, constant_target, product, sizes_of
from edgebuild.graph.values import add_initializer, constant_array, float_attribute, int_attribute, is_op


class Writer:
    """Puts new nodes before an existing one."""

    def __init__(self, main: ir.Graph, place: ir.Node) -> None:
        self._main = main
        self._place = place

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, int | float | str | list[int]] | None = None,
        *,
        domain: str = "",
        like: ir.Value | None = None,
        sizes: Sequence[Size] | None = None,
        dtype: ir.DataType | None = None,
    ) -> ir.Value:
        """A new node's only output; its dtype as that of ``like``, its shape from ``sizes``."""
        node = ir.node(op_type, inputs, attributes or {}, domain=domain)
        graph = self._place.graph
        if graph is None:
            msg = f"node '{self._place.name}' is in no graph"
            raise ValueError(msg)
        graph.insert_before(self._place, node)
        output = node.outputs[0]
        kind = dtype if dtype is not None else (None if like is None else like.dtype)
        if kind is not None:
            output.type = ir.TensorType(kind)
        if sizes is not None:
            output.shape = shape_of(sizes)
        return output

    def constant(self, wanted: str, array: npt.NDArray[np.generic], dtype: ir.DataType) -> ir.Value:
        """A new initialiser of the main graph."""
        return add_initializer(self._main, wanted, array, dtype)

    def integers(self, wanted: str, numbers: Sequence[int]) -> ir.Value:
        """A new vector of int64."""
        return self.constant(wanted, np.array(numbers, dtype=np.int64), ir.DataType.INT64)


def shape_of(sizes: Sequence[Size]) -> ir.Shape:
    """The sizes as a shape; products of symbols become unknown axes."""
    return ir.Shape([size.name if size.number is None else size.number for size in sizes])


def axis_sizes(axes: Axes) -> list[Size]:
    """The size of each axis."""
    return [product([atom.size for atom in axis]) for axis in axes]


@dataclass(frozen=True)
class Arrangement:
    """Reshape, Transpose, Reshape; each may be missing. Targets and permutation are constant."""

    split: tuple[int, ...] | None
    permutation: tuple[int, ...] | None
    join: tuple[int, ...] | None
    steps: tuple[tuple[Size, ...], ...]

    def write(self, writer: Writer, value: ir.Value) -> ir.Value:
        """The nodes."""
        name = value.name or "value"
        steps = iter(self.steps)
        if self.split is not None:
            target = writer.integers(f"{name}.split", self.split)
            value = writer.node("Reshape", [value, target], like=value, sizes=next(steps))
        if self.permutation is not None:
            value = writer.node("Transpose", [value], {"perm": list(self.permutation)}, like=value, sizes=next(steps))
        if self.join is not None:
            target = writer.integers(f"{name}.join", self.join)
            value = writer.node("Reshape", [value, target], like=value, sizes=next(steps))
        return value


def arrange(axes: Axes, wanted: Axes) -> Arrangement | None:
    """How to get from axes of the same atoms to the wanted ones, with few steps; None if only with sizes computed at run time."""
    goal = [atom for axis in wanted for atom in axis]
    order = {id(atom): place for place, atom in enumerate(goal)}
    if sorted(id(atom) for axis in axes for atom in axis) != sorted(order):
        return None
    split = None
    steps: list[tuple[Size, ...]] = []
    permutation = _permutation(axes, order)
    if permutation is None:  # an axis has to be taken apart first
        fine: Axes = [[atom] for axis in axes for atom in axis]
        target = constant_target(axis_sizes(axes), axis_sizes(fine))
        if target is None:
            return None
        split, axes = tuple(target), fine
        steps.append(tuple(axis_sizes(fine)))
        permutation = _permutation(axes, order)
        if permutation is None:
            return None
    moved = [axes[place] for place in permutation]
    if list(permutation) != list(range(len(permutation))):
        steps.append(tuple(axis_sizes(moved)))
    else:
        permutation = None
    join = None
    if axis_sizes(moved) != axis_sizes(wanted):
        target = constant_target(axis_sizes(moved), axis_sizes(wanted))
        if target is None:
            return None
        join = tuple(target)
        steps.append(tuple(axis_sizes(wanted)))
    return Arrangement(split, permutation, join, tuple(steps))


def _permutation(axes: Axes, order: dict[int, int]) -> tuple[int, ...] | None:
    """The order of whole axes that brings the atoms into the wanted order; axes of size 1 stay where they are, as far as that goes."""
    full = [place for place, axis in enumerate(axes) if axis]
    if any(
        order[id(b)] != order[id(a)] + 1 for place in full for a, b in zip(axes[place], axes[place][1:], strict=False)
    ):
        return None
    ranked = iter(sorted(full, key=lambda place: order[id(axes[place][0])]))
    return tuple(next(ranked) if axis else place for place, axis in enumerate(axes))


@dataclass(frozen=True)
class Linear:
    """``x @ weight + bias`` with constants; ``weight (K, N)``, ``bias (N)`` or None."""

    x: ir.Value
    weight: npt.NDArray[np.generic]
    bias: npt.NDArray[np.generic] | None
    nodes: tuple[ir.Node, ...]


def linear_of(value: ir.Value) -> Linear | None:
    """The projection that makes a value: MatMul, Add of MatMul, or Gemm, nothing inside of which is read elsewhere."""
    node = value.producer()
    if node is None:
        return None
    if is_op(node, "Gemm"):
        return _gemm(node)
    bias, nodes = None, [node]
    if is_op(node, "Add"):
        for index in (0, 1):
            array = constant_array(node.inputs[index])
            inner = node.inputs[1 - index]
            maker = inner.producer() if inner is not None else None
            if array is not None and inner is not None and maker is not None and is_op(maker, "MatMul"):
                if array.ndim != 1 or len(inner.uses()) != 1 or inner.is_graph_output():
                    return None
                bias, nodes, node = array, [maker, node], maker
                break
        else:
            return None
    if not is_op(node, "MatMul") or node.inputs[0] is None:
        return None
    weight = constant_array(node.inputs[1])
    if weight is None or weight.ndim != 2 or (bias is not None and bias.size != weight.shape[1]):
        return None
    return Linear(node.inputs[0], weight, bias, tuple(nodes))


def _gemm(node: ir.Node) -> Linear | None:
    flags = [int_attribute(node, "transA", 0), int_attribute(node, "transB", 0)]
    factors = [float_attribute(node, "alpha", 1.0), float_attribute(node, "beta", 1.0)]
    weight = constant_array(node.inputs[1])
    if weight is None or node.inputs[0] is None or flags[0] != 0 or factors != [1.0, 1.0]:
        return None
    weight = weight.T if flags[1] else weight
    bias_value = node.inputs[2] if len(node.inputs) > 2 else None
    bias = constant_array(bias_value)
    if bias_value is not None and (bias is None or bias.ndim != 1 or bias.size != weight.shape[1]):
        return None
    return Linear(node.inputs[0], weight, bias, (node,))


@dataclass(frozen=True)
class Delivery:
    """How a traced value is had in the wanted axes: some columns of its root, then an arrangement."""

    source: Source
    columns: npt.NDArray[np.int64] | None
    linear: Linear | None
    sizes: tuple[Size, ...]
    arrangement: Arrangement

    def write(self, writer: Writer) -> ir.Value:
        """The nodes."""
        value = self.source.value
        if self.columns is not None and self.linear is not None:
            value = self._project(writer, self.linear, self.columns)
        elif self.columns is not None:
            first, last = int(self.columns[0]), int(self.columns[-1]) + 1
            name = value.name or "value"
            bounds = [writer.integers(f"{name}.{part}", [n]) for part, n in (("from", first), ("to", last))]
            last_axis = writer.integers(f"{name}.axis", [len(self.sizes) - 1])
            value = writer.node("Slice", [value, *bounds, last_axis], like=value, sizes=self.sizes)
        return self.arrangement.write(writer, value)

    def _project(self, writer: Writer, linear: Linear, columns: npt.NDArray[np.int64]) -> ir.Value:
        root = self.source.value
        name, dtype = root.name or "projection", root.dtype or ir.DataType.FLOAT
        weight = writer.constant(f"{name}.weight", np.ascontiguousarray(linear.weight[:, columns]), dtype)
        value = writer.node("MatMul", [linear.x, weight], like=root, sizes=self.sizes)
        if linear.bias is not None:
            bias = writer.constant(f"{name}.bias", linear.bias[columns], dtype)
            value = writer.node("Add", [value, bias], like=root, sizes=self.sizes)
        return value


def deliver(source: Source, wanted: Axes, *, may_project: bool) -> Delivery | None:
    """Plan how to have a traced value in the wanted axes; None if it takes more than columns, Reshape and Transpose.

    Args:
        source: What ``trace`` found.
        wanted: Axes of the atoms that are read whole.
        may_project: Whether a constant projection may be written again with fewer columns: nothing else needs it.
    """
    if not source.picks():
        arrangement = arrange(source.axes, wanted)
        sizes = sizes_of(source.value)
        return None if arrangement is None or sizes is None else Delivery(source, None, None, tuple(sizes), arrangement)
    if not source.axes or any(atom.pick is not None for axis in source.axes[:-1] for atom in axis):
        return None
    last = source.axes[-1]
    columns = _columns(last)
    if columns is None:
        return None
    linear = linear_of(source.value) if may_project else None
    if linear is not None and linear.weight.shape[1] != _total(last):
        return None
    if linear is None and (np.diff(columns) != 1).any():
        return None
    axes = [*source.axes[:-1], [atom for atom in last if atom.pick is None]]
    arrangement = arrange(axes, wanted)
    if arrangement is None:
        return None
    return Delivery(source, columns, linear, tuple(axis_sizes(axes)), arrangement)


def _total(axis: Sequence[Atom]) -> int:
    """The size of an axis of known size."""
    return product([atom.size for atom in axis]).factor


def _columns(axis: Sequence[Atom]) -> npt.NDArray[np.int64] | None:
    """Which indices of an axis are read."""
    sizes = [atom.size.number for atom in axis]
    known = [size for size in sizes if size is not None]
    if len(known) != len(sizes):
        return None
    grid = np.arange(_total(axis), dtype=np.int64).reshape(known)
    return grid[tuple(slice(None) if atom.pick is None else atom.pick for atom in axis)].ravel()
