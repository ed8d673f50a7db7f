"""The cases of ``onnx.backend.test``: models with inputs and expected outputs, in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edgebuild.devices.scratch import graph_inputs

KINDS = ("node", "simple", "pytorch-converted")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model and its data sets; values are arrays, lists for sequences, None for an empty optional."""

    name: str
    kind: str
    model: onnx.ModelProto
    data_sets: tuple[tuple[list[Any], list[Any]], ...]
    rtol: float
    atol: float


def load_cases() -> Iterator[Case]:
    """All cases, sorted by name within their kind."""
    from onnx.backend.test.loader import load_model_tests

    for kind in KINDS:
        for case in sorted(load_model_tests(kind=kind), key=lambda c: c.name):
            if case.model is not None:
                sets = tuple((list(map(_plain, i)), list(map(_plain, o))) for i, o in case.data_sets or ())
                yield Case(name=case.name, kind=kind, model=case.model, data_sets=sets, rtol=case.rtol, atol=case.atol)
            elif case.model_dir is not None:
                folder = Path(case.model_dir)
                model = onnx.load(folder / "model.onnx")
                sets = tuple(_data_set(model, part) for part in sorted(folder.glob("test_data_set_*")))
                yield Case(name=case.name, kind=kind, model=model, data_sets=sets, rtol=case.rtol, atol=case.atol)


def _plain(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _data_set(model: onnx.ModelProto, folder: Path) -> tuple[list[Any], list[Any]]:
    def read(stem: str, infos: list[onnx.ValueInfoProto]) -> list[Any]:
        return [_read_value(folder / f"{stem}_{i}.pb", info.type) for i, info in enumerate(infos)]

    return read("input", graph_inputs(model)), read("output", list(model.graph.output))


def _read_value(path: Path, kind: onnx.TypeProto) -> Any:
    data = path.read_bytes()
    which = kind.WhichOneof("value")
    if which == "sequence_type":
        return numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    if which == "optional_type":
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return numpy_helper.to_array(onnx.TensorProto.FromString(data))


def agrees(got: Any, expected: Any, case: Case) -> str:
    """Empty if ``got`` is ``expected`` within the case's tolerances, else what is wrong (onnx's own rules)."""
    if isinstance(expected, list):
        if not isinstance(got, list) or len(got) != len(expected):
            return f"expected a sequence of {len(expected)}, got {type(got).__name__}"
        return next((wrong for g, e in zip(got, expected, strict=True) if (wrong := agrees(g, e, case))), "")
    if expected is None or got is None:
        return "" if expected is got else f"expected {expected!r}, got {got!r}"
    g, e = np.asarray(got), np.asarray(expected)
    if g.shape != e.shape:
        return f"expected shape {e.shape}, got {g.shape}"
    if e.dtype == object or e.dtype.kind in "US":
        return "" if g.astype(str).tolist() == e.astype(str).tolist() else "strings differ"
    if g.dtype != e.dtype:
        return f"expected {e.dtype}, got {g.dtype}"
    if e.dtype.kind == "V" or e.dtype.name.startswith(("bfloat", "float8", "float4", "int4", "uint4", "int2", "uint2")):
        g, e = g.astype(np.float32), e.astype(np.float32)
    rtol = max(case.rtol, 2**-6) if np.asarray(expected).dtype.name == "bfloat16" else case.rtol
    with np.errstate(all="ignore"):
        close = np.isclose(g, e, rtol=rtol, atol=case.atol, equal_nan=True) if e.dtype.kind in "fc" else g == e
    return "" if bool(np.all(close)) else "values differ"
