"""Several cases as one model: loading the engine takes a hundred times as long as what a case computes, under emulation seconds."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx
from onnx import compose

from .cases import Case, agrees

Run = Callable[[onnx.ModelProto, Sequence[Any], Sequence[Any]], list[Any]]
"""Runs a model on inputs; gives its outputs, each as the kind of value that is expected (the third argument)."""

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


def verdicts(cases: Sequence[Case], run: Run) -> dict[str, str]:
    """What became of each case: empty if it gives the expected outputs, else what happened. What fails among others is run alone."""
    if len(cases) == 1:
        return {cases[0].name: attempt(lambda: _alone(cases[0], run))}
    try:
        found = _together(cases, run)
    except Exception:  # one of them, or that they are one model: the halves tell
        half = len(cases) // 2
        return verdicts(cases[:half], run) | verdicts(cases[half:], run)
    failed = [case for case in cases if found[case.name]]
    return {**found, **{name: verdict for case in failed for name, verdict in verdicts([case], run).items()}}


def _alone(case: Case, run: Run) -> str:
    return next((wrong for i, o in case.data_sets if (wrong := _judge(case, run(case.model, i, o), o))), "")


def _together(cases: Sequence[Case], run: Run) -> dict[str, str]:
    model, inputs, expected = merge(cases)
    outputs = run(model, inputs, expected)
    found = {}
    for case in cases:
        count = len(case.model.graph.output)
        found[case.name] = _judge(case, outputs[:count], expected[:count])
        outputs, expected = outputs[count:], expected[count:]
    return found


def _judge(case: Case, got: Sequence[Any], expected: Sequence[Any]) -> str:
    for output, value, wanted in zip(case.model.graph.output, got, expected, strict=True):
        wrong = agrees(value, wanted, case)
        if wrong:
            return f"output {output.name}: {wrong}"
    return ""


def attempt(run: Callable[[], str]) -> str:
    """What ``run`` gives, or what it raised."""
    try:
        return run()
    except Exception as error:  # whatever it is, it is the case's result
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
