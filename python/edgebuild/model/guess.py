"""Likely types of one input: what its layers ask for, what the tracer recorded, what its name and the other inputs suggest."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgebuild.model.demand import Demand
from edgebuild.model.fill import is_lengths
from edgebuild.model.graphfacts import Facts
from edgebuild.model.layers import square_side
from edgebuild.model.signature import TensorType, ValueSpec

Axis = int | str


@dataclass(frozen=True, kw_only=True)
class Guess:
    """One alternative for one input: sizes, or names of sizes that are still to be found."""

    dtype: str
    axes: tuple[Axis, ...]
    reason: str
    limit: int | None = None
    channels: int | None = None


def from_spec(spec: ValueSpec) -> Guess:
    """The one guess for an input that the user has given."""
    assert isinstance(spec.type, TensorType)
    shape = tuple(d for d in spec.type.shape or () if isinstance(d, int))
    return Guess(dtype=spec.type.dtype, axes=shape, reason="given")


def merge(demands: Sequence[Demand]) -> Demand | None:
    """One demand out of many: strong ones first, then in the order in which the layers were reached."""
    ordered = sorted(demands, key=lambda one: one.weak)
    if not ordered:
        return None
    rank = next((one.rank for one in ordered if one.rank is not None), None)
    merged = Demand(rank=rank, reason=ordered[0].reason, weak=ordered[0].weak)
    for one in ordered:
        fitted = one
        if rank is not None:
            if one.rank not in (None, rank):
                continue
            fitted = one.ranked(rank)
            if any(not 0 <= axis < rank for axis in fitted.sizes):
                continue
        merged = replace(
            merged,
            sizes={**fitted.sizes, **merged.sizes},
            roles={**fitted.roles, **merged.roles},
            at_least={
                a: max(merged.at_least.get(a, 1), fitted.at_least.get(a, 1))
                for a in {*merged.at_least, *fitted.at_least}
            },
            min_rank=max(merged.min_rank, fitted.min_rank),
            dtype=merged.dtype or fitted.dtype,
            limit=fitted.limit if merged.limit is None else min(merged.limit, fitted.limit or merged.limit),
            product=merged.product or fitted.product,
            reason=merged.reason or fitted.reason,
        )
    return merged


def fits_together(names: Sequence[str], guesses: Sequence["Guess"]) -> bool:
    """Whether a mask or lengths along a sequence meet another input that has one."""
    along = [g for n, g in zip(names, guesses, strict=True) if _marks(n, g)]
    others = [g for n, g in zip(names, guesses, strict=True) if not _marks(n, g)]
    needs = any("sequence" in g.axes or len(g.axes) == 1 for g in along)
    return not (needs and others) or any(set(g.axes) & {"sequence", "length", "space"} for g in others)


def _marks(name: str, guess: "Guess") -> bool:
    return guess.dtype == "bool" or "mask" in name.lower() or is_lengths(name, guess.dtype)


def guesses_for(name: str, facts: Facts, every: Mapping[str, Facts]) -> list[Guess]:
    """What one input may be, likeliest first; empty if nothing is known. ``every``: facts of all inputs, for its peers."""
    dtype, shape = facts.recorded
    merged = merge(facts.demands)
    found: list[Guess] = []
    if shape is not None:
        limit = merged.limit if merged else None
        found.append(Guess(dtype=dtype or "float32", axes=shape, reason="recorded by the tracer", limit=limit))
    if not facts.used and shape is None:
        return [Guess(dtype="float32", axes=(1,), reason="the model does not use it")]
    if merged is not None:
        found += _from_demand(name, dtype, merged)
    for peer in facts.peers:
        other = merge(every[peer].demands) if peer in every else None
        if other is not None and (merged is None or (merged.weak and merged.rank is None)):
            found += _from_demand(name, dtype, replace(other, reason=f"same shape as '{peer}'"))
    oblong = [
        replace(g, axes=(*g.axes[:2], "height", "width"))
        for g in found
        if g.axes[2:] == ("space", "space") and len(g.axes) == 4
    ]
    return list(dict.fromkeys([*found, *oblong]))[:12]


def _from_demand(name: str, recorded: str | None, demand: Demand) -> list[Guess]:
    if demand.product is not None and demand.rank is None and not demand.sizes:
        dtype = recorded or demand.dtype or _dtype_by_name(name)
        flat = Guess(dtype=dtype, axes=("batch", demand.product), reason=demand.reason)
        square = square_side(demand.product)
        if square is None:
            return [flat]
        picture = (square[0], square[1], square[1])
        reason = f"{demand.product} features of {demand.reason} after a flatten, taken as a square image"
        return [replace(flat, axes=("batch", *picture), reason=reason), flat]
    needed = max([demand.min_rank, *(-a if a < 0 else a + 1 for a in (*demand.sizes, *demand.roles, *demand.at_least))])
    if demand.rank is not None:
        ranks = [demand.rank]
    elif demand.limit is not None or demand.dtype in ("int64", "bool"):
        first = max(2, needed)
        ranks = [first, *(r for r in (1, 3) if r >= needed and r != first)]
    elif not demand.sizes and not demand.roles:
        return []  # only a rank bound: not enough to guess from
    else:
        first = max(2, needed)
        ranks = [first, first + 1, first + 2]
    dtypes = [recorded or demand.dtype or _dtype_by_name(name)]
    if demand.weak and recorded is None:
        dtypes += [t for t in ("int64", "float32", "bool") if t not in dtypes]
    return [
        Guess(
            dtype=dtype,
            axes=_axes(demand.ranked(rank), rank),
            reason=demand.reason,
            limit=demand.limit,
            channels=demand.ranked(rank).sizes.get(1) if "space" in demand.roles.values() else None,
        )
        for rank in ranks
        for dtype in dtypes
    ]


def _axes(demand: Demand, rank: int) -> tuple[Axis, ...]:
    axes: list[Axis] = []
    batched = "batch" in demand.roles.values()
    for axis in range(rank):
        if axis in demand.sizes:
            axes.append(demand.sizes[axis])
        elif demand.at_least.get(axis, 1) > 1:
            axes.append(demand.at_least[axis])
        elif axis in demand.roles:
            axes.append(demand.roles[axis])
        elif axis == 0 and not batched:
            axes.append("batch")
        else:
            axes.append("sequence")
    if len(axes) == 4 and axes[2:] == ["sequence", "sequence"]:
        axes[2:] = ["space", "space"]
    return tuple(axes)


def _dtype_by_name(name: str) -> str:
    lower = name.lower()
    if re.search(r"mask|len|ids?$|idx|index|token|label|input_ids|position|src$|tgt$", lower):
        return "int64"
    return "float32"


def from_others(name: str, names: Sequence[str], known: Mapping[str, list[Guess]]) -> list[Guess]:
    """Guesses for an input about which the graph says nothing, from the shapes of the other inputs and from its name."""
    others = [known[other][0] for other in names if known[other]]
    if not others:
        return []
    dtype = _dtype_by_name(name)
    lower = name.lower()
    shapes: list[tuple[Axis, ...]] = []
    if "len" in lower:
        shapes.append(("batch",))
    if "mask" in lower:
        shapes += [("batch", "sequence"), ("sequence", "sequence")]
    shapes += [other.axes for other in others]
    shapes += [("batch", "sequence"), ("batch",), ("batch", 1), ("batch", 1, "sequence"), ("sequence",), ()]
    dtypes = [dtype, *(t for t in (("bool", "float32") if dtype == "int64" else ("int64", "bool")))]
    return [
        Guess(dtype=kind, axes=shape, reason="tried until the model accepted it")
        for shape in dict.fromkeys(shapes)
        for kind in dtypes
    ]
