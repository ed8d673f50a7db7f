"""Several cases as one model: under emulation, starting the engine takes a hundred times as long as what a case computes."""

from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from onnx import compose

from .cases import Case

MOST = 40
"""Cases in one model; a runner that fails on one of them is started again for each half."""


def batches(cases: Sequence[Case], most: int = MOST) -> Iterator[list[Case]]:
    """Cases that can be one model: of the same operator sets, with one data set and no functions of their own; others alone."""
    by_opsets: dict[tuple[tuple[str, int], ...], list[Case]] = {}
    for case in cases:
        if case.model.functions or len(case.data_sets) != 1:
            yield [case]
        else:
            opsets = tuple(sorted((entry.domain, entry.version) for entry in case.model.opset_import))
            by_opsets.setdefault(opsets, []).append(case)
    for group in by_opsets.values():
        for start in range(0, len(group), most):
            yield group[start : start + most]


def merge(cases: Sequence[Case]) -> tuple[onnx.ModelProto, list[Any], list[Any]]:
    """One model side by side of the cases' graphs, with all their inputs and expected outputs in the cases' order."""
    if len(cases) == 1:
        (inputs, outputs), *_ = cases[0].data_sets
        return cases[0].model, inputs, outputs
    whole = onnx.ModelProto(ir_version=max(case.model.ir_version for case in cases))
    whole.opset_import.extend(cases[0].model.opset_import)
    whole.graph.name = "cases"
    given: list[Any] = []
    expected: list[Any] = []
    for number, case in enumerate(cases):
        prefix = f"c{number}_"
        part = compose.add_prefix(case.model, prefix).graph
        for info in (*part.input, *part.output, *part.value_info):
            _rename_axes(info.type, prefix)
        for field in ("node", "input", "output", "initializer", "sparse_initializer", "value_info"):
            getattr(whole.graph, field).extend(getattr(part, field))
        ((inputs, outputs),) = case.data_sets
        given += inputs
        expected += outputs
    return whole, given, expected


def _rename_axes(kind: onnx.TypeProto, prefix: str) -> None:
    """Axes of equal names have equal sizes within a case only."""
    which = kind.WhichOneof("value")
    if which in ("sequence_type", "optional_type"):
        _rename_axes(getattr(kind, which).elem_type, prefix)
    elif which == "tensor_type":
        for axis in kind.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = prefix + axis.dim_param
