"""`edgebuild explain` on bundles as a build leaves them: contributions against the shipped graphs, and what else may be asked."""

import json
from collections.abc import Callable
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

INPUT = ("--input", "input:float32[1,3,24,24]")


@pytest.fixture(scope="module")
def place(module_folder: Callable[[str], Path]) -> Workplace:
    place = Workplace(module_folder("explain"))
    torch.manual_seed(2)
    layers: list[nn.Module] = []
    for channels in (3, 48, 48):
        layers += [nn.Conv2d(channels, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU()]
    module = nn.Sequential(*layers, nn.AvgPool2d(4), nn.Conv2d(48, 8, 1)).eval()
    torch.jit.save(torch.jit.trace(module, torch.zeros(1, 3, 24, 24)), place.work / "net.pt")
    images = np.random.default_rng(3).standard_normal((24, 1, 3, 24, 24)).astype(np.float32)
    (place.work / "calib").mkdir()
    (place.work / "loud").mkdir()
    for index, image in enumerate(images):
        np.save(place.work / "calib" / f"{index:02d}.npy", image)
        np.save(place.work / "loud" / f"{index:02d}.npy", 50 * image)
    place.build("net.pt", *INPUT, "--int8", "--calib", "calib", "--min-sqnr", "5", "-o", "net.edge")
    return place


def explained(place: Workplace, *arguments: object) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(place.edgebuild("explain", *arguments, "--json")[0])
    return data


def test_layers_add_up_to_the_noise_of_the_variant_that_ships(place: Workplace) -> None:
    data = explained(place, "net.edge")
    int8 = data["backends"][0]["int8"]
    contributions = sum(layer["noise"] for layer in int8["layers"])
    assert contributions == pytest.approx(int8["noise"]["total"], rel=0.1)
    if not int8["shipped"] or any(layer["reverted"] for layer in int8["layers"]):
        return  # this machine is slower on integers: what came nearest is explained
    path = place.work / "net.edge"
    names = [variant.name for variant in Bundle.open(path).manifest.variants]
    runners = [Runner(path, variant=name) for name in names if name in ("onnxruntime-int8", "onnxruntime-float32")]
    if len(runners) < 2:
        return  # no float variant behind it to compare with
    signal = noise = 0.0
    for file in sorted((place.work / "calib").glob("*.npy")):
        quantised, exact = (
            np.asarray(*runner.run({"input": np.load(file)}).values(), np.float64) for runner in runners
        )
        signal += float(np.sum(exact**2))
        noise += float(np.sum((exact - quantised) ** 2))
    assert contributions == pytest.approx(noise / signal, rel=0.5)  # other samples, the same order


def test_the_report_names_the_pass_that_folded_what_the_exporter_left(place: Workplace) -> None:
    data = explained(place, "net.edge", "--no-layers", "--measure")
    (backend,) = data["backends"]
    report = json.loads((place.work / "net.report.json").read_text(encoding="utf-8"))
    assert backend["nodes"] == report["graphs"]["onnxruntime"]["nodes"]
    fired = {entry["name"]: entry["rewrites"] for entry in backend["passes"]}
    assert fired == report["passes"]
    assert all((entry["gain"] is None) == bool(entry["note"]) for entry in backend["passes"])


def test_data_in_use_that_are_louder_than_calibration_are_the_first_reason(place: Workplace) -> None:
    data = explained(place, "net.edge", "--data", "loud")
    first = data["backends"][0]["int8"]["findings"][0]
    assert first["cause"] == "calibration data"
    assert "50" in first["detail"]


def test_a_replayed_build_asks_for_data_and_takes_them(place: Workplace) -> None:
    place.build("net.pt", *INPUT, "--int8", "--decisions", "net.decisions.json", "-o", "again.edge")
    _, err = place.edgebuild("explain", "again.edge", code=2)
    assert "--calib" in err
    int8 = explained(place, "again.edge", "--calib", "calib")["backends"][0]["int8"]
    assert int8["layers"]


def test_a_float_build_is_explained_without_int8(place: Workplace) -> None:
    place.build("net.pt", *INPUT, "--thin", "-o", "float.edge")
    out, _ = place.edgebuild("explain", "float.edge")
    assert "--int8 --calib" in out
    page = place.work / "page.html"
    place.edgebuild("explain", "float.edge", "--html", page)
    assert Path(page).read_text(encoding="utf-8").rstrip().endswith("</html>")
