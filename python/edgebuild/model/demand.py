"""What layers ask of a tensor, and how that reads on the other side of a reshaping operator.

A layer deep in the graph asks for a rank and for some sizes ("4 axes, axis 1 is 3: channels of conv1.weight"). Walking from
an input to that layer passes operators that move axes; each demand is carried back through them to the input.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, kw_only=True)
class Demand:
    """Axes are counted from 0 if the rank is known, else negative ones from the end (or non-negative from the front).

    Args:
        rank: Number of axes; None if any that holds ``sizes``.
        min_rank: The rank is at least this.
        sizes: Axis -> size that a weight fixes.
        roles: Axis -> what it is: "batch", "sequence", "space", "length", "waveform".
        at_least: Axis -> lower bound of its size.
        dtype: Element type that the layer needs; None: any.
        limit: Integers must be below this (rows of an embedding).
        product: Axis -> size of that axis after a flatten whose extent on this side is not known.
        reason: Where it comes from, for the announcement.
        scaled: The values are divided by 255 on the way: bytes of an image, if they are converted before.
        weak: Only a hint, e.g. from an operand of the same shape.
    """

    rank: int | None = None
    min_rank: int = 0
    sizes: dict[int, int] = field(default_factory=dict)
    roles: dict[int, str] = field(default_factory=dict)
    at_least: dict[int, int] = field(default_factory=dict)
    dtype: str | None = None
    limit: int | None = None
    product: int | None = None
    reason: str = ""
    scaled: bool = False
    weak: bool = False

    def axes(self, move: Callable[[int], int | None], rank: int | None, min_rank: int = 0) -> "Demand":
        """This demand with every axis renamed by ``move``; None drops the axis."""

        def renamed(table: dict[int, int]) -> dict[int, int]:
            return {new: value for axis, value in table.items() if (new := move(axis)) is not None}

        return replace(
            self,
            rank=rank,
            min_rank=min_rank,
            sizes=renamed(self.sizes),
            at_least=renamed(self.at_least),
            roles={new: role for axis, role in self.roles.items() if (new := move(axis)) is not None},
        )

    def ranked(self, rank: int) -> "Demand":
        """This demand for a tensor of ``rank`` axes, all axes non-negative."""
        if self.rank is not None:
            return self
        return self.axes(lambda a: a + rank if a < 0 else a, rank)


Carry = Callable[[Demand], Demand | None]
"""Carries a demand on an operator's result back to its operand; None: says nothing there."""


def same(demand: Demand) -> Demand | None:
    """Elementwise operators."""
    return demand


def retyped(demand: Demand) -> Demand | None:
    """A conversion: shape stays, the element type on the other side is free."""
    return replace(demand, dtype="uint8" if demand.scaled else None)


def scaled(demand: Demand) -> Demand | None:
    """A division by 255."""
    return replace(demand, scaled=True)


def joined(demand: Demand) -> Demand | None:
    """``cat``: each part has at most the sizes of the whole; trying finds out how much less."""
    return replace(demand, weak=True)


def permuted(order: list[int]) -> Carry:
    """``permute(order)``: axis i of the result is axis ``order[i]`` of the operand."""
    rank = len(order)
    source = [axis % rank for axis in order]

    def carry(demand: Demand) -> Demand | None:
        full = demand.ranked(rank)
        return full.axes(lambda a: source[a] if 0 <= a < rank else None, rank) if full.rank == rank else None

    return carry


def transposed(first: int, second: int) -> Carry:
    """``transpose(first, second)``; with mixed or front axes and no rank, the least rank that has them is taken."""

    def carry(demand: Demand) -> Demand | None:
        a, b = first, second
        rank = demand.rank
        if rank is None and (a >= 0 or b >= 0):
            rank = max(3, a + 1, b + 1, demand.min_rank)
            demand = demand.ranked(rank)
        if rank is not None:
            a, b = a % rank, b % rank
        return demand.axes(lambda x: b if x == a else a if x == b else x, rank, demand.min_rank)

    return carry


def inserted(axis: int) -> Carry:
    """``unsqueeze(axis)``: the operand lacks that axis."""

    def carry(demand: Demand) -> Demand | None:
        if demand.rank is None:
            if axis >= 0:
                return demand if all(a < 0 for a in demand.sizes) else None
            return demand.axes(lambda a: None if a == axis else (a + 1 if a < axis else a), None)
        at = axis % demand.rank
        return demand.axes(lambda a: None if a == at else (a - 1 if a > at else a), demand.rank - 1)

    return carry


def removed(axis: int, size: int | None, at_least: int = 1) -> Carry:
    """``select``, ``squeeze`` or a reduction on ``axis``: the operand has one more axis, of ``size`` or at least ``at_least``."""

    def carry(demand: Demand) -> Demand | None:
        if demand.rank is None and axis >= 0:
            moved = demand.axes(lambda a: a, None, max(axis + 1, demand.min_rank + 1))
            if axis == 1 and set(demand.sizes) == {-1}:  # x[:, t] before a linear layer: (batch, sequence, features)
                moved = demand.ranked(2).axes(lambda a: a + 1 if a >= axis else a, 3)
        elif demand.rank is None:
            moved = demand.axes(lambda a: a - 1 if a <= axis else a, None)
        else:
            rank = demand.rank + 1
            at = axis % rank
            moved = demand.axes(lambda a: a + 1 if a >= at else a, rank)
        at = axis if moved.rank is None else axis % moved.rank
        if size is not None:
            return replace(moved, sizes={**moved.sizes, at: size})
        return replace(moved, at_least={**moved.at_least, at: at_least}) if at_least > 1 else moved

    return carry


def resized(axis: int, factor: int | None, at_least: int = 1) -> Carry:
    """``slice``, ``cat``, ``chunk`` on ``axis``: its size is lost, or multiplied by ``factor``."""

    def carry(demand: Demand) -> Demand | None:
        at = axis
        if demand.rank is not None:
            at = axis % demand.rank
        sizes = dict(demand.sizes)
        old = sizes.pop(at, None)
        if old is not None and factor is not None:
            sizes[at] = old * factor
        lower = {**demand.at_least, at: at_least} if at_least > 1 else demand.at_least
        return replace(demand, sizes=sizes, at_least=lower)

    return carry


def projected(demand: Demand) -> Demand | None:
    """A layer that changes only the last axis (linear, layer norm): rank and leading axes stay, as a hint."""
    last = -1 if demand.rank is None else demand.rank - 1
    kept = demand.axes(lambda a: None if a == last else a, demand.rank, demand.min_rank)
    return replace(kept, dtype=None, limit=None, product=None, weak=True)


def looked_up(demand: Demand) -> Demand | None:
    """An embedding: the result has one axis more, at the end."""
    last = -1 if demand.rank is None else demand.rank - 1
    kept = demand.axes(
        lambda a: None if a == last else a + 1 if a < 0 else a,
        None if demand.rank is None else demand.rank - 1,
        max(demand.min_rank - 1, 0),
    )
    return replace(kept, dtype=None, limit=None, product=None, weak=True)


def stacked(axis: int) -> Carry:
    """``stack(axis)``: like ``unsqueeze``, and the size on that axis is lost."""
    return inserted(axis)


def flattened(demand: Demand) -> Demand | None:
    """``flatten``/``view``: only the number of features survives; ``product`` keeps it."""
    if "waveform" in demand.roles.values():  # torch.stft pads by way of a view with one axis more
        return replace(demand, rank=2, sizes={}, roles={0: "batch", 1: "waveform"}, at_least={})
    features = demand.sizes.get(-1)
    if features is None and demand.rank is not None:
        features = demand.sizes.get(demand.rank - 1)
    return Demand(product=features, dtype=demand.dtype, scaled=demand.scaled, limit=demand.limit, reason=demand.reason)


def unspaced(demand: Demand) -> Demand | None:
    """Pooling, padding and interpolation: rank and leading axes stay, sizes of the rest are lost."""
    if demand.rank is None:
        return None
    return replace(demand, sizes={a: s for a, s in demand.sizes.items() if a <= 1}, at_least={})
