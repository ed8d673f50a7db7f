"""What operators that are written as an equation, or that read a signal, ask of their operands."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgebuild.model.demand import Demand
from edgebuild.model.values import dtype_name

if TYPE_CHECKING:
    from edgebuild.model.layers import Use


def einsum(use: "Use") -> Iterator[Demand]:
    """Sizes of the letters that a weight in the equation fixes."""
    equation = use.constant(0)
    if use.index != 1 or not use.inside or not isinstance(equation, str) or not use.inside[0].isdigit():
        return
    terms = equation.replace(" ", "").replace("...", ".").split("->")[0].split(",")
    operands = list(use.inputs[1].node().inputs())
    position = int(use.inside[0])
    if len(terms) != len(operands):
        return
    known: dict[str, int] = {}
    label, dtype = "", None
    for term, operand in zip(terms, operands, strict=True):
        weight = use.reader.constant(operand) if use.reader.known(operand) else None
        if weight is not None and getattr(weight, "ndim", -1) == len(term) and "." not in term:
            known.update(zip(term, map(int, weight.shape), strict=True))
            label, dtype = use.reader.label(operand), dtype_name(weight.dtype)
    own = terms[position]
    if not known.keys() & set(own):
        return
    if "." in own:
        tail = own.split(".")[1]
        sizes = {i - len(tail): known[c] for i, c in enumerate(tail) if c in known}
        yield Demand(sizes=sizes, min_rank=len(own) - 1, dtype=dtype, reason=f"einsum with {label}")
    else:
        sizes = {i: known[c] for i, c in enumerate(own) if c in known}
        yield Demand(rank=len(own), sizes=sizes, dtype=dtype, reason=f"einsum with {label}")


def stft(use: "Use") -> Iterator[Demand]:
    """A waveform, one channel."""
    if use.index == 0:
        yield Demand(rank=2, roles={0: "batch", 1: "waveform"}, dtype="float32", reason="signal of stft", weak=True)
