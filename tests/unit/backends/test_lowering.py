"""Lowering: what a backend loads computes what the export did, and nothing that changes it is missing from its key."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from edgebuild.backends.lowering import LoweredModel, lower_float
from edgebuild.backends.registry import MOST_THREADS, check_options, find_backend
from edgebuild.cache import Cache
from edgebuild.errors import UsageError
from edgebuild.export.result import ExportedModel
from edgebuild.graph import stage
from edgebuild.graph.stage import OptimizedGraph, optimize_export
from edgebuild.model.signature import Signature, TensorType, ValueSpec
from edgebuild.native.sources import find_sources
from edgebuild.targets import BackendSpec, load_target

MakeExport = Callable[..., ExportedModel]


@pytest.fixture
def export(tmp_path: Path) -> MakeExport:
    def make(*, seed: int = 0, folder: str = "export", dtype: type = np.float32) -> ExportedModel:
        directory = tmp_path / folder
        directory.mkdir()
        weight = np.random.default_rng(seed).standard_normal((4, 3)).astype(dtype)
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        graph = helper.make_graph(
            [helper.make_node("Identity", ["x"], ["i"]), helper.make_node("MatMul", ["i", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", kind, [2, 4])],
            [helper.make_tensor_value_info("y", kind, [2, 3])],
            [numpy_helper.from_array(weight, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        save(model, directory / "model.onnx")
        name = np.dtype(dtype).name
        return ExportedModel(
            directory=directory,
            name="m",
            kind="test",
            signature=Signature(
                inputs=(ValueSpec(name="x", type=TensorType(dtype=name, shape=(2, 4))),),
                outputs=(ValueSpec(name="y", type=TensorType(dtype=name, shape=(2, 3))),),
                symbols={},
                output_structure={"tensor": 0},
            ),
            engine_inputs=("x",),
            engine_outputs=("y",),
            exporter="test",
            opset=17,
            attempts=(),
            parity=(),
            tolerances={"y": (0.0, 0.0)},
            sample_count=0,
            assumptions=(),
            notes=(),
            original_latency_ms=None,
            producer={},
        )

    return make


def lower(
    exported: ExportedModel, spec: BackendSpec, options: dict[str, str], cache: Cache
) -> tuple[LoweredModel, OptimizedGraph, bool]:
    """Both stages; the last says whether both came from the cache."""
    graph, first = optimize_export(exported.onnx, spec, cache)
    lowered, second = lower_float(exported, graph, spec, options, cache)
    return lowered, graph, first and second


@pytest.fixture(scope="module")
def spec() -> BackendSpec:
    return load_target("x86-64").backend("onnxruntime")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_the_lowered_model_computes_what_numpy_does(
    export: MakeExport, spec: BackendSpec, tmp_path: Path, dtype: type
) -> None:
    import onnxruntime

    exported = export(dtype=dtype)
    lowered, graph, hit = lower(exported, spec, {}, Cache(tmp_path / "cache"))
    (variant,) = lowered.variants
    assert not hit
    assert variant.precision == np.dtype(dtype).name
    assert variant.name == f"onnxruntime-{variant.precision}"
    assert graph.nodes == (2, 1)
    x = np.random.default_rng(1).standard_normal((2, 4)).astype(dtype)
    session = onnxruntime.InferenceSession(str(lowered.path(variant.model)), providers=["CPUExecutionProvider"])
    (got,) = session.run(list(variant.outputs), {variant.inputs[0]: x})
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(dtype)
    np.testing.assert_allclose(got, x @ weight, rtol=1e-2 if dtype == np.float16 else 1e-5)


def test_equal_inputs_are_answered_from_the_cache_and_any_other_is_not(
    export: MakeExport, spec: BackendSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path / "cache")
    exported = export()

    def hit(model: ExportedModel = exported, to: BackendSpec = spec, **options: str) -> bool:
        return lower(model, to, options, cache)[2]

    assert not hit()
    assert hit()
    copy = tmp_path / "elsewhere"
    shutil.copytree(exported.directory, copy)
    assert hit(replace(exported, directory=copy)), "where the export lies is no input"
    (copy / "model.onnx.data").write_bytes(b"weights")
    assert not hit(replace(exported, directory=copy))
    assert not hit(export(seed=1, folder="other"))
    assert not hit(replace(exported, engine_outputs=("z",)))
    assert not hit(intra_op_threads="2")
    assert not hit(to=replace(spec, opset_max=spec.opset_max - 1))
    versions = {**stage.stage_versions(), "onnxscript": "0"}
    monkeypatch.setattr(stage, "stage_versions", lambda: versions)
    assert not hit()


def test_two_lowerings_give_the_same_bytes(export: MakeExport, spec: BackendSpec, tmp_path: Path) -> None:
    exported = export()
    folders = [lower(exported, spec, {}, Cache(tmp_path / name))[0].folder for name in ("a", "b")]
    names = [sorted(p.name for p in folder.iterdir()) for folder in folders]
    assert names[0] == names[1]
    for name in names[0]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_options_of_the_user_win_over_the_targets(export: MakeExport, spec: BackendSpec, tmp_path: Path) -> None:
    own = replace(spec, options={"intra_op_threads": "4", "memory_pattern": "0"})
    lowered, _, _ = lower(export(), own, {"intra_op_threads": "2"}, Cache(tmp_path / "cache"))
    options = lowered.variants[0].options
    assert (options["intra_op_threads"], options["memory_pattern"]) == ("2", "0")


@pytest.mark.parametrize(("operator", "precision"), [("QuantizeLinear", "int8"), (None, "float32")])
def test_a_graph_without_weights_is_float32_unless_it_quantises(operator: str | None, precision: str) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    if operator:
        nodes = [helper.make_node(operator, ["x", "s"], ["y"])]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "s")]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", TensorProto.UINT8, None)])
    assert stage._precision(ir.from_proto(helper.make_model(graph))) == precision


def test_an_unknown_backend_says_what_to_use_instead() -> None:
    with pytest.raises(UsageError, match="'executorch' can't be built for yet") as caught:
        find_backend("executorch")
    assert caught.value.hint == "leave it out: --backend onnxruntime"


def test_the_options_are_those_that_the_runner_takes() -> None:
    source = (find_sources().root / "cpp" / "backends" / "onnxruntime" / "session.cpp").read_text(encoding="utf-8")
    rules = source[source.index("option_rules() {") : source.index("return rules;")]
    read = {
        name: tuple(re.findall(r'"(\w+)"', values))
        for name, values in re.findall(r'\{"(\w+)", \{((?:"\w+"(?:, )?)*)\}\}', rules)
    }
    assert read == find_backend("onnxruntime").OPTIONS
    assert f"kMostThreads = {MOST_THREADS};" in source


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"intra_op_thread": "2"}, "has no option 'intra_op_thread'; it knows intra_op_threads, "),
        ({"intra_op_threads": "many"}, r"intra_op_threads: expected a number from 0 .* to 1024, got 'many'"),
        ({"intra_op_threads": "1025"}, "to 1024, got '1025'"),
        ({"inter_op_threads": "-1"}, "got '-1'"),
        ({"memory_arena": "yes"}, "memory_arena: expected one of 0, 1, got 'yes'"),
        ({"memory_arena": "1", "graph_optimization": ""}, "expected one of disable, basic, extended, all, got ''"),
    ],
)
def test_options_that_the_runner_would_refuse_are_refused_before_the_build(options: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_options("onnxruntime", options)


def test_options_that_the_runner_takes_pass() -> None:
    check_options("onnxruntime", {"intra_op_threads": "0", "inter_op_threads": "1024", "execution_mode": "parallel"})
