"""edgebuild.Runner against numpy: values, names, memory, threads."""

import ctypes
import gc
import threading
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import runtime_bundles as bundles
from onnx import TensorProto, helper

from edgebuild.bundle.manifest import Requirements
from edgebuild.errors import (
    CancelledError,
    DeadlineError,
    EdgebuildError,
    IncompatibleError,
    SignatureError,
    UsageError,
)
from edgebuild.model.signature import ContainerType, Signature, TensorType

pytest.importorskip("edgebuild._runtime", reason="the extension module is not built")

from edgebuild.runtime import Cancellation, Runner, _rebuild


@pytest.fixture(scope="module")
def affine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.affine(tmp_path_factory.mktemp("affine") / "b")


def test_run_agrees_with_numpy_in_signature_order(affine: Path) -> None:
    runner = Runner(affine)
    for batch in (1, 3, 64):
        inputs = bundles.affine_inputs(batch, seed=batch)
        outputs = runner.run(dict(reversed(inputs.items())))
        assert list(outputs) == ["y", "total"]
        for name, expected in bundles.affine_reference(inputs).items():
            np.testing.assert_allclose(outputs[name], expected, rtol=1e-5, atol=1e-5)


def test_structured_gives_the_models_own_nesting(affine: Path) -> None:
    inputs = bundles.affine_inputs(2)
    nested = Runner(affine).run(inputs, structured=True)
    assert list(nested) == ["y", "rest"]
    assert isinstance(nested["rest"], tuple)
    assert nested["rest"][1] is None
    np.testing.assert_allclose(nested["rest"][0], bundles.affine_reference(inputs)["total"], rtol=1e-5)


def test_every_structure_is_rebuilt() -> None:
    structure = {
        "list": [{"tensor": 1}, {"tuple": [{"constant": 2.5}, {"dict": [["k", {"tensor": 0}]]}, {"tuple": []}]}]
    }
    assert _rebuild(structure, ["a", "b"]) == ["b", (2.5, {"k": "a"}, ())]


@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_an_index_beyond_the_models_table_names_input_place_and_range(tmp_path: Path, dtype: str) -> None:
    ids = np.array([[0, 1, 2], [3, 70, 6]], dtype)
    with Runner(bundles.lookup(tmp_path / "b", dtype)) as runner:
        for wrong in (70, -8):
            ids[1, 1] = wrong
            with pytest.raises(SignatureError) as error:
                runner.run({"ids": ids})
            said = f"input 'ids', element [1,1]: expected an index from 0 to 6, got {wrong}; "
            assert said in str(error.value)
            assert "Non-zero status code" not in str(error.value)
        ids[1, 1] = 5
        expected = np.arange(14, dtype=np.float32).reshape(7, 2)[ids]
        np.testing.assert_array_equal(runner.run({"ids": ids})["y"], expected)


def test_an_index_that_the_model_computed_itself_is_told_with_its_node(tmp_path: Path) -> None:
    with Runner(bundles.lookup(tmp_path / "b", "int64", computed=True)) as runner:
        with pytest.raises(SignatureError) as error:
            runner.run({"ids": np.array([[0, 1, 6]])})
        assert str(error.value).startswith("ONNX Runtime failed in node 'words' (Gather): ")
        assert "idx=7" in str(error.value)


def test_metadata_is_that_of_the_bundle(affine: Path) -> None:
    runner = Runner(affine)
    assert runner.bundle_id == (affine / "manifest.sha256").read_text().strip()
    assert (runner.variant, runner.backend, runner.engine_version) == ("float32", "onnxruntime", "1.31.1")
    assert runner.passed_over == ()
    assert str(runner.signature.inputs[0]) == "a:float32[batch,3]"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": ...}, ["'a'", "missing"]),
        ({"c": 1}, ["unexpected", "'c'", "'a', 'b'"]),
        ({"a": None}, ["'a'", "None"]),
        ({"a": np.zeros((2, 3))}, ["'a'", "float32", "float64"]),
        ({"a": np.zeros((2, 4), np.float32)}, ["'a'", "2,4"]),
        ({"a": np.zeros((2, 3), "M8[s]")}, ["'a'", "datetime64"]),
        ({"a": np.array([["x"] * 3])}, ["'a'", "float32"]),
        ({"a": [[1j, 2, 3]]}, ["'a'", "float32"]),
        ({"a": [[1, 2], [3]]}, ["'a'"]),
    ],
)
def test_wrong_inputs_are_signature_errors_that_name_the_tensor(
    affine: Path, change: dict[str, Any], words: list[str]
) -> None:
    inputs = {name: value for name, value in {**bundles.affine_inputs(2), **change}.items() if value is not ...}
    with pytest.raises(SignatureError) as error:
        Runner(affine).run(inputs)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_other_kinds_of_arrays_are_converted(affine: Path) -> None:
    torch = pytest.importorskip("torch")
    runner = Runner(affine)
    inputs = bundles.affine_inputs(4)
    expected = bundles.affine_reference(inputs)["y"]
    a = inputs["a"]
    padded = np.zeros((4, 6), np.float32)
    padded[:, ::2] = a
    unaligned = np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(np.float32).reshape(4, 3)
    for given in (np.asfortranarray(a), padded[:, ::2], a.astype(">f4"), unaligned, a.tolist(), torch.from_numpy(a)):
        np.testing.assert_allclose(runner.run({**inputs, "a": given})["y"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float64"]
)
def test_numpy_dtypes_come_back_unchanged(tmp_path: Path, dtype: str) -> None:
    runner = Runner(bundles.identity(tmp_path / "b", dtype, [None, None]))
    random = np.random.default_rng(5)
    for shape in ((3, 5), (0, 2), (1, 1)):
        x = (random.random(shape) * 2).astype(dtype)
        np.testing.assert_array_equal(runner.run({"x": x})["y"], x, strict=True)


@pytest.mark.parametrize(
    "dtype", ["bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "int4", "uint4"]
)
def test_other_dtypes_come_as_ml_dtypes_and_go_in_raw_too(tmp_path: Path, dtype: str) -> None:
    runner = Runner(bundles.identity(tmp_path / "b", dtype, [None]))
    kind = np.dtype(getattr(ml_dtypes, dtype))
    raw = np.array([0, 1, 7, 15, 3], np.uint16 if dtype == "bfloat16" else np.uint8)
    for given in (raw, raw.view(kind), *([raw.astype(np.int8)] if dtype == "int4" else [])):
        y = runner.run({"x": given})["y"]
        assert y.dtype == kind
        np.testing.assert_array_equal(y.view(raw.dtype), raw)


def test_strings_are_objects_of_str(tmp_path: Path) -> None:
    runner = Runner(bundles.identity(tmp_path / "b", "string", [None, None]))
    x = np.array([["", "é😀"], ["nul\0", "x" * 1000]], dtype=object)
    y = runner.run({"x": x})["y"]
    assert y.dtype == object
    assert y.tolist() == x.tolist()
    assert runner.run({"x": [["a"]]})["y"].tolist() == [["a"]]
    with pytest.raises(SignatureError, match="'x'"):
        runner.run({"x": np.array([[1]], dtype=object)})


def _sequence_bundle(path: Path) -> Path:
    value = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    kind = ContainerType(kind="sequence", element=TensorType(dtype="float32", shape=None))
    model = bundles.make_model(
        [helper.make_node("Identity", ["s"], ["t"])],
        [helper.make_value_info("s", value)],
        [helper.make_value_info("t", value)],
    )
    signature = Signature(
        inputs=(bundles.of_type("s", kind),), outputs=(bundles.of_type("t", kind),), output_structure={"tensor": 0}
    )
    return bundles.make_bundle(path, model, signature)


def test_sequences_are_lists(tmp_path: Path) -> None:
    runner = Runner(_sequence_bundle(tmp_path / "b"))
    items = [np.float32([[1, 2]]), np.zeros((0, 3), np.float32), np.float32(4).reshape(())]
    result = runner.run({"s": items})["t"]
    assert isinstance(result, list)
    for got, expected in zip(result, items, strict=True):
        np.testing.assert_array_equal(got, expected, strict=True)
    with pytest.raises(SignatureError, match="'s'"):
        runner.run({"s": items[0]})


def test_bound_outputs_are_written_in_place(affine: Path) -> None:
    runner = Runner(affine)
    inputs = bundles.affine_inputs(3)
    y = np.full((3, 4), np.nan, np.float32)
    pointer = y.ctypes.data
    outputs = runner.run(inputs, out={"y": y})
    assert outputs["y"] is y
    assert y.ctypes.data == pointer
    np.testing.assert_allclose(y, bundles.affine_reference(inputs)["y"], rtol=1e-5, atol=1e-5)
    frozen = np.zeros((3, 4), np.float32)
    frozen.flags.writeable = False
    for wrong in (np.zeros((3, 4)), np.zeros((4, 3), np.float32), np.zeros((1, 4), np.float32), frozen, [1]):
        with pytest.raises(SignatureError, match="y"):
            runner.run(inputs, out={"y": wrong})
    with pytest.raises(SignatureError, match="'z'"):
        runner.run(inputs, out={"z": y})


def test_outputs_are_views_that_outlive_the_runner(affine: Path) -> None:
    inputs = bundles.affine_inputs(1000)
    runner = Runner(affine)
    y = runner.run(inputs)["y"]
    assert not y.flags.owndata  # over the engine's memory
    assert y.flags.writeable
    runner.close()
    del runner
    gc.collect()
    np.testing.assert_allclose(y, bundles.affine_reference(inputs)["y"], rtol=1e-5, atol=1e-5)


def test_inputs_are_read_in_place_while_it_runs(tmp_path: Path) -> None:
    # An endless loop that watches its input would be needed to see it from outside; a refused allocation shows it too:
    # 1 GiB of address space that was never touched stays untouched by a run that needs none of its values.
    model = bundles.make_model(
        [helper.make_node("Shape", ["x"], ["y"])],
        [bundles.tensor_info("x", "uint8", [None])],
        [bundles.tensor_info("y", "int64", [1])],
    )
    signature = Signature(
        inputs=(bundles.spec("x", "uint8", [None]),),
        outputs=(bundles.spec("y", "int64", [1]),),
        output_structure={"tensor": 0},
    )
    runner = Runner(bundles.make_bundle(tmp_path / "b", model, signature))
    x = np.empty(1 << 30, np.uint8)

    def peak_kib() -> int:
        status = Path("/proc/self/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))

    before = peak_kib()
    assert runner.run({"x": x})["y"].tolist() == [1 << 30]
    assert peak_kib() - before < 100_000


def test_the_gil_is_free_while_it_runs(tmp_path: Path) -> None:
    runner = Runner(bundles.endless(tmp_path / "b"))
    error: list[Exception] = []

    def run() -> None:
        try:
            runner.run({"x": np.array(True)}, deadline=1.0)
        except EdgebuildError as caught:
            error.append(caught)

    thread = threading.Thread(target=run)
    thread.start()
    steps = 0
    while thread.is_alive():
        ctypes.c_int(0)
        steps += 1
    thread.join()
    assert steps > 1000  # with the GIL held this thread would get a handful at most
    assert isinstance(error[0], DeadlineError)


def test_many_threads_share_one_runner(affine: Path) -> None:
    runner = Runner(affine)
    wrong: list[int] = []

    def run(seed: int) -> None:
        inputs = bundles.affine_inputs(seed + 1, seed=seed)
        for _ in range(50):
            got = runner.run(inputs)["y"]
            if not np.allclose(got, bundles.affine_reference(inputs)["y"], rtol=1e-5, atol=1e-5):
                wrong.append(seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_closed_runner_says_so(affine: Path) -> None:
    with Runner(affine) as runner:
        runner.run(bundles.affine_inputs(1))
    with pytest.raises(UsageError, match="closed"):
        runner.run(bundles.affine_inputs(1))


def test_profile_names_the_nodes(affine: Path) -> None:
    runner = Runner(affine, options={"graph_optimization": "disable"})
    runner.run(bundles.affine_inputs(1), profile=True)
    assert {"MatMul", "Add", "ReduceSum"} <= {entry.op_type for entry in runner.profile()}


def test_load_errors_are_those_of_the_command_line(affine: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nonsense"):
        Runner(affine, backend="nonsense")
    with pytest.raises(UsageError, match="nonsense"):
        Runner(affine, options={"nonsense": 1})
    with pytest.raises(UsageError, match="missing"):
        Runner(tmp_path / "missing")
    with pytest.raises(UsageError, match="deadline"):
        Runner(affine).run(bundles.affine_inputs(1), deadline=0.0)
    missing = Requirements(cpu_features=("no_such_feature",))
    bundle = bundles.affine(tmp_path / "b", variants=(("fast", missing), ("plain", Requirements())))
    assert Runner(bundle).passed_over[0].variant == "fast"
    with pytest.raises(IncompatibleError, match="no_such_feature"):
        Runner(bundle, fallback=False)


def test_a_cancellation_stops_its_runs_from_another_thread_and_no_other(tmp_path: Path) -> None:
    endless = {"x": np.array(True)}
    stop, other = Cancellation(), Cancellation()
    ended: list[str] = []
    with Runner(bundles.endless(tmp_path / "b")) as runner:

        def run(name: str, cancellation: Cancellation) -> None:
            with pytest.raises(CancelledError):
                runner.run(endless, cancellation=cancellation)
            ended.append(name)

        threads = [
            threading.Thread(target=run, args=("stopped", stop)),
            threading.Thread(target=run, args=("stopped", stop)),
            threading.Thread(target=run, args=("other", other)),
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        assert not stop.cancelled
        stop.cancel()
        assert stop.cancelled
        for thread in threads[:2]:
            thread.join(timeout=30)
        assert ended == ["stopped", "stopped"]
        with pytest.raises(CancelledError, match="cancelled before it began"):
            runner.run(endless, cancellation=stop)
        stop.reset()
        with pytest.raises(DeadlineError):  # so it began
            runner.run(endless, cancellation=stop, deadline=0.05)
        other.cancel()
        threads[2].join(timeout=30)
        assert ended[-1] == "other"
    assert CancelledError.exit_code == 130
