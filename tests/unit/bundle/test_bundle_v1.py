"""The frozen bundle of format 1 stays readable, and what the writer makes of its description stays the same."""

import hashlib
import runpy
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from edgebuild.bundle.reader import Bundle
from edgebuild.model.signature import DTYPES

V1 = Path(__file__).parents[2] / "bundles" / "v1"
FROZEN = V1 / "everything.x86-64.edge"
RECIPE = runpy.run_path(str(V1 / "make_v1.py"))


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)


def test_frozen_file_is_the_one_that_was_frozen() -> None:
    assert (
        hashlib.sha256(FROZEN.read_bytes()).hexdigest()
        == "786bf9ad0a12856feba8e7959b5cad5c5713aadf30f286396d0d49ebbeb919ab"
    )


def test_frozen_bundle_is_read_and_verified() -> None:
    bundle = Bundle.open(FROZEN)
    bundle.verify_files()
    assert bundle.id == "bc3b69b25bac06d02cdea0a306088dceb4d0ba0ce2e7980bf902103c8c2b429d"
    assert bundle.read("model/m.onnx") == bytes(range(256))
    assert [variant.name for variant in bundle.manifest.variants] == ["onnxruntime-float32", "other"]
    assert bundle.manifest.variants[0].tolerances["float32"].rtol == 2.5e-4
    assert str(bundle.signature.inputs[0]) == "float32:float32[n,3]"
    assert str(bundle.signature.outputs[-1].type) == "optional(int64[...])"


@pytest.mark.parametrize("dtype", DTYPES)
def test_frozen_goldens_are_decoded(dtype: str) -> None:
    [golden] = Bundle.open(FROZEN).goldens()
    for array in (golden.inputs[dtype], golden.outputs[dtype]):
        assert array.shape == (2, 3)
        np.testing.assert_array_equal(array, _expected(dtype).reshape(2, 3))


def _expected(dtype: str) -> Any:
    """The same bits through numpy and ml_dtypes alone."""
    data = RECIPE["expected_bits"](dtype)
    if dtype == "string":
        return np.array(["", "a", "ä€😀", "b\0c", "", " "], dtype=object)
    if DTYPES[dtype][1] >= 8:
        raw = hasattr(ml_dtypes, dtype)
        return np.frombuffer(data, f"u{DTYPES[dtype][1] // 8}" if raw else dtype)
    width = DTYPES[dtype][1]
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: 6 * width].reshape(6, width)
    codes = (bits * (1 << np.arange(width))).sum(axis=1).astype(np.uint8)
    return codes.view(getattr(ml_dtypes, dtype)).astype(np.int32) if "int" in dtype else codes


def test_frozen_containers_are_decoded() -> None:
    [golden] = Bundle.open(FROZEN).goldens()
    assert [(part.shape, part.tolist()) for part in golden.outputs["parts"]] == [((), 7), ((0, 2), [])]
    assert golden.outputs["nothing"] is None


def test_writer_still_makes_the_same_bytes(tmp_path: Path) -> None:
    RECIPE["main"](tmp_path / "again.edge")
    assert (tmp_path / "again.edge").read_bytes() == FROZEN.read_bytes()
