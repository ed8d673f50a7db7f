"""Lowering for TensorRT: precision is in the model, shapes in the recipe."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebuild.backends import tensorrt
from edgebuild.backends.candidate import Candidate
from edgebuild.backends.half import to_float16, with_float_biases
from edgebuild.model.signature import ContainerType, Signature, SymbolRange, TensorType, ValueSpec
from edgebuild.native.sources import find_sources

RANGES = {"n": SymbolRange(minimum=1, best=4, maximum=8)}


def a_candidate(folder: Path, *, scale: float = 1.0, rows: int | str | None = "n") -> Candidate:
    """y = x w + b, with one sample of 4 rows."""
    rng = np.random.default_rng(3)
    weight = (scale * rng.standard_normal((5, 3))).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 3])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.ones(3, np.float32), "b")],
    )
    path = folder / "graph.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    x = rng.standard_normal((4, 5)).astype(np.float32)
    np.savez(folder / "0.npz", **{"in.0": x, "out.0": x @ weight + 1})
    return Candidate(
        graph=path,
        precision="float32",
        inputs=("x",),
        outputs=("y",),
        engine_version="10.3",
        signature=Signature(
            inputs=(ValueSpec(name="x", type=TensorType(dtype="float32", shape=(rows, 5))),),
            outputs=(ValueSpec(name="y", type=TensorType(dtype="float32", shape=(rows, 3))),),
            symbols=RANGES,
        ),
        precisions=("float32", "float16", "int8"),
        tolerances={"y": (1e-6, 1e-5)},
        samples=(folder / "0.npz",),
    )


def test_float16_comes_before_float32_and_stays_inside_its_own_tolerance(tmp_path: Path) -> None:
    candidate = a_candidate(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    variants = tensorrt.lower(candidate, {"workspace_mib": "64"}, out)
    assert [v.name for v in variants] == ["tensorrt-float16", "tensorrt-float32"]
    assert all(v.options == {"workspace_mib": "64", "profile.x": "1,5:4,5:8,5"} for v in variants)
    assert not any(v.measured_here for v in variants)
    half = onnx.load(out / variants[0].model)
    assert {t.name: t.data_type for t in half.graph.initializer}["w"] == TensorProto.FLOAT16
    assert half.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    with np.load(tmp_path / "0.npz") as arrays:
        (got,) = onnxruntime.InferenceSession(half.SerializeToString()).run(None, {"x": arrays["in.0"]})
        expected = arrays["out.0"]
    assert variants[0].tolerances is not None
    atol, rtol = variants[0].tolerances["y"]
    assert np.all(np.abs(got - expected) <= atol + rtol * np.abs(expected))
    assert atol < 0.2 * np.max(np.abs(expected)), "a tolerance that everything passes is none"
    assert variants[1].tolerances is None


def test_a_model_that_float16_can_not_hold_has_no_float16_variant(tmp_path: Path) -> None:
    candidate = a_candidate(tmp_path, scale=1e6)
    assert to_float16(onnx.load(candidate.graph), candidate) is None
    out = tmp_path / "out"
    out.mkdir()
    assert [v.precision for v in tensorrt.lower(candidate, {}, out)] == ["float32"]
    assert [v.precision for v in tensorrt.lower(replace(candidate, precisions=("float32",)), {}, out)] == ["float32"]


def test_two_lowerings_give_the_same_bytes_and_options(tmp_path: Path) -> None:
    candidate = a_candidate(tmp_path)
    results = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        variants = tensorrt.lower(candidate, {}, folder)
        results.append([(v, (folder / v.model).read_bytes()) for v in variants])
    assert results[0] == results[1]


def test_weights_beside_the_graph_are_taken_into_one_file(tmp_path: Path) -> None:
    candidate = a_candidate(tmp_path)
    model = onnx.load(candidate.graph)
    onnx.save(model, candidate.graph, save_as_external_data=True, location="graph.onnx.data", size_threshold=0)
    assert (tmp_path / "graph.onnx.data").is_file()
    out = tmp_path / "out"
    out.mkdir()
    variants = tensorrt.lower(candidate, {}, out)
    assert sorted(p.name for p in out.iterdir()) == ["tensorrt-float16.onnx", "tensorrt-float32.onnx"]
    assert all(v.data == () for v in variants)
    onnxruntime.InferenceSession(str(out / variants[1].model))


@pytest.mark.parametrize(
    ("rows", "ranges", "profile"),
    [
        (4, RANGES, None),
        ("n", RANGES, "1,5:4,5:8,5"),
        ("n", {"n": SymbolRange(minimum=2, best=3, maximum=None)}, "2,5:3,5:4,5"),
        ("n", {}, "1,5:4,5:4,5"),
        (None, {}, "1,5:4,5:4,5"),
    ],
)
def test_a_profile_spans_the_range_of_each_dynamic_axis(
    tmp_path: Path, rows: int | str | None, ranges: dict[str, SymbolRange], profile: str | None
) -> None:
    candidate = a_candidate(tmp_path, rows=rows)
    candidate = replace(candidate, signature=replace(candidate.signature, symbols=ranges))
    assert tensorrt.profiles(candidate) == ({} if profile is None else {"profile.x": profile})
    if profile is not None:
        low, best, high = ([int(size) for size in part.split(",")] for part in profile.split(":"))
        assert all(a <= b <= c for a, b, c in zip(low, best, high, strict=True))


@pytest.mark.parametrize("per_channel", [False, True])
def test_quantised_biases_become_the_floats_that_they_stand_for(per_channel: bool) -> None:
    rng = np.random.default_rng(5)
    scale = (rng.uniform(0.01, 0.1, 3) if per_channel else np.array(0.05)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            helper.make_node("DequantizeLinear", ["i", "bs"], ["b"], axis=0),
            helper.make_node("Add", ["d", "b"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
        [
            numpy_helper.from_array(np.array(0.02, np.float32), "s"),
            numpy_helper.from_array(np.array(0, np.int8), "z"),
            numpy_helper.from_array(rng.integers(-900, 900, 3).astype(np.int32), "i"),
            numpy_helper.from_array(scale, "bs"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    changed = with_float_biases(model)
    onnx.checker.check_model(changed)
    assert [node.op_type for node in changed.graph.node] == ["QuantizeLinear", "DequantizeLinear", "Add"]
    assert {tensor.name for tensor in changed.graph.initializer} == {"s", "z", "b"}
    feed = {"x": rng.standard_normal((2, 3)).astype(np.float32)}
    (before,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)
    (after,) = onnxruntime.InferenceSession(changed.SerializeToString()).run(None, feed)
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)


def test_a_graph_that_quantises_at_run_time_is_no_tensorrt_model(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 5])],
    )
    candidate = replace(a_candidate(tmp_path), precision="int8")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), candidate.graph)
    assert tensorrt.lower(candidate, {}, tmp_path) == ()


def a_quantised_candidate(folder: Path, opset: int) -> Candidate:
    """Two products with Q/DQ before each, the second one's bias integer."""
    rng = np.random.default_rng(4)
    constants = {
        "wq": rng.integers(-127, 128, (5, 3)).astype(np.int8),
        "ws": rng.uniform(0.002, 0.02, 3).astype(np.float32),
        "wz": np.zeros(3, np.int8),
        "vq": rng.integers(-127, 128, (3, 3)).astype(np.int8),
        "vs": rng.uniform(0.002, 0.02, 3).astype(np.float32),
        "bq": rng.integers(-9000, 9000, 3).astype(np.int32),
        "bs": np.full(3, 1e-4, np.float32),
        "xs": np.asarray(0.025, np.float32),
        "hs": np.asarray(0.04, np.float32),
        "zero": np.asarray(0, np.int8),
    }
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "xs", "zero"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "xs", "zero"], ["xd"]),
            helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["w"], axis=1),
            helper.make_node("MatMul", ["xd", "w"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("QuantizeLinear", ["r", "hs", "zero"], ["rq"]),
            helper.make_node("DequantizeLinear", ["rq", "hs", "zero"], ["rd"]),
            helper.make_node("DequantizeLinear", ["vq", "vs", "wz"], ["v"], axis=1),
            helper.make_node("DequantizeLinear", ["bq", "bs"], ["b"], axis=0),
            helper.make_node("Gemm", ["rd", "v", "b"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    candidate = replace(a_candidate(folder), precision="int8")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), candidate.graph)
    return candidate


def test_between_integers_a_quantised_model_computes_in_float16_where_the_target_gains(tmp_path: Path) -> None:
    candidate = a_quantised_candidate(tmp_path, opset=20)
    out = tmp_path / "out"
    out.mkdir()
    mixed, plain = tensorrt.lower(candidate, {}, out)
    assert (mixed.name, mixed.precision) == ("tensorrt-int8-float16", "int8")
    assert (plain.name, plain.precision) == ("tensorrt-int8", "int8")
    proto = onnx.load(out / mixed.model)
    onnx.checker.check_model(proto, full_check=True)
    types = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    assert {types[name] for name in ("wq", "vq")} == {TensorProto.INT8}
    assert {types[name] for name in ("ws", "vs", "hs", "b")} == {TensorProto.FLOAT16}
    first = next(node for node in proto.graph.node if node.op_type == "QuantizeLinear")
    assert first.input[0] == "x", "an input becomes integers at once"
    assert types[first.input[1]] == TensorProto.FLOAT
    assert [node.op_type for node in proto.graph.node].count("Cast") == 1, "of the output alone"
    with np.load(tmp_path / "0.npz") as arrays:
        feed = {"x": arrays["in.0"]}
    (exact,) = onnxruntime.InferenceSession(str(out / plain.model)).run(None, feed)
    (got,) = onnxruntime.InferenceSession(str(out / mixed.model)).run(None, feed)
    assert mixed.tolerances is not None
    atol, rtol = mixed.tolerances["y"]
    assert 0 < np.max(np.abs(got - exact)) <= atol + rtol * np.max(np.abs(exact))
    assert atol < 0.2 * np.max(np.abs(exact))
    assert plain.tolerances is None


@pytest.mark.parametrize(("opset", "precisions"), [(17, ("float32", "float16", "int8")), (20, ("float32", "int8"))])
def test_without_float16_scales_or_without_gain_a_quantised_model_stays_as_it_is(
    tmp_path: Path, opset: int, precisions: tuple[str, ...]
) -> None:
    candidate = replace(a_quantised_candidate(tmp_path, opset), precisions=precisions)
    assert [v.name for v in tensorrt.lower(candidate, {}, tmp_path)] == ["tensorrt-int8"]


@pytest.mark.parametrize("zero", [np.asarray(3, np.int8), np.asarray(0, np.uint8), None])
def test_a_graph_with_other_zero_points_than_0_is_no_tensorrt_model(tmp_path: Path, zero: object) -> None:
    candidate = a_quantised_candidate(tmp_path, opset=20)
    model = onnx.load(candidate.graph)
    for node in model.graph.node:
        if zero is None and node.op_type == "QuantizeLinear":
            del node.input[2]
    for tensor in model.graph.initializer:
        if zero is not None and tensor.name == "zero":
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(zero), "zero"))
    onnx.save(model, candidate.graph)
    assert tensorrt.lower(candidate, {}, tmp_path) == ()


def test_signatures_that_tensorrt_has_no_form_for_are_told_apart() -> None:
    def signature(kind: TensorType | ContainerType) -> Signature:
        return Signature(inputs=(ValueSpec(name="x", type=kind),), outputs=())

    assert tensorrt.unsupported(signature(TensorType(dtype="float32", shape=(1,)))) is None
    assert "float64" in str(tensorrt.unsupported(signature(TensorType(dtype="float64", shape=(1,)))))
    assert "string" in str(tensorrt.unsupported(signature(TensorType(dtype="string", shape=(1,)))))
    assert "any rank" in str(tensorrt.unsupported(signature(TensorType(dtype="float32", shape=None))))
    element = TensorType(dtype="float32", shape=(1,))
    assert "sequence" in str(tensorrt.unsupported(signature(ContainerType(kind="sequence", element=element))))


def test_the_options_are_those_that_the_plugin_takes() -> None:
    source = (find_sources().root / "cpp/backends/tensorrt/recipe.cpp").read_text(encoding="utf-8")
    assert set(re.findall(r'if \(name == "(\w+)"\)', source)) == set(tensorrt.OPTIONS)
    for option, most in tensorrt.NUMBERS.items():
        limit = re.search(rf'"{option}"\) return read_number\(name, value, (\w+),', source)
        assert limit is not None
        number = limit[1].removesuffix("u")
        assert (int(number) if number.isdigit() else 1 << 20) == most
