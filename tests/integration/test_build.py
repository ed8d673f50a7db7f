"""From a model file to a bundle whose numbers are the original's: the whole way, as users go it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from build_models import Cnn, Half, Rated, Recurrent
from torch import nn

from edgebuild import Bundle, Runner

ROOT = Path(__file__).parents[2]
EDGERUN = Path(os.environ.get("EDGEBUILD_TEST_EDGERUN", ROOT / "build/dev/cpp/apps/edgerun/edgerun"))
DRIVER = Path(__file__).with_name("build_driver.py")

pytestmark = [
    pytest.mark.skipif(not EDGERUN.exists(), reason=f"{EDGERUN} is not built"),
    pytest.mark.filterwarnings("ignore"),
]


class Workplace:
    """A folder, a cache of its own, and the command line in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        (folder / "work").mkdir(parents=True)
        self.work = folder / "work"

    def start(self, *arguments: object, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, DRIVER, *map(str, arguments)],
            cwd=self.work,
            env={
                **os.environ,
                "XDG_CACHE_HOME": str(self.cache),
                "EDGEBUILD_TEST_EDGERUN": str(EDGERUN),
                "NO_COLOR": "1",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def edgebuild(self, *arguments: object, code: int = 0, **environment: str) -> tuple[str, str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=240)
        assert process.returncode == code, f"exit {process.returncode}, expected {code}\n{out}{err}"
        assert "Traceback" not in err
        return out, err

    def build(self, *arguments: object, **environment: str) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(
            self.edgebuild("--target", "x86-64", *arguments, "--json", **environment)[0]
        )
        return report


@pytest.fixture(scope="module")
def place(module_folder: Callable[[str], Path]) -> Workplace:
    return Workplace(module_folder("build"))


@pytest.fixture(scope="module")
def cnn(place: Workplace) -> nn.Module:
    torch.manual_seed(3)
    module = Cnn().eval()
    torch.jit.save(torch.jit.trace(module, torch.zeros(1, 3, 16, 16)), place.work / "cnn.pt")
    return module


@pytest.fixture(scope="module")
def report(place: Workplace, cnn: nn.Module) -> dict[str, Any]:
    return place.build("cnn.pt", "--input", "image:float32[1,3,16,16]", "--dynamic", "image:0=batch[1..2..8]")


@pytest.fixture(scope="module")
def bundle(place: Workplace, report: dict[str, Any]) -> Path:
    return place.work / "cnn.x86-64.edge"


def agrees(got: Any, expected: Any, tolerance: float = 1e-4) -> None:
    expected = expected.detach().numpy() if isinstance(expected, torch.Tensor) else expected
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def test_a_traced_cnn_computes_what_pytorch_does_at_every_batch(bundle: Path, cnn: nn.Module) -> None:
    runner = Runner(bundle)
    for batch in (1, 3, 8):
        image = np.random.default_rng(batch).standard_normal((batch, 3, 16, 16)).astype(np.float32)
        (got,) = runner.run({"image": image}).values()
        agrees(got, cnn(torch.from_numpy(image)))


def test_the_report_is_about_this_bundle(bundle: Path, report: dict[str, Any]) -> None:
    opened = Bundle.open(bundle)
    assert report["bundle_id"] == opened.id
    assert report["sizes"]["archive"] == bundle.stat().st_size
    assert [v["name"] for v in report["variants"]] == [v.name for v in opened.manifest.variants]
    (variant,) = report["variants"]
    assert variant["proof"] == "native"
    assert variant["latency_ms"] > 0
    assert variant["speed_up"] == pytest.approx(report["original_latency_ms"] / variant["latency_ms"])
    assert all(check["passed"] for check in [*report["parity"], *variant["checks"]])
    beside = json.loads(bundle.with_name("cnn.x86-64.report.json").read_text(encoding="utf-8"))
    # A test before this one may have built the same again: from the cache, and in another time.
    own = {"exit_code", "seconds", "cached"}
    assert {k: v for k, v in beside.items() if k not in own} == {k: v for k, v in report.items() if k not in own}


def test_the_bundles_own_runner_verifies_it_without_python(bundle: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "xf", bundle], cwd=tmp_path, check=True)
    program = tmp_path / "cnn.x86-64" / "bin" / "edgerun"
    done = subprocess.run([program, "verify"], cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, check=False)
    assert done.returncode == 0


def test_a_rebuild_comes_from_the_cache_without_torch(
    place: Workplace, bundle: Path, report: dict[str, Any], tmp_path: Path
) -> None:
    before = bundle.read_bytes()
    modules = tmp_path / "modules"
    again = place.build(
        "cnn.pt",
        *("--input", "image:float32[1,3,16,16]", "--dynamic", "image:0=batch[1..2..8]"),
        EDGEBUILD_TEST_MODULES=str(modules),
    )
    assert set(again["cached"]) == {"export", "optimise", "decide", "prove"}
    assert bundle.read_bytes() == before
    imported = set(modules.read_text(encoding="utf-8").split())
    assert "edgebuild.build" in imported
    assert imported.isdisjoint({"torch", "onnx", "onnxruntime", "onnxscript"})


def test_another_folder_umask_and_time_zone_give_the_same_bytes(place: Workplace, bundle: Path, tmp_path: Path) -> None:
    other = Workplace(tmp_path / "öther place")
    shutil.copyfile(place.work / "cnn.pt", other.work / "cnn.pt")
    mask = os.umask(0o077)
    try:
        other.build(
            "cnn.pt",
            *("--input", "image:float32[1,3,16,16]", "--dynamic", "image:0=batch[1..2..8]"),
            *("--decisions", place.work / "cnn.x86-64.decisions.json"),
            TZ="Asia/Tokyo",
            LC_ALL="C",
            HOME=str(tmp_path),
        )
    finally:
        os.umask(mask)
    assert (other.work / "cnn.x86-64.edge").read_bytes() == bundle.read_bytes()


def test_a_thin_bundle_runs_with_packed_engines_and_says_what_it_lacks_without(
    place: Workplace, report: dict[str, Any], cnn: nn.Module, tmp_path: Path
) -> None:
    thin = tmp_path / "thin.edge"
    said = place.build(
        *("cnn.pt", "--thin", "-o", thin),
        *("--input", "image:float32[1,3,16,16]", "--dynamic", "image:0=batch[1..2..8]"),
    )
    assert thin.stat().st_size < report["sizes"]["archive"] - 20e6
    assert any("EDGEBUILD_RUNTIME_PATH" in step for step in said["next_steps"])
    place.edgebuild("runtime", "pack", "--target", "x86-64", "-o", tmp_path / "engines")
    image = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "in.npz", image=image)
    run = ("run", thin, "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz")
    _, err = place.edgebuild(*run, code=5)
    assert "libonnxruntime.so.1" in err
    place.edgebuild(*run, EDGEBUILD_RUNTIME_PATH=str(tmp_path / "engines"))
    (got,) = np.load(tmp_path / "out.npz").values()
    agrees(got, cnn(torch.from_numpy(image)))


def test_two_inputs_integers_and_a_dict_of_outputs(place: Workplace) -> None:
    torch.manual_seed(0)
    module = Rated().eval()
    torch.jit.save(torch.jit.script(module), place.work / "rated.pt")
    place.build(
        *("rated.pt", "--no-measure", "--input", "float32[2,4]", "--input", "ids:int64[2,7]"),
        *("--dynamic", "x:0=batch[1..2..16]", "--dynamic", "ids:0=batch"),
    )
    runner = Runner(place.work / "rated.x86-64.edge")
    rng = np.random.default_rng(1)
    for batch in (1, 5):
        x = rng.standard_normal((batch, 4)).astype(np.float32)
        ids = rng.integers(0, 11, (batch, 7))
        expected = module(torch.from_numpy(x), torch.from_numpy(ids))
        got = runner.run({"x": x, "ids": ids})
        assert list(got) == ["score", "best"]
        agrees(got["score"], expected["score"])
        np.testing.assert_array_equal(got["best"], expected["best"].numpy())


def test_explicit_state_goes_round(place: Workplace) -> None:
    torch.manual_seed(0)
    module = Recurrent().eval()
    torch.jit.save(torch.jit.script(module), place.work / "lstm.pt")
    state = [np.zeros((1, 2, 6), np.float32)] * 2
    np.savez(place.work / "lstm.npz", **{"x": np.ones((2, 3, 4), np.float32), "state.0": state[0], "state.1": state[1]})
    place.build(
        *(
            "lstm.pt",
            "--no-measure",
            "--input",
            "float32[2,3,4]",
            "--input",
            "float32[1,2,6]",
            "--input",
            "float32[1,2,6]",
        ),
    )
    runner = Runner(place.work / "lstm.x86-64.edge")
    names = [spec.name for spec in runner.signature.inputs]
    own = (torch.zeros(1, 2, 6), torch.zeros(1, 2, 6))
    for step in range(3):
        x = np.random.default_rng(step).standard_normal((2, 3, 4)).astype(np.float32)
        y, own = module(torch.from_numpy(x), own)
        got = list(runner.run(dict(zip(names, [x, *state], strict=True))).values())
        agrees(got[0], y)
        state = got[1:]
    agrees(state[0], own[0])
    agrees(state[1], own[1])


def test_a_pt2_with_half_precision_inputs(place: Workplace) -> None:
    module = Half()
    torch.export.save(torch.export.export(module, (torch.zeros(3, 5, dtype=torch.float16),)), place.work / "half.pt2")
    place.build("half.pt2", "--no-measure")
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float16)
    (got,) = Runner(place.work / "half.x86-64.edge").run({"x": x}).values()
    agrees(got, module(torch.from_numpy(x)), 1e-2)


def test_an_onnx_file(place: Workplace) -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    weight = np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Tanh", ["p"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), place.work / "m.onnx")
    place.build("m.onnx", "--no-measure")
    x = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    (got,) = Runner(place.work / "m.x86-64.edge").run({"x": x}).values()
    agrees(got, np.tanh(x @ weight), 1e-5)


def _empty(place: Workplace) -> None:
    (place.work / "empty.pt").write_bytes(b"")


def _text(place: Workplace) -> None:
    (place.work / "text.pt").write_text("not a model\n", encoding="utf-8")


def _truncated(place: Workplace) -> None:
    (place.work / "half.pt").write_bytes((place.work / "cnn.pt").read_bytes()[:3000])


def _pickle(place: Workplace) -> None:
    torch.save(nn.Linear(2, 2), place.work / "pickle.pt")


def _nothing(place: Workplace) -> None:
    pass


@pytest.mark.parametrize(
    ("prepare", "arguments", "code", "said"),
    [
        (_nothing, ["--target", "x86-64", "missing.pt"], 2, "missing.pt: no such file"),
        (_empty, ["--target", "x86-64", "empty.pt"], 9, "the file is empty"),
        (_text, ["--target", "x86-64", "text.pt"], 9, "text file"),
        (_truncated, ["--target", "x86-64", "half.pt"], 9, "truncated"),
        (_pickle, ["--target", "x86-64", "pickle.pt"], 9, "--trust-model"),
        (_nothing, ["--target", "x86_65", "cnn.pt"], 2, "did you mean x86_64"),
        (_nothing, ["--target", "jetson", "--backend", "tensorrt", "cnn.pt"], 10, "--target jetson-orin --fetch"),
        (_nothing, ["cnn.pt"], 2, "--target"),
        (_nothing, ["--target", "x86-64", "cnn.pt", "-o", "cnn.pt"], 2, "would replace the file"),
        (_nothing, ["--target", "x86-64", "cnn.pt", "-o", "no/where.edge"], 2, "does not exist"),
        (_nothing, ["--target", "x86-64", "cnn.pt", "-o", "."], 2, "is a folder"),
        (_nothing, ["--target", "x86-64", "cnn.pt", "--backend", "onnxruntime", "--backend", "onnxruntime"], 2, "once"),
        (_nothing, ["--target", "x86-64", "cnn.pt", "--input", "image:float33[1,3,8,8]"], 2, "did you mean 'float32'"),
        (_nothing, ["--target", "x86-64", "cnn.pt", "--deadline", "0.2"], 11, "deadline"),
        (_nothing, ["verify", "cnn.pt"], 2, "expected a bundle (.edge, or its folder), got a model (TorchScript)"),
    ],
    ids=lambda value: None if callable(value) or isinstance(value, int) else str(value)[:40],
)
def test_a_mistake_gets_one_line_its_code_and_no_output(
    place: Workplace,
    cnn: nn.Module,
    prepare: Callable[[Workplace], None],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    prepare(place)
    before = {path: path.stat().st_mtime_ns for path in place.work.iterdir()}
    _, err = place.edgebuild(*arguments, code=code)
    assert said in err
    errors = [line for line in err.splitlines() if line.startswith("edgebuild: error:")]
    assert len(errors) == 1, err
    assert {path: path.stat().st_mtime_ns for path in place.work.iterdir()} == before


def test_a_variant_outside_its_tolerance_is_never_published(place: Workplace, report: dict[str, Any]) -> None:
    # A runner that reports what a failed gate looks like, in place of the real one.
    liar = place.folder / "liar"
    liar.write_text(
        '#!/bin/sh\ncase "$1" in verify) echo \'{"variants": [], "exit_code": 6, '
        '"error": {"code": "gate", "message": "output y is wrong", "hint": null}}\'; exit 6;; esac\n'
        'echo \'{"peak_rss_bytes": 1000000, "latency_s": {"p50": 0.1}, "exit_code": 0}\'\n',
        encoding="utf-8",
    )
    liar.chmod(0o755)
    arguments = ("cnn.pt", "--input", "image:float32[1,3,16,16]", "--dynamic", "image:0=batch[1..2..8]")
    _, err = place.edgebuild(
        "--target", "x86-64", *arguments, "-o", "wrong.edge", code=6, EDGEBUILD_TEST_EDGERUN=str(liar)
    )
    assert "output y is wrong" in err
    assert not (place.work / "wrong.edge").exists()


def test_ctrl_c_leaves_the_old_bundle_and_no_child(place: Workplace, cnn: nn.Module) -> None:
    old = bytes(257) + b"ustar, as a bundle is"
    (place.work / "old.edge").write_bytes(old)
    process = place.start("--target", "x86-64", "cnn.pt", "--seed", "77", "-o", "old.edge")
    assert process.stderr is not None
    for line in process.stderr:
        if "loading torch" in line:
            break
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert (place.work / "old.edge").read_bytes() == old
    children = subprocess.run(["pgrep", "-f", str(place.cache)], capture_output=True, text=True, check=False).stdout
    assert children == ""
    assert list((place.cache / "edgebuild" / "staging").glob(".build.*")) == []


def test_the_engine_leaves_no_telemetry_in_the_users_cache(bundle: Path, tmp_path: Path) -> None:
    root = Bundle.open(bundle).directory()
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run([str(root / "bin" / "edgerun"), "verify"], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []
