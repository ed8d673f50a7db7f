"""`edgerun prepare` as a board's user has it, with a double of TensorRT in a bundle's plugin (cpp/tests/tensorrt)."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgebuild import prepare
from edgebuild.bundle.manifest import Target, Tolerance, Variant
from edgebuild.bundle.reader import GoldenArrays
from edgebuild.bundle.writer import BundleFile, write_bundle
from edgebuild.errors import GateError, IncompatibleError, UsageError
from edgebuild.machine import machine_arch
from edgebuild.model.signature import Signature, SymbolRange, TensorType, ValueSpec

ROOT = Path(__file__).parents[2]
EDGERUN = Path(os.environ.get("EDGEBUILD_TEST_EDGERUN", ROOT / "build/dev/cpp/apps/edgerun/edgerun"))
DOUBLES = EDGERUN.parents[2] / "tests" / "tensorrt"

pytestmark = [
    pytest.mark.skipif(not EDGERUN.exists(), reason=f"{EDGERUN} is not built"),
    pytest.mark.skipif(
        not (DOUBLES / "libtensorrt_double.so").exists(),
        reason=f"{DOUBLES} has no double of TensorRT: the C++ tests are not built",
    ),
]

CPU = {
    "format": "edgebuild-reference",
    "version": 1,
    "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 3]}],
    "nodes": [{"op": "add", "inputs": ["x", "x"], "output": "y"}],
    "outputs": ["y"],
}


class Board:
    """A bundle whose TensorRT variant computes y = 2x like the reference variant behind it, and what the double is told."""

    def __init__(self, folder: Path, *files: BundleFile) -> None:
        self.told = folder / "double"
        self.told.mkdir()
        self.bundle = folder / "m.edge"
        self.state = folder / "state"
        x = np.array([[1, -2, 3]], np.float32)
        np.savez(folder / "in.npz", x=x)
        self.inputs = folder / "in.npz"
        kind = TensorType(dtype="float32", shape=("n", 3))
        arch = machine_arch()
        common: dict[str, Any] = {"precision": "float32", "inputs": ("x",), "outputs": ("y",)}
        common["tolerances"] = {"y": Tolerance(atol=0.0, rtol=0.0)}
        write_bundle(
            self.bundle,
            name="m",
            target=Target(name="board", arch=arch, triple=f"{arch}-linux-gnu"),
            signature=Signature(
                inputs=(ValueSpec(name="x", type=kind),),
                outputs=(ValueSpec(name="y", type=kind),),
                symbols={"n": SymbolRange(minimum=1, best=1, maximum=8)},
                output_structure={"tensor": 0},
            ),
            variants=[
                Variant(
                    name="trt",
                    backend="tensorrt",
                    model="model/m.onnx",
                    plugin="lib/libedgebuild_tensorrt.so",
                    options={"workspace_mib": "16"},
                    **common,
                ),
                Variant(name="cpu", backend="reference", model="model/cpu.json", **common),
            ],
            files=[
                BundleFile(path="model/m.onnx", source=b"scale 2"),
                BundleFile(path="model/cpu.json", source=json.dumps(CPU).encode()),
                BundleFile(path="lib/libedgebuild_tensorrt.so", source=DOUBLES / "libtensorrt_double.so"),
                *files,
            ],
            goldens=[GoldenArrays(inputs={"x": x}, outputs={"y": 2 * x})],
        )

    def edgerun(self, command: str, *arguments: object, code: int = 0) -> tuple[str, str]:
        done = subprocess.run(
            [EDGERUN, command, self.bundle, "--state-dir", self.state, *map(str, arguments)],
            env={
                **os.environ,
                "LD_LIBRARY_PATH": str(DOUBLES),
                "EDGEBUILD_TENSORRT_DOUBLE": str(self.told),
                "XDG_CACHE_HOME": str(self.state.parent / "cache"),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, f"exit {done.returncode}, expected {code}\n{done.stdout}{done.stderr}"
        return done.stdout, done.stderr

    def run(self, *arguments: object) -> str:
        """What `run` says of the variant that served; the result is checked."""
        out = self.state.parent / "out.npz"
        _, err = self.edgerun("run", "--inputs", self.inputs, "--outputs", out, *arguments)
        with np.load(out) as arrays:
            np.testing.assert_array_equal(arrays["y"], [[2, -4, 6]])
        return err


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


def test_until_it_is_prepared_the_next_variant_serves_and_says_so(board: Board) -> None:
    err = board.run()
    assert "variant trt is passed over: there is no plan for this model on this machine yet; `edgerun prepare" in err
    assert "edgerun: variant cpu (reference" in err
    out, err = board.edgerun("prepare")
    assert "made" in out
    assert "edgerun: trt: building" in err
    err = board.run()
    assert "edgerun: variant trt (tensorrt 10.3.0.26)" in err
    assert "passed over" not in err


def test_run_waits_for_its_plan_if_it_is_told_to(board: Board) -> None:
    assert "edgerun: variant trt (tensorrt" in board.run("--wait")
    (board.told / "version").write_text("10.4.0.1")
    (board.told / "refuse").write_text("no importer for Foo")
    err = board.run("--wait")
    assert "warning: nothing could be prepared: variant trt: no importer for Foo" in err
    assert "edgerun: variant cpu (reference" in err


def test_the_result_is_one_object_with_the_exit_code(board: Board) -> None:
    made = json.loads(board.edgerun("prepare", "--json")[0])
    assert (made["schema"], made["exit_code"], made["goldens"]) == ("edgebuild.prepare/1", 0, 1)
    assert [(v["variant"], v["result"]) for v in made["variants"]] == [("trt", "made")]
    again = json.loads(board.edgerun("prepare", "--json")[0])
    assert again["variants"][0]["result"] == "ready"
    (board.told / "wrong").write_text("99")
    wrong = json.loads(board.edgerun("prepare", "--anew", "--json", code=6)[0])
    assert [v["result"] for v in wrong["variants"]] == ["failed", "nothing to make"]
    assert "output 'y', golden 0" in wrong["error"]["message"]
    (board.told / "wrong").unlink()
    (board.told / "free_mib").write_text("1")
    assert json.loads(board.edgerun("prepare", "--json", code=8)[0])["error"]["code"] == "out of resources"
    (board.told / "absent").write_text("1")
    _, err = board.edgerun("prepare", "--variant", "trt", code=5)
    assert "edgerun: error: nothing could be prepared: variant trt: TensorRT 10 can't be opened" in err


def test_in_python_a_bundle_is_prepared_by_its_own_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(tmp_path, BundleFile(path="bin/edgerun", source=EDGERUN, executable=True))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(DOUBLES))
    monkeypatch.setenv("EDGEBUILD_TENSORRT_DOUBLE", str(board.told))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = prepare(board.bundle, state_dir=board.state)
    assert [(one.variant, one.result, one.reason) for one in first] == [("trt", "made", None)]
    assert first[0].seconds > 0
    again = prepare(board.bundle, state_dir=board.state, every=True)
    assert [(one.variant, one.result) for one in again] == [("trt", "ready"), ("cpu", "nothing to make")]
    assert "edgerun: variant trt (tensorrt" in board.run()
    assert prepare(board.bundle, state_dir=board.state, variant="cpu")[0].result == "nothing to make"
    (board.told / "wrong").write_text("99")
    with pytest.raises(GateError, match="output 'y', golden 0"):
        prepare(board.bundle, state_dir=board.state, variant="trt", anew=True)
    (board.told / "absent").write_text("1")
    with pytest.raises(IncompatibleError, match="TensorRT 10 can't be opened"):
        prepare(board.bundle, state_dir=board.state, variant="trt")
    with pytest.raises(UsageError, match="no variant matches"):
        prepare(board.bundle, state_dir=board.state, variant="gpu")
