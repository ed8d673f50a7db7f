"""Infers the inputs of a TorchScript model from its graph, by guessing what the layers ask for and trying it."""

import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgebuild.errors import ModelError
from edgebuild.model.demand import Demand
from edgebuild.model.fill import plain_value
from edgebuild.model.graphfacts import Facts
from edgebuild.model.layers import square_side
from edgebuild.model.signature import TensorType, ValueSpec

Run = Callable[[Mapping[str, Any]], Any]
"""Runs the model on one input set; raises what it raises."""

_NICE = [
    224,
    32,
    28,
    64,
    8,
    16,
    96,
    128,
    112,
    48,
    256,
    299,
    192,
    160,
    384,
    320,
    512,
    227,
    416,
    640,
    40,
    56,
    80,
    100,
    20,
    24,
]
_SPACE = list(
    dict.fromkeys([*_NICE, 12, 10, 14, *range(8, 129), *range(4, 8), *range(130, 257, 2), *range(264, 513, 8)])
)
_SEQUENCE = list(dict.fromkeys([16, 8, 32, 10, 20, 64, 128, 12, 5, 7, 24, 50, 100, 256, 512, *range(2, 65), 1]))
_LENGTH = list(
    dict.fromkeys([128, 1024, 16000, 64, 256, 100, 32, 512, 2048, 4096, 8000, 16, 50, *range(8, 129), 22050, 48000])
)
_DEPTH = [8, 16, 32, 4, 12, 10, 64]
_MAX_ALTERNATIVES = 60
_BUDGET_S = 90.0

Axis = int | str


@dataclass(frozen=True, kw_only=True)
class Guess:
    """One alternative for one input: sizes, or names of sizes that are still to be found."""

    dtype: str
    axes: tuple[Axis, ...]
    reason: str
    limit: int | None = None
    channels: int | None = None


def infer_inputs(
    names: Sequence[str], fixed: Mapping[str, ValueSpec], facts: Mapping[str, Facts], run: Run
) -> "Inferred":
    """Finds dtype and shape of every input that ``fixed`` does not give.

    Args:
        names: Flat input names in order.
        fixed: What the user gave.
        facts: What the graph shows.
        run: Tries an input set.

    Raises:
        ModelError: Nothing that was tried is accepted; says what is known and which ``--input`` to give.
    """
    alternatives = {
        name: [_from_spec(fixed[name])] if name in fixed else _guesses(name, facts[name], facts) for name in names
    }
    for name in names:
        if not alternatives[name]:
            alternatives[name] = _from_others(name, names, alternatives)
    unknown = [name for name in names if not alternatives[name]]
    if unknown:
        raise _failure(names, facts, alternatives, unknown, None)
    search = _Search(names, alternatives, run)
    found = search.go()
    if found is None:
        raise _failure(names, facts, alternatives, [n for n in names if n not in fixed], search.first_error)
    guesses, sizes = found
    specs, sentences = [], []
    for name, guess in zip(names, guesses, strict=True):
        shape = tuple(sizes[a] if isinstance(a, str) else a for a in guess.axes)
        specs.append(ValueSpec(name=name, type=TensorType(dtype=guess.dtype, shape=shape)))
        if name not in fixed:
            sentences.append(_sentence(name, guess, shape, facts[name], search.tries))
    return Inferred(specs=tuple(specs), assumptions=tuple(sentences))


@dataclass(frozen=True, kw_only=True)
class Inferred:
    """The inputs' types, and one sentence for each that was guessed."""

    specs: tuple[ValueSpec, ...]
    assumptions: tuple[str, ...]


def _from_spec(spec: ValueSpec) -> Guess:
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


def _guesses(name: str, facts: Facts, every: Mapping[str, Facts]) -> list[Guess]:
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
    return list(dict.fromkeys(found))[:12]


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


def _from_others(name: str, names: Sequence[str], known: Mapping[str, list[Guess]]) -> list[Guess]:
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


class _Search:
    """Tries combinations, the likeliest first; error messages give further sizes to try."""

    def __init__(self, names: Sequence[str], alternatives: Mapping[str, list[Guess]], run: Run) -> None:
        self.names = names
        self.alternatives = alternatives
        self.run = run
        self.deadline = time.monotonic() + _BUDGET_S
        self.first_error: Exception | None = None
        self.suspicious: tuple[tuple[Guess, ...], dict[str, int]] | None = None
        self.tries = 0

    def go(self) -> tuple[tuple[Guess, ...], dict[str, int]] | None:
        lists = [list(enumerate(self.alternatives[name])) for name in self.names]
        combos = sorted(itertools.islice(itertools.product(*lists), 5000), key=lambda c: sum(i for i, _ in c))
        combinations = [tuple(guess for _, guess in combo) for combo in combos[:_MAX_ALTERNATIVES]]
        for most in (4, 60, 1000):
            for guesses in combinations:
                found = self._sizes(guesses, most)
                if found is not None:
                    return guesses, found
                if time.monotonic() > self.deadline:
                    return self.suspicious
            if self.suspicious is not None and most >= 60:
                return self.suspicious
        return self.suspicious

    def _sizes(self, guesses: tuple[Guess, ...], most: int) -> dict[str, int] | None:
        variables = sorted({axis for guess in guesses for axis in guess.axes if isinstance(axis, str)} - {"batch"})
        channels = next((g.channels for g in guesses if g.channels is not None), None)
        queue = _assignments(variables, channels)
        urgent: list[dict[str, int]] = []
        tried: set[tuple[int, ...]] = set()
        low, high = 0, 1 << 30
        for _ in range(most):
            sizes = urgent.pop(0) if urgent else next(queue, None)
            if sizes is None or time.monotonic() > self.deadline:
                return None
            mark = tuple(sizes[v] for v in variables)
            outside = variables == ["space"] and not low < sizes["space"] < high
            if mark in tried or outside:
                continue
            tried.add(mark)
            error = self._try(guesses, {**sizes, "batch": 1})
            if error is None:
                return {**sizes, "batch": 1}
            text = str(error)
            mismatch = re.search(r"\((\d+)x(\d+) and (\d+)x(\d+)\)", text)
            if mismatch and variables == ["space"]:
                got, wanted = int(mismatch[2]), int(mismatch[3])
                low, high = (low, sizes["space"]) if got > wanted else (sizes["space"], high)
                if got % wanted and wanted % got:  # the channels do not change: the side follows from the ratio
                    pass
                side = round(sizes["space"] * (wanted / got) ** 0.5)
                urgent += [{"space": s} for s in (side, side - side % 2, side - side % 4) if s >= 1]
                continue
            seen = [int(n) for n in re.findall(r"(?<![\d.])(\d{1,5})(?![\d.])", text.splitlines()[-1] if text else "")]
            seen += [int(n) for n in re.findall(r"(?:size|tensor [ab]|length|dimension) ?\(?(\d{1,5})", text)]
            if most > 4 or len(variables) == 1:
                fresh = [n for n in dict.fromkeys(seen) if 2 <= n <= 4096][:6]
                urgent += [{**sizes, v: n} for v in variables for n in fresh]
        return None

    def _try(self, guesses: tuple[Guess, ...], sizes: dict[str, int]) -> Exception | None:
        values = {}
        for name, guess in zip(self.names, guesses, strict=True):
            shape = tuple(sizes[a] if isinstance(a, str) else a for a in guess.axes)
            if int(np.prod(shape, dtype=np.int64)) > 2**26:
                return ValueError("too large to try")
            values[name] = plain_value(name, guess.dtype, shape, sizes.get("sequence", 1))
        self.tries += 1
        try:
            result = self.run(values)
        except Exception as error:  # whatever the model raises is an answer
            self.first_error = self.first_error or error
            return error
        if "space" in sizes and not _batch_kept(result):
            self.suspicious = self.suspicious or (guesses, dict(sizes))
            return ValueError("the batch changed")
        return None


def _batch_kept(result: Any) -> bool:
    """Whether the first tensor in the result still has batch 1: ``view(-1, n)`` accepts a wrong image size and makes a batch of it."""
    while isinstance(result, tuple | list) and result:
        result = result[0]
    if isinstance(result, dict) and result:
        result = next(iter(result.values()))
    shape = getattr(result, "shape", (1,))
    return len(shape) == 0 or int(shape[0]) == 1


def _assignments(variables: Sequence[str], channels: int | None) -> Iterator[dict[str, int]]:
    """Sizes for all variables, best first: by the sum of their places in the lists of usual sizes."""
    space = _SPACE if channels == 3 or channels is None else [28, *(s for s in _SPACE if s not in (28, 224)), 224]
    if channels is not None and channels > 4:
        space = [16, 8, *(s for s in _SPACE if s not in (8, 16))]
    tables = {"space": space, "sequence": _SEQUENCE, "length": _LENGTH, "depth": _DEPTH}
    lists = [tables[v] for v in variables]
    if not lists:
        yield {}
        return
    for total in range(sum(len(table) for table in lists)):
        for places in _places(total, [len(table) for table in lists]):
            yield {v: table[p] for v, table, p in zip(variables, lists, places, strict=True)}


def _places(total: int, lengths: Sequence[int]) -> Iterator[tuple[int, ...]]:
    if len(lengths) == 1:
        if total < lengths[0]:
            yield (total,)
        return
    for first in range(min(total, lengths[0] - 1) + 1):
        for rest in _places(total - first, lengths[1:]):
            yield (first, *rest)


def _sentence(name: str, guess: Guess, shape: tuple[int, ...], facts: Facts, tries: int) -> str:
    guessed = [i for i, axis in enumerate(guess.axes) if isinstance(axis, str)]
    letters = [str(n) for n in shape]
    for i in guessed:
        letters[i] = {
            "batch": "N",
            "sequence": "T",
            "space": "HW"[min(i - len(shape) + 2, 1)] if len(shape) > 3 else "S",
        }.get(str(guess.axes[i]), "L")
    sizes = ", ".join(f"axis {i} = {shape[i]}" for i in guessed if guess.axes[i] != "batch")
    how = f"; {sizes} {'was' if sizes.count('=') == 1 else 'were'} tried and accepted" if sizes else ""
    text = ",".join(map(str, shape))
    return (
        f"assumed input '{name}' is {guess.dtype}[{text}]: {guess.reason}{how}; "
        f"override with --input '{name}:{guess.dtype}[{','.join(letters)}]'"
    )


def _failure(
    names: Sequence[str],
    facts: Mapping[str, Facts],
    alternatives: Mapping[str, list[Guess]],
    unknown: Sequence[str],
    error: Exception | None,
) -> ModelError:
    known = []
    for name in names:
        guess = alternatives[name][0] if alternatives[name] else None
        if guess is not None:
            known.append(f"'{name}' is probably {guess.dtype}[{','.join(map(str, guess.axes))}] ({guess.reason})")
        else:
            known.append(f"'{name}': nothing is known")
    shown = " ".join(
        "--input '"
        + (
            f"{n}:{g.dtype}[{','.join('1' if a == 'batch' else str(a) for a in g.axes)}]"
            if (g := _first(alternatives[n]))
            else f"{n}:float32[1,…]"
        )
        + "'"
        for n in names
    )
    last = f"; the model says: {_last_line(error)}" if error is not None else ""
    msg = f"the inputs could not be inferred: {'; '.join(known)}{last}"
    return ModelError(msg, hint=f"give them, with numbers for the names: {shown}")


def _first(guesses: list[Guess]) -> Guess | None:
    return guesses[0] if guesses else None


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else type(error).__name__
