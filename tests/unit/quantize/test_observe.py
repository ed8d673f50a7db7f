"""Observing through the C++ runner, against tensors that ONNX Runtime's own Python API gives back whole."""

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebuild.cache import Cache
from edgebuild.errors import CalibrationError, InternalError, ModelError
from edgebuild.quantize.observe import observe
from edgebuild.quantize.running import OpenGraph
from edgebuild.quantize.statistics import Observations

Array = np.ndarray[Any, Any]


def save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: Mapping[str, Array]) -> Path:
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def info(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def convolutions(path: Path, channels: int = 16, size: Any = 12, batch: Any = "batch") -> Path:
    """Two convolutions with ReLU, a sum, a mean and a linear layer; ``channels`` decides whether blocks are filled up."""
    random = np.random.default_rng(0)
    weights = {
        "w1": random.standard_normal((channels, 3, 3, 3)).astype(np.float32),
        "b1": random.standard_normal(channels).astype(np.float32),
        "w2": random.standard_normal((channels, channels, 1, 1)).astype(np.float32) / 4,
        "w3": random.standard_normal((channels, 5)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"]),
        helper.make_node("Add", ["c2", "r1"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["y"]),
    ]
    return save(path, nodes, [info("x", [batch, 3, size, size])], [info("y", [batch, 5])], weights)


CONVOLUTION_TENSORS = ("x", "c1", "r1", "c2", "s", "p", "f", "y")


def images(count: int, size: int = 12, seed: int = 1) -> list[dict[str, Array]]:
    random = np.random.default_rng(seed)
    return [{"x": random.standard_normal((1 + i % 3, 3, size, size), np.float32)} for i in range(count)]


def reference(path: Path, tensors: tuple[str, ...], batches: list[dict[str, Array]]) -> dict[str, list[Array]]:
    """Every tensor of every batch, by the engine's Python API without optimisation."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    kinds = {v.name: v.type.tensor_type.elem_type for v in [*model.graph.value_info, *model.graph.output]}
    inputs = {value.name for value in model.graph.input}
    inside = [name for name in tensors if name not in inputs]
    del model.graph.output[:]
    model.graph.output.extend(info(name, None, kinds[name]) for name in inside)  # type: ignore[arg-type]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kept: dict[str, list[Array]] = {name: [] for name in tensors}
    for batch in batches:
        values = dict(batch) | dict(zip(inside, session.run(inside, batch), strict=True))
        for name in tensors:
            kept[name].append(values[name])
    return kept


def check(observations: Observations, expected: dict[str, list[Array]]) -> None:
    assert set(observations.tensors) == set(expected)
    for name, parts in expected.items():
        values = np.concatenate([part.astype(np.float32).ravel() for part in parts])
        got = observations.tensors[name]
        close = functools.partial(pytest.approx, rel=1e-4, abs=1e-5 * float(np.abs(values).max()))
        assert got.count == values.size
        assert got.low == close(float(values.min()))
        assert got.high == close(float(values.max()))
        # Shares below a few quantiles: the engine's fused kernels round differently, so single bins may.
        lower, upper = got.edges()
        for share in (0.1, 0.5, 0.9):
            at = float(np.quantile(values, share))
            assert got.counts[upper <= at].sum() <= (values <= at * (1 + 1e-5) + 1e-9).sum() + values.size * 0.01
            assert got.counts[lower <= at].sum() >= (values <= at).sum() - values.size * 0.01


@pytest.mark.parametrize("channels", [16, 24, 32])
def test_every_tensor_of_a_convolutional_net(tmp_path: Path, opener: OpenGraph, cache: Cache, channels: int) -> None:
    path = convolutions(tmp_path / "m.onnx", channels)
    batches = images(5)
    done: list[int] = []
    observations = observe(path, CONVOLUTION_TENSORS, batches, opener, progress=done.append, cache=cache)
    assert observations.batches == 5
    assert done == [1, 2, 3, 4, 5]
    check(observations, reference(path, CONVOLUTION_TENSORS, batches))


def test_channels_are_those_of_the_axis_although_the_engine_blocks_them(
    tmp_path: Path, opener: OpenGraph, cache: Cache
) -> None:
    path = convolutions(tmp_path / "m.onnx")
    batches = images(4)
    axes = {"x": 1, "r1": 1, "c2": -3, "y": -1}
    observations = observe(path, ["r1", "s", "x", "c2", "y"], batches, opener, channels=axes, cache=cache)
    for name, parts in reference(path, tuple(axes), batches).items():
        flat = np.concatenate([np.moveaxis(p, axes[name], 0).reshape(p.shape[axes[name]], -1) for p in parts], 1)
        got = observations.tensors[name].channels
        assert got is not None
        assert got.axis == axes[name]
        assert got.count == flat.shape[1]
        for array, expected in (
            (got.low, flat.min(1)),
            (got.high, flat.max(1)),
            (got.mean, flat.mean(1, dtype=np.float64)),
            (got.mean_square, (flat.astype(np.float64) ** 2).mean(1)),
        ):
            np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-4)
    assert observations.tensors["s"].channels is None


def test_groups_within_a_memory_budget_give_the_same(tmp_path: Path, opener: OpenGraph, cache: Cache) -> None:
    path = convolutions(tmp_path / "m.onnx")
    opened: list[int] = []

    @contextmanager
    def counting(graph: Path, *, unordered: Any = ()) -> Iterator[Any]:
        opened.append(len(onnx.load(graph).graph.output))
        with opener(graph, unordered=unordered) as runner:
            yield runner

    batches = images(3)
    whole = observe(path, CONVOLUTION_TENSORS, batches, opener, cache=cache)
    # Batch 0 has one image: 16 channels of 12 x 12 floats are 9,216 bytes.
    grouped = observe(path, CONVOLUTION_TENSORS, batches, counting, memory_budget=20_000, cache=cache)
    assert opened == [2, 5]
    whole.write(tmp_path / "whole.npz")
    grouped.write(tmp_path / "grouped.npz")
    for name in CONVOLUTION_TENSORS:
        assert grouped.tensors[name].high == pytest.approx(whole.tensors[name].high, rel=1e-5)
        assert grouped.tensors[name].count == whole.tensors[name].count


def test_sizes_that_no_shape_tells_are_found_by_running(tmp_path: Path, opener: OpenGraph, cache: Cache) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Transpose", ["places"], ["rows"]),
        helper.make_node("GatherND", ["x", "rows"], ["chosen"]),
        helper.make_node("Exp", ["chosen"], ["e"]),
        helper.make_node("ReduceSum", ["e"], ["y"], keepdims=0),
    ]
    path = save(tmp_path / "m.onnx", nodes, [info("x", ["n", 10])], [info("y", [])], {})
    random = np.random.default_rng(0)
    batches = [{"x": np.maximum(random.standard_normal((7, 10)), 0).astype(np.float32)} for _ in range(3)]
    tensors = ("chosen", "e", "y")
    check(observe(path, tensors, batches, opener, memory_budget=100, cache=cache), reference(path, tensors, batches))


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("channels", [{}, {"c1": 1, "r1": 1, "s": 1}])
def test_external_data_beside_the_model(
    tmp_path: Path, opener: OpenGraph, cache: Cache, together: bool, channels: dict[str, int]
) -> None:
    path = convolutions(tmp_path / "plain.onnx")
    apart = tmp_path / "apart" / "m.onnx"
    apart.parent.mkdir()
    location = "weights.bin" if together else None
    onnx.save(
        onnx.load(path),
        apart,
        save_as_external_data=True,
        all_tensors_to_one_file=together,
        location=location,
        size_threshold=0,
    )
    batches = images(2)
    # With channels nothing may come unordered, so that the file itself is run.
    observations = observe(apart, ("c1", "r1", "s"), batches, opener, channels=channels, cache=cache)
    check(observations, reference(path, ("c1", "r1", "s"), batches))


def test_a_half_precision_graph(tmp_path: Path, opener: OpenGraph, cache: Cache) -> None:
    weights = {"w": np.random.default_rng(0).standard_normal((8, 4)).astype(np.float16)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    path = save(
        tmp_path / "m.onnx",
        nodes,
        [info("x", ["n", 8], TensorProto.FLOAT16)],
        [info("y", ["n", 4], TensorProto.FLOAT16)],
        weights,
    )
    batches = [{"x": np.random.default_rng(1).standard_normal((9, 8)).astype(np.float16)}]
    observations = observe(path, ("x", "m", "y"), batches, opener, cache=cache)
    assert observations.tensors["x"].high == float(batches[0]["x"].max())
    assert observations.tensors["y"].low == 0


def poisoned(value: float, batch: int) -> list[dict[str, Array]]:
    batches = images(4)
    batches[batch]["x"][0, 1, 2, 3] = value
    return batches


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_in_the_data_is_named(tmp_path: Path, opener: OpenGraph, cache: Cache, value: float) -> None:
    path = convolutions(tmp_path / "m.onnx")
    word = "NaN" if np.isnan(value) else "infinity"
    with pytest.raises(CalibrationError, match=rf"batch 2: tensor 'x' holds {word} at index \(0, 1, 2, 3\)"):
        observe(path, ["s"], poisoned(value, 2), opener, cache=cache)


def test_a_large_sum_is_not_taken_for_infinity(tmp_path: Path, opener: OpenGraph, cache: Cache) -> None:
    path = save(tmp_path / "m.onnx", [helper.make_node("Abs", ["x"], ["y"])], [info("x", [4])], [info("y", [4])], {})
    batch = {"x": np.full(4, 3e38, np.float32)}
    assert observe(path, ["y"], [batch], opener, cache=cache).tensors["y"].low == np.float32(3e38)


@pytest.mark.parametrize("channels", [{}, {"r1": 1}])
def test_what_the_graph_makes_of_finite_data_is_named_with_its_index(
    tmp_path: Path, opener: OpenGraph, cache: Cache, channels: dict[str, int]
) -> None:
    path = convolutions(tmp_path / "m.onnx")
    batches = images(3)
    batches[1]["x"][1, :, 5, 7] = 3e38  # times the weights it overflows
    with pytest.raises(
        CalibrationError, match=r"batch 1: tensor 'r1' holds (NaN|infinity) at index \(1, \d+, [456], [678]\)"
    ):
        observe(path, ["s", "r1"], batches, opener, channels=channels, cache=cache)


def test_infinities_of_the_graph_may_be_counted(tmp_path: Path, opener: OpenGraph, cache: Cache) -> None:
    nodes = [helper.make_node("Log", ["x"], ["l"]), helper.make_node("Exp", ["l"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, [info("x", ["n"])], [info("y", ["n"])], {})
    batches = [{"x": np.array([0, 1, 2, 0], np.float32)}]
    with pytest.raises(CalibrationError, match=r"tensor 'l' holds infinity at index \(0,\)"):
        observe(path, ["l"], batches, opener, cache=cache)
    statistics = observe(path, ["l"], batches, opener, infinite="count", cache=cache).tensors["l"]
    assert (statistics.count, statistics.infinite, statistics.low) == (2, 2, 0.0)
    batches = [{"x": np.array([0, -1, 2], np.float32)}]
    with pytest.raises(CalibrationError, match=r"tensor 'l' holds NaN at index \(1,\)"):
        observe(path, ["l"], batches, opener, infinite="count", cache=cache)
    with pytest.raises(CalibrationError, match="no finite value in any of 1 batches"):
        observe(path, ["l"], [{"x": np.zeros(3, np.float32)}], opener, infinite="count", cache=cache)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({}, r"batch 1: expected the inputs 'x', got none"),
        (
            {"x": np.zeros((1, 3, 12, 12), np.float32), "z": np.zeros(1)},
            r"batch 1: expected the inputs 'x', got 'x', 'z'",
        ),
        ({"x": np.zeros((1, 3, 12), np.float32)}, r"batch 1: input 'x'.*3,12"),
        ({"x": np.zeros((1, 4, 12, 12), np.float32)}, r"batch 1: input 'x'.*1,4,12,12"),
        ({"x": np.zeros((1, 3, 12, 12), np.float64)}, r"batch 1: input 'x'.*float64"),
    ],
)
def test_a_batch_that_does_not_fit_is_named(
    tmp_path: Path, opener: OpenGraph, cache: Cache, batch: dict[str, Array], message: str
) -> None:
    path = convolutions(tmp_path / "m.onnx")
    with pytest.raises(CalibrationError, match=message):
        observe(path, ["s"], [images(1)[0], batch], opener, cache=cache)


def test_sizes_that_only_the_engine_can_refuse(tmp_path: Path, opener: OpenGraph, cache: Cache) -> None:
    nodes = [helper.make_node("Add", ["x", "z"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, [info("x", ["n"]), info("z", ["n"])], [info("y", ["n"])], {})
    batch = {"x": np.zeros(3, np.float32), "z": np.zeros(4, np.float32)}
    with pytest.raises(CalibrationError, match="batch 0: the model can't be run on it"):
        observe(path, ["y"], [batch], opener, cache=cache)


def test_an_empty_set_and_empty_tensors_are_refused(tmp_path: Path, opener: OpenGraph, cache: Cache) -> None:
    path = convolutions(tmp_path / "m.onnx")
    with pytest.raises(CalibrationError, match="empty"):
        observe(path, ["s"], [], opener, cache=cache)
    flat = save(
        tmp_path / "f.onnx", [helper.make_node("Relu", ["x"], ["y"])], [info("x", ["n"])], [info("y", ["n"])], {}
    )
    with pytest.raises(CalibrationError, match="'y' has no finite value in any of 1 batches"):
        observe(flat, ["y"], [{"x": np.zeros(0, np.float32)}], opener, cache=cache)


def test_values_that_the_graph_lacks_are_a_bug(tmp_path: Path, opener: OpenGraph, cache: Cache) -> None:
    path = convolutions(tmp_path / "m.onnx")
    for name in ("w1", "nothing", ""):
        with pytest.raises(InternalError, match=f"no value '{name}'"):
            observe(path, ["s", name], images(1), opener, cache=cache)
    with pytest.raises(ModelError):
        observe(tmp_path / "none.onnx", ["s"], images(1), opener, cache=cache)


def test_the_same_data_gives_the_same_bytes(tmp_path: Path, opener: OpenGraph, cache: Cache) -> None:
    path = convolutions(tmp_path / "m.onnx")
    for name, tensors in (("a", CONVOLUTION_TENSORS), ("b", CONVOLUTION_TENSORS[::-1])):
        observe(path, tensors, iter(images(3)), opener, channels={"s": 1}, cache=cache).write(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_nothing_is_left_behind_whatever_ends_it(tmp_path: Path, opener: OpenGraph, cache: Cache) -> None:
    path = convolutions(tmp_path / "m.onnx")
    before = sorted(tmp_path.iterdir())

    def interrupt(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        observe(path, ["s"], images(4), opener, progress=interrupt, cache=cache)
    with pytest.raises(CalibrationError):
        observe(path, ["s"], poisoned(np.nan, 1), opener, cache=cache)
    observe(path, ["s"], images(1), opener, cache=cache)
    assert not list((cache.root / "staging").rglob("*"))
    assert sorted(p for p in tmp_path.iterdir() if p != cache.root) == before
