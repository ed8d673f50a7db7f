"""Which rows the outputs depend on, found without knowing how the model masks."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from quantize_tools import build

from edgebuild.quantize.heard import heard_rows
from edgebuild.quantize.layers import find_layers

Array = np.ndarray[Any, Any]
WIDTH, ROWS = 24, 13

POOLED = """
    a = MatMul(x, w1) r = Relu(a) b = MatMul(r, w2)
    kept = Mul(b, mask) y = ReduceMean <axes = [1], keepdims = 0> (kept)
"""
EVERY_ROW = "a = MatMul(x, w1) r = Relu(a) y = MatMul(r, w2)"


def write(folder: Path, body: str) -> Path:
    random = np.random.default_rng(0)
    weights = {
        "w1": random.standard_normal((WIDTH, 32)).astype(np.float32),
        "w2": random.standard_normal((32, 16)).astype(np.float32),
    }
    inputs = f"float[B,S,{WIDTH}] x"
    if "mask" in body:
        inputs += ", float[B,S,1] mask"
    output = "float[B,16] y" if "mask" in body else "float[B,S,16] y"
    model = build(f"g ({inputs}) => ({output}) {{ {body} }}", weights)
    path = folder / "graph.onnx"
    ir.save(model, path)
    return path


def flags_of(path: Path, batches: list[dict[str, Array]], opener: Any, folder: Path) -> tuple[frozenset[str], Any]:
    names = {layer.data.name for layer in find_layers(ir.load(path).graph)}
    shapes = [{str(name): (*batch["x"].shape[:2], WIDTH if name == "x" else 32) for name in names} for batch in batches]
    return heard_rows(path, shapes, batches, opener, folder / "heard")


def batch_of(masks: list[list[int]], seed: int) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    mask = np.array(masks, np.float32)
    return {"x": random.standard_normal((*mask.shape, WIDTH)).astype(np.float32), "mask": mask[:, :, None]}


@pytest.mark.parametrize("seed", range(4))
def test_padding_at_either_end_of_each_sample_is_found(seed: int, tmp_path: Path, opener: Any) -> None:
    random = np.random.default_rng(seed)
    batches = []
    for samples in (1, 3, 2):
        ends = [sorted(random.choice(ROWS + 1, 2, replace=False)) for _ in range(samples)]
        batches.append(batch_of([[int(a <= i < b) for i in range(ROWS)] for a, b in ends], seed))
    names, flags = flags_of(write(tmp_path, POOLED), batches, opener, tmp_path)
    assert names == {"x", "r"}
    for batch, found in zip(batches, flags, strict=True):
        np.testing.assert_array_equal(found, batch["mask"][:, :, 0] > 0)
    assert not (tmp_path / "heard").exists()


def test_rows_between_heard_ones_count_as_heard(tmp_path: Path, opener: Any) -> None:
    _, (flags,) = flags_of(write(tmp_path, POOLED), [batch_of([[0, 1, 0, 0, 1, 0]], 0)], opener, tmp_path)
    assert flags.tolist() == [[False, True, True, True, True, False]]


def test_without_padding_all_are_heard_and_one_look_at_each_end_says_so(tmp_path: Path, opener: Any) -> None:
    x = np.random.default_rng(1).standard_normal((2, ROWS, WIDTH)).astype(np.float32)
    assert flags_of(write(tmp_path, EVERY_ROW), [{"x": x}], opener, tmp_path)[0] == frozenset()


def test_an_output_that_hangs_on_no_row_makes_none_unheard(tmp_path: Path, opener: Any) -> None:
    _, (flags,) = flags_of(write(tmp_path, POOLED), [batch_of([[0] * ROWS, [1] * ROWS], 2)], opener, tmp_path)
    assert flags.all()


def test_outputs_that_are_not_finite_are_compared(tmp_path: Path, opener: Any) -> None:
    batch = batch_of([[1, 1, 1, 0, 0]], 3)
    batch["x"][0, 1, 0] = np.inf
    _, found = flags_of(write(tmp_path, POOLED), [batch], opener, tmp_path)
    assert found[0].shape == (1, 5)


def test_activations_without_a_sequence_are_not_looked_into(tmp_path: Path, opener: Any) -> None:
    path = write(tmp_path, EVERY_ROW)
    x = np.zeros((4, 1, WIDTH), np.float32)
    assert flags_of(path, [{"x": x}], opener, tmp_path) == (frozenset(), [])
    assert heard_rows(path, [{"x": (4, WIDTH)}], [{"x": x[:, 0]}], opener, tmp_path / "heard") == (frozenset(), [])
    assert heard_rows(path, [{"x": (4, 2, 2, WIDTH)}], [{"x": x}], opener, tmp_path / "heard") == (frozenset(), [])
