"""Input sets: from ``.npz`` files, else random and seeded, each seen to be accepted by the original model."""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgebuild.errors import SignatureError, UsageError
from edgebuild.model.fill import is_mask, plain_value, random_value
from edgebuild.model.signature import SymbolRange, TensorType, ValueSpec
from edgebuild.model.source import Inputs
from edgebuild.model.values import INTEGERS, numpy_dtype

Run = Callable[[Mapping[str, Any]], Any]

SETS = 3
"""Input sets of a model, at least: what tracing baked in shows on the second."""
_INTEGER_TRIES = (1 << 15, 1000, 256, 100, 32, 16, 10, 8, 5, 4, 3, 2)


def read_samples(paths: Sequence[str]) -> list[dict[str, "np.ndarray[Any, Any]"]]:
    """Reads ``--sample`` files.

    Raises:
        UsageError: A file is missing, is not an ``.npz``, holds pickled objects, or its names differ from the first one's.
    """
    found: list[dict[str, np.ndarray[Any, Any]]] = []
    for text in paths:
        path = Path(text)
        if not path.is_file():
            msg = f"--sample {text}: no such file"
            raise UsageError(msg, hint="give an .npz with one array for each input")
        try:
            with np.load(path, allow_pickle=False) as archive:
                if isinstance(archive, np.ndarray):
                    msg = f"--sample {text}: an .npy, expected an .npz"
                    raise UsageError(msg, hint="numpy.savez(file, NAME=array) with the model's argument names")
                arrays = {name: archive[name] for name in archive.files}
        except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
            msg = f"--sample {text}: not an .npz file of plain arrays: {error}"
            raise UsageError(msg, hint="write it with numpy.savez(file, NAME=array)") from None
        except AttributeError:
            msg = f"--sample {text}: an .npy, expected an .npz"
            raise UsageError(msg, hint="numpy.savez(file, NAME=array) with the model's argument names") from None
        if not arrays:
            msg = f"--sample {text}: holds no array"
            raise UsageError(msg, hint="write it with numpy.savez(file, NAME=array)")
        if found and set(arrays) != set(found[0]):
            msg = f"--sample {text}: holds {sorted(arrays)}, the first sample {sorted(found[0])}"
            raise UsageError(msg, hint="every sample needs the same names")
        found.append(arrays)
    return found


@dataclass(frozen=True, kw_only=True)
class Made:
    """Samples, what was found out while making them (sentences), and the ranges with the steps that were found."""

    samples: tuple[Inputs, ...]
    assumptions: tuple[str, ...]
    symbols: Mapping[str, SymbolRange]


def make_samples(
    specs: Sequence[ValueSpec],
    symbols: Mapping[str, SymbolRange],
    limits: Mapping[str, int | None],
    run: Run,
    *,
    seed: int,
    given: Sequence[Inputs] = (),
    lengths: frozenset[str] = frozenset(),
) -> Made:
    """Makes at least three input sets that ``run`` accepts; with dynamic axes, two sizes of each.

    Args:
        specs: Inputs; symbols in shapes have an entry in ``symbols``.
        symbols: Ranges of the dynamic axes.
        limits: Integers of an input must be below this; None: to be found by trying.
        run: The original model.
        seed: Of the random numbers.
        given: The user's samples; they come first.
        lengths: Inputs that hold lengths along the sequence axis.

    Raises:
        SignatureError: The model refuses an input set; says which shapes, and why.
    """
    maker = _Maker(specs, symbols, run, seed, lengths)
    maker.find_ranges(limits)
    symbols = maker.find_steps()
    best = {name: span.best for name, span in symbols.items()}
    wanted = [best, *_variations(symbols, best)]
    made: list[Inputs] = list(given)
    have = [maker.sizes_of(sample) for sample in given]
    for sizes in wanted:
        if sizes not in have or not symbols:
            if not symbols and len(made) >= SETS:
                break
            made.append(maker.accepted(sizes, len(made)))
    while len(made) < SETS:
        made.append(maker.accepted(best, len(made)))
    for i, sample in enumerate(given):
        try:
            run(sample)
        except Exception as error:  # whatever the model raises
            msg = f"the model refuses --sample {i}: {_reason(error)}"
            raise SignatureError(msg, hint="check names, dtypes and shapes of the arrays") from None
    return Made(samples=tuple(made), assumptions=tuple(maker.assumptions), symbols=symbols)


def _variations(symbols: Mapping[str, SymbolRange], best: Mapping[str, int]) -> list[dict[str, int]]:
    """Sizes that differ from ``best``: each symbol alone, then all together."""
    other = {name: other_size(span) for name, span in symbols.items()}
    alone = [{**best, name: size} for name, size in other.items() if size != best[name]]
    together = {**best, **other}
    found = [together, *alone] if len(alone) > 1 else alone
    return list({tuple(sorted(sizes.items())): sizes for sizes in found}.values())


def other_size(span: SymbolRange) -> int:
    """A size other than the best one, moderate, odd (in steps) if possible: it shows what was baked in by tracing."""
    step = span.step
    best = span.best // step
    low, high = -(-span.minimum // step), max(best * 2, best + 3)
    if span.maximum is not None:
        high = span.maximum // step
    wishes = (best + best // 2 + 1, best + 1, best + 3, best - 1, best // 2, 2, low, high)
    return step * next((s for s in wishes if s != best and max(low, 1) <= s <= high), best)


_STEPS = (2, 4, 8, 16, 32, 64, 128, 256)


def _in_steps(span: SymbolRange, step: int) -> SymbolRange | None:
    """The multiples of ``step`` in a range; None if the best size is none."""
    if span.best % step:
        return None
    maximum = None if span.maximum is None else span.maximum // step * step
    return replace(span, minimum=-(-span.minimum // step) * step, maximum=maximum, step=step)


class _Maker:
    """Makes input sets and has them tried."""

    def __init__(
        self,
        specs: Sequence[ValueSpec],
        symbols: Mapping[str, SymbolRange],
        run: Run,
        seed: int,
        lengths: frozenset[str],
    ) -> None:
        self.specs = {spec.name: spec for spec in specs}
        self.symbols = symbols
        self.run = run
        self.seed = seed
        self.lengths = lengths
        self.ranges: dict[str, tuple[int, int]] = {}
        self.assumptions: list[str] = []

    def type_of(self, name: str) -> TensorType:
        kind = self.specs[name].type
        assert isinstance(kind, TensorType)
        return kind

    def shape(self, name: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(sizes[d] if isinstance(d, str) else int(d or 1) for d in self.type_of(name).shape or ())

    def sizes_of(self, sample: Inputs) -> dict[str, int]:
        found = {}
        for name, array in sample.items():
            for dim, size in zip(self.type_of(name).shape or (), array.shape, strict=False):
                if isinstance(dim, str):
                    found[dim] = int(size)
        return found

    def sequence(self, sizes: Mapping[str, int]) -> int:
        """The size of the axis that lengths count: axis 1 (or 0) of the first input with two axes or more."""
        for name in self.specs:
            shape = self.shape(name, sizes)
            if name not in self.lengths and len(shape) >= 2:
                batches = [self.shape(n, sizes) for n in sorted(self.lengths)]
                batch = batches[0][0] if batches and batches[0] else shape[0]
                return shape[1] if shape[0] == batch else shape[0]
        return 1

    def plain(self, sizes: Mapping[str, int]) -> dict[str, "np.ndarray[Any, Any]"]:
        sequence = self.sequence(sizes)
        return {
            name: np.full(self.shape(name, sizes), sequence, dtype=numpy_dtype(self.type_of(name).dtype))
            if name in self.lengths
            else plain_value(name, self.type_of(name).dtype, self.shape(name, sizes), sequence)
            for name in self.specs
        }

    def find_ranges(self, limits: Mapping[str, int | None]) -> None:
        """Finds for every integer input which values the model accepts, by trying constant fills."""
        best = {name: span.best for name, span in self.symbols.items()}
        base = self.plain(best)
        for name in self.specs:
            dtype = self.type_of(name).dtype
            if dtype not in INTEGERS or name in self.lengths or is_mask(name):
                continue
            info = np.iinfo(numpy_dtype(dtype))
            limit = limits.get(name)
            if limit is not None and self._accepts(base, name, min(limit - 1, int(info.max))):
                self.ranges[name] = (0, min(limit - 1, int(info.max)))
                continue
            tops = sorted(
                {min(t - 1, int(info.max)) for t in _INTEGER_TRIES if limit is None or t < limit}, reverse=True
            )
            top = next((t for t in tops if self._accepts(base, name, t)), 0)
            above = next((t for t in reversed(tops) if t > top), limit or top + 1)
            if top < tops[0] or limit is not None:
                while above - top > 1:  # the largest accepted value lies in between
                    middle = (top + above) // 2
                    top, above = (middle, above) if self._accepts(base, name, middle) else (top, middle)
                text = f"integers of input '{name}' were found to be accepted from 0 to {top}; --sample gives others"
                self.assumptions.append(text)
                self.ranges[name] = (0, top)
            else:
                top = int(info.max) if dtype in ("uint8", "int8") else 100
                low = -128 if dtype == "int8" and self._accepts(base, name, -128) else 0
                self.assumptions.append(
                    f"random values of input '{name}' are drawn from {low} to {top}; --sample gives others"
                )
                self.ranges[name] = (low, top)

    def find_steps(self) -> Mapping[str, SymbolRange]:
        """The ranges, with a step where the model refuses a size between its best one's multiples of a power of two."""
        found = dict(self.symbols)
        for name, span in self.symbols.items():
            refused = other_size(span)
            if span.step > 1 or refused == span.best:
                continue
            problem = self._refusal(name, refused)
            for step in _STEPS if problem is not None else ():
                stepped = _in_steps(span, step)
                if stepped is None:
                    break
                other = other_size(stepped)
                if other != span.best and self._refusal(name, other) is None:
                    found[name] = stepped
                    self.assumptions.append(
                        f"sizes of '{name}' are taken to be multiples of {step}: the model refuses {refused} ({problem}) and "
                        f"takes {other}; override with --dynamic '…={name}[{stepped}]'"
                    )
                    break
        self.symbols = found
        return found

    def _refusal(self, symbol: str, size: int) -> str | None:
        """Why the model refuses a size of one symbol, the others at their best; None: it takes it."""
        sizes = {name: span.best for name, span in self.symbols.items()} | {symbol: size}
        for values in (self.random(sizes, 0), self.plain(sizes)):
            try:
                self.run(values)
            except Exception as error:  # a refusal is an answer
                reason = _reason(error)
                continue
            return None
        return reason

    def _accepts(self, base: Mapping[str, Any], name: str, fill: int) -> bool:
        try:
            self.run({**base, name: np.full_like(base[name], fill)})
        except Exception:  # a refusal is an answer
            return False
        return True

    def accepted(self, sizes: Mapping[str, int], number: int) -> Inputs:
        """One random input set of these sizes, tried; falls back to plainer values where the model refuses."""
        problem: Exception | None = None
        for plain in (False, True):
            values = self.plain(sizes) if plain else self.random(sizes, number)
            try:
                self.run(values)
            except Exception as error:  # whatever the model raises
                problem = problem or error
                continue
            return values
        shapes = ", ".join(
            f"{name}:{TensorType(dtype=self.type_of(name).dtype, shape=tuple(self.shape(name, sizes)))}"
            for name in self.specs
        )
        cause = _reason(problem) if problem else ""
        if sizes:
            varied = ", ".join(f"{name}={size}" for name, size in sizes.items())
            msg = f"the model refuses {shapes} ({varied}): {cause}"
            raise SignatureError(
                msg,
                hint="drop or narrow --dynamic, name a step if only multiples are taken (--dynamic 'x:2=h[32..64..128/16]'), "
                "or save the model so that this axis may change (script it)",
            )
        msg = f"the model refuses {shapes}: {cause}"
        raise SignatureError(
            msg, hint="check dtypes and sizes of --input; --sample in.npz gives values that the model accepts"
        )

    def random(self, sizes: Mapping[str, int], number: int) -> dict[str, "np.ndarray[Any, Any]"]:
        sequence = self.sequence(sizes)
        rng = np.random.default_rng([self.seed, number])
        return {name: self._value(name, self.shape(name, sizes), sequence, rng) for name in self.specs}

    def _value(
        self, name: str, shape: tuple[int, ...], sequence: int, rng: np.random.Generator
    ) -> "np.ndarray[Any, Any]":
        return random_value(
            name,
            self.type_of(name).dtype,
            shape,
            rng,
            sequence=sequence,
            span=self.ranges.get(name, (0, 1)),
            lengths=name in self.lengths,
        )


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
