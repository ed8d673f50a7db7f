"""`edgebuild --int8 --calib` as users go it: a bundle with a faster INT8 variant, replayed to the same bytes, or a reason."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_build import EDGERUN, Workplace
from torch import nn

from edgebuild import Bundle, Runner

pytestmark = [
    pytest.mark.skipif(not EDGERUN.exists(), reason=f"{EDGERUN} is not built"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.slow,
]

INPUT = ("--input", "input:float32[1,3,32,32]")


def images(count: int, seed: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
    return np.random.default_rng(seed).standard_normal((count, 1, 3, 32, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def place(module_folder: Callable[[str], Path]) -> Workplace:
    return Workplace(module_folder("quantize"))


@pytest.fixture(scope="module")
def network(place: Workplace) -> nn.Module:
    """Large enough that integers are faster on any CPU: 64 channels of 32 x 32."""
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for channels in (3, 64, 64, 64):
        layers += [nn.Conv2d(channels, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()]
    module = nn.Sequential(*layers, nn.AvgPool2d(8), nn.Conv2d(64, 8, 1)).eval()
    torch.jit.save(torch.jit.trace(module, torch.zeros(1, 3, 32, 32)), place.work / "net.pt")
    for index, image in enumerate(images(24, 5)):
        (place.work / "calib").mkdir(exist_ok=True)
        np.save(place.work / "calib" / f"{index:02d}.npy", image)
    return module


@pytest.fixture(scope="module")
def report(place: Workplace, network: nn.Module) -> dict[str, Any]:
    return place.build("net.pt", *INPUT, "--int8", "--calib", "calib")


@pytest.fixture(scope="module")
def bundle(place: Workplace, report: dict[str, Any]) -> Path:
    return place.work / "net.x86-64.edge"


def sqnr(expected: Any, got: Any) -> float:
    expected, got = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    return float(10 * np.log10(np.sum(expected**2) / np.sum((expected - got) ** 2)))


def int8(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [variant for variant in report["variants"] if variant["precision"] == "int8"]


def test_the_int8_variants_come_first_and_are_proved(bundle: Path, report: dict[str, Any]) -> None:
    manifest = Bundle.open(bundle).manifest
    precisions = [variant.precision for variant in manifest.variants]
    assert precisions[0] == "int8"
    assert precisions == sorted(precisions, key=lambda p: p != "int8")
    assert [variant["name"] for variant in report["variants"]] == [variant.name for variant in manifest.variants]
    measured = [variant for variant in int8(report) if variant["latency_ms"] is not None]
    assert measured
    assert all(check["passed"] for variant in report["variants"] for check in variant["checks"])
    judged = [variant["accuracy"] for variant in int8(report) if variant["proof"] == "native"]
    assert all(accuracy is not None and accuracy["sqnr_db"] >= 12 for accuracy in judged)
    assert len({accuracy["sqnr_db"] for accuracy in judged}) == len(judged)  # each of its own weights
    # Four layers of 64 x 64 x 9 weights in one byte each, not four.
    assert all(100_000 < variant["size_bytes"] < 200_000 for variant in int8(report))


def test_int8_computes_what_pytorch_does_within_the_budget_on_new_data(bundle: Path, network: nn.Module) -> None:
    runner = Runner(bundle)
    expected, got = [], []
    for image in images(6, 77):
        (y,) = runner.run({"input": image}).values()
        got.append(np.asarray(y))
        expected.append(network(torch.from_numpy(image)).detach().numpy())
    assert 18 < sqnr(expected, got) < 70  # integers: neither wrong nor exact


def test_the_bundle_is_verified_by_its_own_runner(bundle: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "xf", bundle], cwd=tmp_path, check=True)
    program = tmp_path / "net.x86-64" / "bin" / "edgerun"
    done = subprocess.run([program, "verify"], cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, check=False)
    assert done.returncode == 0


def test_manifest_and_report_say_how_it_was_quantised(bundle: Path, report: dict[str, Any]) -> None:
    text = json.dumps(Bundle.open(bundle).manifest.quantization)
    assert '"random": false' in text
    assert '"samples"' in text
    assert "calib" not in re.sub(r'"calibration"', "", text)  # no path of the build machine
    beside = json.loads(bundle.with_name("net.x86-64.report.json").read_text(encoding="utf-8"))
    trials = str(beside["quantization"])
    assert "static convolutions" in trials
    decisions = json.loads(bundle.with_name("net.x86-64.decisions.json").read_text(encoding="utf-8"))
    assert decisions["quantization"]["onnxruntime"]["plan"]["modes"]


def test_the_goldens_are_calibration_samples_with_the_original_s_outputs(bundle: Path, network: nn.Module) -> None:
    opened = Bundle.open(bundle)
    given = images(24, 5)
    assert len(opened.manifest.goldens) == 3
    for index, golden in zip((0, 8, 16), opened.manifest.goldens, strict=True):
        x, y = (
            np.frombuffer(opened.read(value.file), np.float32).reshape(value.shape)
            for value in (*golden.inputs.values(), *golden.outputs.values())
        )
        np.testing.assert_array_equal(x, given[index])
        np.testing.assert_allclose(y, network(torch.from_numpy(given[index])).detach().numpy(), atol=1e-5)


@pytest.fixture(scope="module")
def elsewhere(place: Workplace, bundle: Path, module_folder: Callable[[str], Path]) -> Workplace:
    """Another folder with an empty cache, the model, the decisions and the calibration data."""
    other = Workplace(module_folder("replay"))
    (other.work / "net.pt").write_bytes((place.work / "net.pt").read_bytes())
    shutil.copytree(place.work / "calib", other.work / "data")
    shutil.copy(place.work / "net.x86-64.decisions.json", other.work / "decided.json")
    return other


@pytest.fixture(scope="module")
def replayed(elsewhere: Workplace) -> Path:
    replay = ("--int8", "--decisions", "decided.json")
    elsewhere.build("net.pt", *INPUT, *replay, "--calib", "data", LC_ALL="C", TZ="Asia/Tokyo")
    return elsewhere.work / "net.x86-64.edge"


def test_a_replay_elsewhere_gives_the_same_bytes(bundle: Path, replayed: Path) -> None:
    assert replayed.read_bytes() == bundle.read_bytes()


def test_a_replay_without_data_gives_the_same_int8_with_other_goldens(
    bundle: Path, elsewhere: Workplace, replayed: Path
) -> None:
    elsewhere.build("net.pt", *INPUT, "--int8", "--decisions", "decided.json", "-o", "dataless.edge")
    path = elsewhere.work / "dataless.edge"
    first, second = (Bundle.open(each).manifest for each in (bundle, path))
    assert [variant.name for variant in first.variants] == [variant.name for variant in second.variants]
    assert first.quantization == second.quantization
    models, others = (
        {variant.model: manifest.files[variant.model].sha256 for variant in manifest.variants}
        for manifest in (first, second)
    )
    assert models == others
    assert first.goldens != second.goldens or first.files != second.files
    one, other = Runner(bundle), Runner(path)
    for image in images(3, 8):
        (a,), (b,) = one.run({"input": image}).values(), other.run({"input": image}).values()
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_decisions_that_do_not_fit_are_refused(place: Workplace, bundle: Path, tmp_path: Path) -> None:
    decisions = json.loads((place.work / "net.x86-64.decisions.json").read_text(encoding="utf-8"))
    plan = decisions["quantization"]["onnxruntime"]["plan"]
    path = tmp_path / "decisions.json"

    def refused() -> str:
        path.write_text(json.dumps(decisions), encoding="utf-8")
        arguments = ("net.pt", *INPUT, "--int8", "--decisions", path, "-o", tmp_path / "out.edge")
        return place.edgebuild("--target", "x86-64", *arguments, code=2)[1]

    name, mode = next(iter(plan["modes"].items()))
    plan["modes"] = {"nobody": mode}
    assert "nobody" in refused()
    plan["modes"] = {name: "blockwise"}
    assert "blockwise" in refused()
    plan["modes"] = {name: mode}
    plan["ranges"] = {value: [1.0, -1.0] for value in plan["ranges"]}
    assert "finite ends in order" in refused()
    assert not (tmp_path / "out.edge").exists()


def test_a_budget_that_nothing_holds_fails_where_int8_is_required(place: Workplace, network: nn.Module) -> None:
    arguments = ("net.pt", *INPUT, "--int8", "--calib", "calib", "--min-sqnr", "90", "-o", "strict.edge")
    _, err = place.edgebuild("--target", "x86-64", *arguments, "--require", "int8", code=6)
    assert "no INT8 variant may ship" in err
    assert "needed 90 dB" in err
    assert not (place.work / "strict.edge").exists()


def test_random_data_is_marked_and_nobody_judges_by_it(place: Workplace, network: nn.Module) -> None:
    place.build("net.pt", *INPUT, "--int8", "--calib", "random", "-o", "random.edge")
    manifest = Bundle.open(place.work / "random.edge").manifest
    assert any(variant.precision == "int8" for variant in manifest.variants)
    text = json.dumps(manifest.quantization)
    assert '"random": true' in text
    assert '"judged": false' in text


def test_int8_without_data_says_where_to_get_it(place: Workplace, network: nn.Module) -> None:
    _, err = place.edgebuild("--target", "x86-64", "net.pt", *INPUT, "--int8", code=2)
    assert "--int8 needs calibration data" in err
    assert "--calib FOLDER" in err
    assert "--calib random" in err
