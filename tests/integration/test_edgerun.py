"""edgerun as users start it: files in and out, JSON, exit codes."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "runtime"))

import runtime_bundles as bundles

from edgebuild.bundle.manifest import Requirements

_BUILT = Path(__file__).parents[2] / "build/dev/cpp/apps/edgerun/edgerun"
EDGERUN = Path(os.environ.get("EDGEBUILD_TEST_EDGERUN", _BUILT))

pytestmark = pytest.mark.skipif(not EDGERUN.exists(), reason=f"{EDGERUN} is not built")


@pytest.fixture(scope="module")
def affine(module_folder: Callable[[str], Path]) -> Path:
    return bundles.affine(module_folder("affine") / "b")


def edgerun(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EDGERUN, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def parsed(process: subprocess.CompletedProcess[str], command: str, code: int = 0) -> dict[str, Any]:
    assert process.returncode == code, process.stderr
    data: dict[str, Any] = json.loads(process.stdout)
    assert data["schema"] == f"edgebuild.{command}/1"
    assert data["exit_code"] == code
    assert ("error" in data) == (code != 0)
    return data


def test_run_agrees_with_numpy_at_several_sizes_and_keeps_the_signatures_order(affine: Path, tmp_path: Path) -> None:
    for batch in (1, 2, 17):
        inputs = bundles.affine_inputs(batch, seed=batch)
        np.savez(tmp_path / "in.npz", **inputs)
        process = edgerun("run", affine, "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz")
        assert process.returncode == 0, process.stderr
        assert process.stdout == ""
        outputs = np.load(tmp_path / "out.npz")
        assert list(outputs) == ["y", "total"]
        for name, expected in bundles.affine_reference(inputs).items():
            np.testing.assert_allclose(outputs[name], expected, rtol=1e-5, atol=1e-5)
            assert outputs[name].shape == expected.shape
            assert outputs[name].dtype == expected.dtype


@pytest.mark.parametrize("form", ["compressed", "fortran", "big-endian", "folder", "one by one", "raw"])
def test_run_takes_the_same_numbers_in_every_form(affine: Path, tmp_path: Path, form: str) -> None:
    inputs = bundles.affine_inputs(5)
    arguments: list[object] = ["--inputs", tmp_path / "in.npz"]
    if form == "compressed":
        np.savez_compressed(tmp_path / "in.npz", **inputs)
    elif form == "fortran":
        np.savez(tmp_path / "in.npz", a=np.asfortranarray(inputs["a"]), b=inputs["b"])
    elif form == "big-endian":
        np.savez(tmp_path / "in.npz", a=inputs["a"].astype(">f4"), b=inputs["b"].astype(">f4"))
    elif form == "folder":
        (tmp_path / "in").mkdir()
        np.save(tmp_path / "in/a.npy", inputs["a"])
        (tmp_path / "in/b.bin").write_bytes(inputs["b"].tobytes())
        arguments = ["--inputs", tmp_path / "in"]
    elif form == "one by one":
        np.save(tmp_path / "a.npy", inputs["a"])
        np.savez(tmp_path / "in.npz", b=inputs["b"])
        arguments += ["--input", f"a={tmp_path}/a.npy"]
    else:
        (tmp_path / "a.bin").write_bytes(inputs["a"].tobytes())
        (tmp_path / "b.bin").write_bytes(inputs["b"].tobytes())
        arguments = ["--input", f"a={tmp_path}/a.bin", "--input", f"b={tmp_path}/b.bin", "--shape", "a=5,3"]
    process = edgerun("run", affine, *arguments, "--outputs", f"{tmp_path}/out/", "--output", f"y={tmp_path}/y.bin")
    assert process.returncode == 0, process.stderr
    expected = bundles.affine_reference(inputs)
    np.testing.assert_allclose(np.load(tmp_path / "out/y.npy"), expected["y"], rtol=1e-5, atol=1e-5)
    raw = np.fromfile(tmp_path / "y.bin", np.float32).reshape(5, 4)
    np.testing.assert_array_equal(raw, np.load(tmp_path / "out/y.npy"))


NUMPY_DTYPES = [
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
    "float16", "float32", "float64",
]  # fmt: skip  # ONNX Runtime has no complex tensors
RAW_DTYPES = ["bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "int4", "uint4"]


@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
def test_every_numpy_dtype_travels_unchanged(tmp_path: Path, dtype: str) -> None:
    bundle = bundles.identity(tmp_path / "b", dtype, [None, None])
    random = np.random.default_rng(3)
    for shape in ((3, 5), (0, 4), (1, 1)):
        raw = random.integers(0, 2 if dtype == "bool" else 256, (*shape, np.dtype(dtype).itemsize), dtype=np.uint8)
        x = raw.view(dtype)[..., 0]
        np.savez(tmp_path / "in.npz", x=x)
        process = edgerun("run", bundle, "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz")
        assert process.returncode == 0, process.stderr
        y = np.load(tmp_path / "out.npz")["y"]
        assert y.dtype == x.dtype
        assert y.shape == x.shape
        assert y.tobytes() == x.tobytes()


@pytest.mark.parametrize("dtype", RAW_DTYPES)
def test_types_that_numpy_lacks_travel_as_raw_integers(tmp_path: Path, dtype: str) -> None:
    bundle = bundles.identity(tmp_path / "b", dtype, [None])
    carrier = np.uint16 if dtype == "bfloat16" else np.uint8
    bits = {"int4": 16, "uint4": 16, "bfloat16": 65536}.get(dtype, 256)
    x = np.random.default_rng(3).integers(0, bits, 7).astype(carrier)
    for given in (x, x.view(getattr(ml_dtypes, dtype))):
        np.savez(tmp_path / "in.npz", x=given)
        process = edgerun("run", bundle, "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz")
        assert process.returncode == 0, process.stderr
        np.testing.assert_array_equal(np.load(tmp_path / "out.npz")["y"], x, strict=True)


def test_strings_travel_as_text_and_as_raw_files(tmp_path: Path) -> None:
    bundle = bundles.identity(tmp_path / "b", "string", [None])
    x = np.array(["", "abc", "é😀", "x" * 300])
    np.savez(tmp_path / "in.npz", x=x)
    (tmp_path / "x.bin").write_bytes(bundles.raw_strings(list(x)))
    sources = (["--inputs", tmp_path / "in.npz"], ["--input", f"x={tmp_path}/x.bin", "--shape", "x=4"])
    for source in sources:
        process = edgerun("run", bundle, *source, "--outputs", tmp_path / "out.npz", "--output", f"y={tmp_path}/y.bin")
        assert process.returncode == 0, process.stderr
        np.testing.assert_array_equal(np.load(tmp_path / "out.npz")["y"], x, strict=True)
        assert (tmp_path / "y.bin").read_bytes() == (tmp_path / "x.bin").read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": None}, ["'a'", "missing", "float32[batch,3]"]),
        ({"c": np.zeros(1, np.float32)}, ["unexpected", "'c'", "'a', 'b'"]),
        ({"a": np.zeros((2, 3))}, ["'a'", "float32", "float64"]),
        ({"a": np.zeros((2, 4), np.float32)}, ["a", "3", "4"]),
        ({"b": np.zeros((4, 1), np.float32)}, ["b"]),
    ],
)
def test_wrong_inputs_exit_4_naming_the_tensor_and_leave_old_outputs(
    affine: Path, tmp_path: Path, change: dict[str, Any], words: list[str]
) -> None:
    inputs = {name: value for name, value in {**bundles.affine_inputs(2), **change}.items() if value is not None}
    np.savez(tmp_path / "in.npz", **inputs)
    (tmp_path / "out.npz").write_text("old")
    arguments = ("run", affine, "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz")
    process = edgerun(*arguments)
    assert process.returncode == 4
    last = process.stderr.splitlines()[-1]
    assert last.startswith("edgerun: error: ")
    assert all(word in last for word in words), last
    assert (tmp_path / "out.npz").read_text() == "old"
    error = parsed(edgerun(*arguments, "--json"), "run", 4)["error"]
    assert "edgerun: error: " + error["message"] == last


def test_a_damaged_input_file_is_named(affine: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", **bundles.affine_inputs(2))
    data = bytearray((tmp_path / "in.npz").read_bytes())
    data[200] ^= 1
    (tmp_path / "in.npz").write_bytes(data)
    process = edgerun("run", affine, "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz")
    assert process.returncode == 4
    assert "in.npz" in process.stderr
    assert "CRC-32" in process.stderr


def test_usage_errors_exit_2_also_as_json(affine: Path, tmp_path: Path) -> None:
    for arguments in (
        ["fly"],
        ["run", affine],
        ["run", affine, "--outputs", tmp_path / "o.npz", "--inputs", tmp_path / "missing.npz"],
        ["inspect", tmp_path / "missing"],
        ["verify", affine, "--variant", "nonsense"],
        ["verify", affine, "--backend", "nonsense"],
        ["bench", affine, "--seconds", "never"],
    ):
        assert edgerun(*arguments).returncode == 2, arguments
        json_name = arguments[0] if arguments[0] != "fly" else "edgerun"
        parsed(edgerun(*arguments, "--json"), str(json_name), 2)


def test_verify_reports_every_output_and_exits_6_outside_of_the_tolerance(affine: Path, tmp_path: Path) -> None:
    good = parsed(edgerun("verify", affine, "--json"), "verify")
    assert good["ok"] is True
    assert [output["output"] for output in good["variants"][0]["outputs"]] == ["y", "total"]
    wrong = bundles.affine(tmp_path / "wrong", wrong_golden=True)
    report = parsed(edgerun("verify", wrong, "--json"), "verify", 6)
    y = report["variants"][0]["outputs"][0]
    assert y["worst"]["index"] == [1, 2]
    assert y["worst"]["error"] == pytest.approx(0.5, rel=1e-5)
    assert y["outside"] == 1
    assert "y" in edgerun("verify", wrong).stderr


def test_verify_finds_a_flipped_bit_in_a_file_that_run_does_not_read(tmp_path: Path) -> None:
    bundle = bundles.affine(tmp_path / "b")
    golden = next((bundle / "golden").iterdir())
    data = bytearray(golden.read_bytes())
    data[0] ^= 4
    golden.write_bytes(data)
    process = edgerun("verify", bundle)
    assert process.returncode == 3
    assert golden.name in process.stderr


def test_variants_that_cannot_run_here_are_passed_over_with_the_reason(tmp_path: Path) -> None:
    missing = Requirements(cpu_features=("no_such_feature",))
    bundle = bundles.affine(tmp_path / "b", variants=(("fast", missing), ("plain", Requirements())))
    np.savez(tmp_path / "in.npz", **bundles.affine_inputs(1))
    arguments = ("run", bundle, "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz")
    process = edgerun(*arguments, "--json")
    data = parsed(process, "run")
    assert data["variant"] == "plain"
    assert data["passed_over"][0]["variant"] == "fast"
    assert "no_such_feature" in data["passed_over"][0]["reason"]
    assert "no_such_feature" in process.stderr
    assert edgerun(*arguments, "--no-fallback").returncode == 5
    assert edgerun(*arguments, "--variant", "fast").returncode == 5
    report = parsed(edgerun("verify", bundle, "--json"), "verify")
    assert [variant["result"] for variant in report["variants"]] == ["skipped", "ok"]
    refused = edgerun("verify", bundle, "--all-variants")
    assert refused.returncode == 5
    assert "no variant can run here" not in refused.stderr  # others did
    assert " can't run here: " in refused.stderr


def test_an_endless_model_ends_at_its_deadline(tmp_path: Path) -> None:
    bundle = bundles.endless(tmp_path / "b")
    np.savez(tmp_path / "in.npz", x=np.array(True))
    arguments = ("run", bundle, "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz", "--deadline", "0.3")
    parsed(edgerun(*arguments, "--json"), "run", 11)
    assert not (tmp_path / "out.npz").exists()


def test_inputs_may_take_longer_than_the_deadline_of_the_load_and_of_the_run(affine: Path, tmp_path: Path) -> None:
    inputs = bundles.affine_inputs(2)
    inputs["a"].tofile(tmp_path / "a.bin")
    os.mkfifo(tmp_path / "b.fifo")
    arguments = [
        EDGERUN, "run", affine, "--deadline", "0.5", "--input", f"a={tmp_path}/a.bin", "--shape", "a=2,3",
        "--input", f"b={tmp_path}/b.fifo", "--outputs", tmp_path / "out.npz",
    ]  # fmt: skip
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(2.5)  # the hard limit of a load is a second later than the deadline
        if process.poll() is None:
            (tmp_path / "b.fifo").write_bytes(inputs["b"].tobytes())
        assert process.stderr is not None
        assert process.wait(20) == 0, process.stderr.read()
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")["y"], bundles.affine_reference(inputs)["y"], rtol=1e-5)


def test_more_threads_than_the_system_gives_are_a_clear_error(affine: Path) -> None:
    process = subprocess.run(
        [EDGERUN, "bench", affine, "--concurrency", "1024", "--seconds", "0.1", "--warmup", "0"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31)),  # stacks are 8 MiB each
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert process.returncode == 8, process.stderr
    assert re.search(
        r"error: --concurrency 1024: the system gives no more than \d+ threads \(.+\); take fewer", process.stderr
    )


def test_a_bench_of_no_end_is_no_bench_of_no_time(affine: Path) -> None:
    with subprocess.Popen(
        [EDGERUN, "bench", affine, "--seconds", "1e300"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM


def test_ctrl_c_exits_130_and_leaves_nothing_behind(tmp_path: Path) -> None:
    bundle = bundles.endless(tmp_path / "b")
    np.savez(tmp_path / "in.npz", x=np.array(True))
    (tmp_path / "out").mkdir()
    arguments = [EDGERUN, "run", bundle, "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out/out.npz"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "variant" in process.stderr.readline()  # loaded: the run has begun or is about to
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == "edgerun: error: interrupted\n"
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_exits_8(affine: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", **bundles.affine_inputs(1))
    process = edgerun("run", affine, "--inputs", tmp_path / "in.npz", "--outputs", "/dev/full")
    assert process.returncode == 8
    assert Path("/dev/full").is_char_device()


def test_bench_reports_consistent_numbers(affine: Path) -> None:
    process = edgerun(
        "bench", affine, "--seconds", "0.2", "--concurrency", "2", "--threads", "1", "--profile", "--json"
    )
    data = parsed(process, "bench")
    latency = data["latency_s"]
    order = [latency[name] for name in ("min", "p50", "p90", "p95", "p99", "max")]
    assert order == sorted(order)
    assert latency["min"] <= latency["mean"] <= latency["max"]
    assert data["throughput_per_s"] == pytest.approx(data["runs"] / data["wall_s"])
    assert data["concurrency"] == 2
    assert data["engine_threads"] == 1
    assert data["first_result_s"] > data["load_s"] > 0
    assert data["peak_rss_bytes"] > 1_000_000
    assert sum(node["share"] for node in data["profile"]) == pytest.approx(1.0)


def test_the_peak_is_the_runners_own_and_not_that_of_the_program_that_started_it(affine: Path) -> None:
    ballast = np.ones(2**28, np.uint8)  # 256 MiB, resident here
    data = parsed(edgerun("bench", affine, "--seconds", "0", "--json"), "bench")
    assert ballast[-1] == 1
    assert data["peak_rss_bytes"] < 2**27


def test_inspect_gives_the_manifests_signature(affine: Path) -> None:
    data = parsed(edgerun("inspect", affine, "--json"), "inspect")
    manifest = json.loads((affine / "manifest.json").read_text())
    assert data["signature"] == manifest["signature"]
    assert data["files"] == manifest["files"]
    assert data["id"] == (affine / "manifest.sha256").read_text().strip()
    assert data["target"] == manifest["target"]


def test_human_output_is_plain_and_narrow_when_not_on_a_terminal(affine: Path) -> None:
    for command in (["inspect"], ["verify"], ["bench", "--seconds", "0.1", "--profile"]):
        text = edgerun(command[0], affine, *command[1:]).stdout
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= 80


def test_the_bundles_own_runner_needs_no_bundle_argument(tmp_path: Path) -> None:
    from edgebuild.bundle.writer import BundleFile

    runner = BundleFile(path="bin/edgerun", source=EDGERUN, executable=True)
    bundle = bundles.affine(tmp_path / "b", files=[runner])
    np.savez(tmp_path / "in.npz", **bundles.affine_inputs(1))
    arguments = ["run", "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz"]
    subprocess.run([bundle / "bin/edgerun", *arguments], check=True, capture_output=True)
    assert list(np.load(tmp_path / "out.npz")) == ["y", "total"]
    assert edgerun(*arguments).returncode == 2  # the one in the build folder lies in no bundle


def test_an_archive_runs_as_its_folder_does(tmp_path: Path) -> None:
    bundle = bundles.affine(tmp_path / "b.edge", directory=False)
    np.savez(tmp_path / "in.npz", **bundles.affine_inputs(1))
    process = edgerun(
        "run", bundle, "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz",
        environment={"XDG_CACHE_HOME": str(tmp_path / "cache")},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
