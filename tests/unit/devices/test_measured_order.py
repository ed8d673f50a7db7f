"""Which variants are measured beside each other before a bundle is written, and what becomes of what the runner finds."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgebuild.backends.candidate import LoweredVariant
from edgebuild.backends.lowering import LoweredModel
from edgebuild.bundle.pack import PackedParts
from edgebuild.devices import proof
from edgebuild.devices.proof import measured_order
from edgebuild.errors import GateError
from edgebuild.select.decisions import Decisions


def parts(*variants: tuple[str, str, str, str], order: tuple[str, ...] = ()) -> PackedParts:
    """Of (name, backend, precision, file); a name in brackets is not measured here."""
    lowered = [
        (
            SimpleNamespace(name=backend),
            LoweredModel(
                folder=Path(),
                variants=(
                    LoweredVariant(
                        name=name.strip("()"),
                        backend=backend,
                        precision=precision,
                        model=file,
                        inputs=(),
                        outputs=(),
                        measured_here="(" not in name,
                    ),
                ),
            ),
        )
        for name, backend, precision, file in variants
    ]
    rest: Any = dict.fromkeys(("exported", "target", "graphs", "engines", "runner", "thin", "measured"))
    return PackedParts(lowered=tuple(lowered), decisions=Decisions(target="t", order=order), **rest)  # type: ignore[arg-type]


ORT, TORCH, COMPILED = (
    ("o", "onnxruntime", "float32", "o.onnx"),
    ("t", "libtorch", "float32", "t.pt"),
    ("c", "libtorch", "float32", "c.so"),
)


@pytest.mark.parametrize(
    ("variants", "rivals"),
    [
        ([ORT], ()),
        ([("i", "onnxruntime", "int8", "i.ort"), ORT], ()),  # quantisation has settled that
        ([ORT, TORCH], ("o", "t")),
        ([COMPILED, TORCH], ("c", "t")),
        ([("i", "onnxruntime", "int8", "i.ort"), ORT, TORCH], ("i", "o", "t")),
        ([("(i)", "onnxruntime", "int8", "i.ort"), ORT, TORCH], ("o", "t")),
    ],
)
def test_forms_of_one_precision_are_rivals(variants: list[tuple[str, str, str, str]], rivals: tuple[str, ...]) -> None:
    assert parts(*variants).rivals == rivals


def test_what_was_measured_decides_the_order_of_the_variants() -> None:
    assert parts(ORT, TORCH).variant_names == ("o", "t")
    assert parts(ORT, TORCH, order=("t", "o")).variant_names == ("t", "o")


def bundle(*variants: tuple[str, str, str, str]) -> Any:
    entries = tuple(SimpleNamespace(name=name, backend=b, precision=p) for name, b, p, _ in variants)
    return SimpleNamespace(manifest=SimpleNamespace(variants=entries, goldens=()))


@pytest.mark.parametrize(
    ("found", "among", "order"),
    [
        (["t", "o"], ("o", "t"), ("t", "o")),
        (["t", "o"], ("o",), ()),
        (["o"], ("o", "t"), ()),  # the other can't run here
        (["t", "o"], (), ()),
        (GateError("outside"), ("o", "t"), ()),  # for the proof to say
    ],
)
def test_the_runners_ranking_is_the_order_of_those_that_compete(
    found: Any, among: tuple[str, ...], order: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def query(_: Any, words: list[str], **__: Any) -> Any:
        assert words[:3] == ["tune", "--threads", "1"]
        assert "--state-dir" in words  # not into the user's
        if isinstance(found, Exception):
            raise found
        return {"tunings": [{"order": found}]}

    monkeypatch.setattr(proof, "query_edgerun", query)
    monkeypatch.setattr(proof, "drop_damaged_copy", lambda _: None)
    assert measured_order(bundle(ORT, TORCH), among, [], None) == order
