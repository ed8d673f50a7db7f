"""Infers the inputs of a TorchScript model from its graph, by guessing what the layers ask for and trying it."""

import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgebuild.model.announce import failure, sentence
from edgebuild.model.fill import plain_value
from edgebuild.model.graphfacts import Facts
from edgebuild.model.guess import Guess, fits_together, from_others, from_spec, guesses_for
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
_WAVEFORM = [16000, 8000, 4000, 22050, 48000, 44100, 1024, 32000, 80000, 160000, 480000, 512, 2048]
_DEPTH = [8, 16, 32, 4, 12, 10, 64]
_SIDES = [
    32,
    64,
    40,
    80,
    24,
    20,
    48,
    28,
    16,
    128,
    100,
    96,
    12,
    8,
    10,
    101,
    50,
    60,
    30,
    256,
    224,
    160,
    120,
    240,
    320,
    480,
    36,
    72,
    98,
    44,
]
_MAX_ALTERNATIVES = 60
_BUDGET_S = 90.0


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
        name: [from_spec(fixed[name])] if name in fixed else guesses_for(name, facts[name], facts) for name in names
    }
    for name in names:
        if not alternatives[name]:
            alternatives[name] = from_others(name, names, alternatives)
    unknown = [name for name in names if not alternatives[name]]
    if unknown:
        raise failure(names, alternatives, None)
    attempt = _Search(names, alternatives, run)
    found = attempt.go()
    if found is None:
        raise failure(names, alternatives, attempt.first_error)
    guesses, sizes = found
    specs, sentences = [], []
    for name, guess in zip(names, guesses, strict=True):
        shape = tuple(sizes[a] if isinstance(a, str) else a for a in guess.axes)
        specs.append(ValueSpec(name=name, type=TensorType(dtype=guess.dtype, shape=shape)))
        if name not in fixed:
            sentences.append(sentence(name, guess, shape))
    return Inferred(specs=tuple(specs), assumptions=tuple(sentences))


def search(
    names: Sequence[str], alternatives: Mapping[str, list[Guess]], run: Run
) -> tuple[tuple[tuple[Guess, ...], dict[str, int]] | None, Exception | None]:
    """Tries the alternatives; returns the accepted ones with their sizes, else None and what the model said first."""
    one = _Search(names, alternatives, run)
    return one.go(), one.first_error


@dataclass(frozen=True, kw_only=True)
class Inferred:
    """The inputs' types, and one sentence for each that was guessed."""

    specs: tuple[ValueSpec, ...]
    assumptions: tuple[str, ...]


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
        combos = sorted(itertools.islice(itertools.product(*lists), 5000), key=self._rank)
        combinations = [tuple(guess for _, guess in combo) for combo in combos[:_MAX_ALTERNATIVES]]
        for most in (4, 60, 1000):
            at = 0
            while at < len(combinations):
                guesses = combinations[at]
                at += 1
                self.narrower: tuple[int, int] | None = None
                found = self._sizes(guesses, most)
                if found is not None:
                    return guesses, found
                narrowed = [g for g in self._narrow(guesses) if g not in combinations]
                combinations[at:at] = narrowed[:4]
                if time.monotonic() > self.deadline:
                    return self.suspicious
            if self.suspicious is not None and most >= 60:
                return self.suspicious
        return self.suspicious

    def _rank(self, combo: Sequence[tuple[int, Guess]]) -> int:
        unfit = not fits_together(self.names, [guess for _, guess in combo])
        return sum(i for i, _ in combo) + (5 if unfit else 0)

    def _narrow(self, guesses: tuple[Guess, ...]) -> Iterator[tuple[Guess, ...]]:
        """Where features of several inputs are joined, one of them has less than the layer takes: by as much as was too much."""
        if self.narrower is None:
            return
        got, wanted = self.narrower
        for i, guess in enumerate(guesses):
            places = [axis for axis, size in enumerate(guess.axes) if size == wanted and guess.reason != "given"]
            for axis in places[-1:]:
                sharing = sum(wanted in other.axes for other in guesses)
                size = wanted - (got - wanted)
                if size > 0:
                    new = replace(guess, axes=(*guess.axes[:axis], size, *guess.axes[axis + 1 :]))
                    yield (*guesses[:i], new, *guesses[i + 1 :])
                elif sharing > 1 and wanted % sharing == 0:
                    part = wanted // sharing
                    yield tuple(replace(g, axes=tuple(part if a == wanted else a for a in g.axes)) for g in guesses)

    def _sizes(self, guesses: tuple[Guess, ...], most: int) -> dict[str, int] | None:
        variables = sorted({axis for guess in guesses for axis in guess.axes if isinstance(axis, str)} - {"batch"})
        channels = next((g.channels for g in guesses if g.channels is not None), None)
        queue = _assignments(variables, channels)
        urgent: list[dict[str, int]] = []
        tried: set[tuple[int, ...]] = set()
        low, high = 0, 1 << 30
        area = 0.0
        for _ in range(most):
            sizes = urgent.pop(0) if urgent else next(queue, None)
            if sizes is None or time.monotonic() > self.deadline:
                return None
            mark = tuple(sizes[v] for v in variables)
            outside = variables == ["space"] and not low < sizes["space"] < high
            if mark in tried or outside:
                continue
            if area and not 0.75 < sizes["height"] * sizes["width"] / area < 1.35:
                continue
            tried.add(mark)
            error = self._try(guesses, {**sizes, "batch": 1})
            if error is None:
                return {**sizes, "batch": 1}
            text = str(error)
            mismatch = re.search(r"\((\d+)x(\d+) and (\d+)x(\d+)\)", text)
            channels_off = re.search(r"to have (\d+) channels, but got (\d+) channels", text)
            if mismatch and not variables:
                self.narrower = (int(mismatch[2]), int(mismatch[3]))
            elif channels_off:
                self.narrower = (int(channels_off[2]), int(channels_off[1]))
                return None
            elif mismatch and self.narrower is None:
                self.narrower = (int(mismatch[2]), int(mismatch[3]))
            if mismatch and variables == ["height", "width"]:
                area = sizes["height"] * sizes["width"] * int(mismatch[3]) / int(mismatch[2])
                continue
            if mismatch and variables == ["space"]:
                got, wanted = int(mismatch[2]), int(mismatch[3])
                low, high = (low, sizes["space"]) if got > wanted else (sizes["space"], high)
                side = round(sizes["space"] * (wanted / got) ** 0.5)
                urgent += [{"space": s} for s in (side, side - side % 2, side - side % 4) if s >= 1]
                continue
            if "ernel size" in text:
                continue  # too small: the usual sizes go on
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
        if {"space", "height"} & sizes.keys() and not _batch_kept(result):
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
    tables = {
        "space": space,
        "sequence": _SEQUENCE,
        "length": _LENGTH,
        "waveform": _WAVEFORM,
        "depth": _DEPTH,
        "height": _SIDES,
        "width": _SIDES,
    }
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
