"""`edgebuild explain` as a command: what it prints at any width, and what it says of anything that it can't explain."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command_line import Invoke

sys.path.insert(0, str(Path(__file__).parents[1] / "explain"))

from explain_tools import evidence_for, three_convolutions

from edgebuild.bundle.reader import Bundle
from edgebuild.cache import Cache

PASSES = [{"pass": "gelu", "runs": 2, "rewrites": 3, "nodes_removed": 12}]


def report_of(bundle: Path, *, int8: bool) -> dict[str, Any]:
    score = {"outputs": [{"output": "y", "sqnr_db": 39.0}], "value": None, "float_value": None}
    speed = {"base_ms": 2.0, "other_ms": 1.0, "ratio": 2.0, "low": 1.9, "high": 2.1, "rounds": 9}
    trial = {"name": "static, minmax", "fits": True, "violations": [], "score": score, "speed": speed, "reverted": []}
    return {
        "schema": "edgebuild.build/1",
        "bundle_id": Bundle.open(bundle).id,
        "model": "m",
        "target": "board",
        "original_latency_ms": 4.0,
        "variants": [
            {"name": "reference-int8", "precision": "int8", "latency_ms": 1.0, "speed_up": 4.0, "size_bytes": 1000}
        ],
        "graphs": {
            "reference": {"nodes": [20, 8], "passes": PASSES, "opset_max": 20, "fused_operators": []},
        },
        "quantization": {"reference": {"reason": "", "search": {"trials": [trial]}}} if int8 else {},
        "kept": {"export": "e", "graphs": {"reference": "g"}, "quantized": {"reference": "q"} if int8 else {}},
    }


@pytest.fixture
def explained(make_bundle: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A bundle with a report beside it, and a cache that holds what its build would have left."""

    def make(*, int8: bool = True, data: bool = True, directory: bool = False) -> Path:
        path = make_bundle(directory=directory)
        beside = path.with_name(f"{path.name.removesuffix('.edge')}.report.json")
        beside.write_text(json.dumps(report_of(path, int8=int8)), encoding="utf-8")
        cache = Cache(tmp_path / "cache" / "edgebuild")
        graph = cache.get_or_make("graph", "g", lambda folder: three_convolutions(folder / "graph.onnx") and None)
        given: dict[str, Any] = {} if data else {"calibration": (), "held_out": ()}
        evidence = evidence_for(graph / "graph.onnx", **given)
        if int8:
            cache.get_or_make("quantize", "q", evidence.write)
        return path

    return make


def test_the_table_shows_passes_candidates_reasons_and_layers(explained: Callable[..., Path], invoke: Invoke) -> None:
    result = invoke("explain", str(explained()))
    assert result.code == 0
    assert re.search(r"gelu +3 +-12", result.out)
    assert "20 nodes before, 8 after" in result.out
    assert re.search(r"2\.00x +39\.0 dB +static, minmax: fits", result.out)
    assert "contributions add up to 100.0% of the noise" in result.out
    assert re.search(r"1\. \w+", result.out)
    assert all(re.search(rf"conv{i} +Conv +static +-?[\d.]+%", result.out) for i in (1, 2, 3))


def test_json_is_one_object_whose_layers_add_up(explained: Callable[..., Path], invoke: Invoke) -> None:
    data = invoke("explain", str(explained()), "--json").json
    assert (data["schema"], data["exit_code"]) == ("edgebuild.explain/1", 0)
    (backend,) = data["backends"]
    int8 = backend["int8"]
    assert backend["passes"][0]["rewrites"] == 3
    assert sum(layer["noise"] for layer in int8["layers"]) == pytest.approx(int8["noise"]["total"], rel=0.1)
    assert {layer["name"] for layer in int8["layers"]} == {"conv1", "conv2", "conv3"}
    assert int8["findings"][0]["advice"]


@pytest.mark.parametrize("columns", [80, 160])
def test_no_line_is_wider_than_the_terminal(explained: Callable[..., Path], tmp_path: Path, columns: int) -> None:
    path = explained()
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "edgebuild.cli.main", "explain", str(path)],
        stdout=slave,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env={
            **os.environ,
            "COLUMNS": str(columns),
            "TERM": "xterm",
            "NO_COLOR": "1",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "PYTHONPATH": str(Path(__file__).parents[3] / "python"),
        },
    ) as process:
        os.close(slave)
        text = b""
        while True:
            try:
                chunk = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            text += chunk
        assert process.wait() == 0
    os.close(master)
    lines = text.decode().splitlines()
    assert len(lines) > 15
    assert max(map(len, lines)) <= columns


def test_a_page_is_written_whole(explained: Callable[..., Path], invoke: Invoke, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = invoke("explain", str(explained()), "--html", str(page))
    assert result.code == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert text.rstrip().endswith("</html>")
    assert f"the same with plots: {page}" in result.out


def test_an_unpacked_bundle_is_explained_too(explained: Callable[..., Path], invoke: Invoke) -> None:
    assert invoke("explain", str(explained(directory=True)), "--no-layers").code == 0


def test_a_float_build_shows_its_passes_and_how_to_get_int8(explained: Callable[..., Path], invoke: Invoke) -> None:
    result = invoke("explain", str(explained(int8=False)))
    assert result.code == 0
    assert "gelu" in result.out
    assert "--int8 --calib" in result.out
    refused = invoke("explain", str(explained(int8=False)), "--data", "x.npz")
    assert refused.code == 2
    assert "no INT8 form" in refused.err


def test_where_the_build_kept_no_data_the_error_says_what_to_give(
    explained: Callable[..., Path], invoke: Invoke
) -> None:
    result = invoke("explain", str(explained(data=False)))
    assert result.code == 2
    assert "--data" in result.err


def test_random_data_are_no_data_in_use_and_random_calibration_is_said(
    explained: Callable[..., Path], invoke: Invoke
) -> None:
    path = explained()
    result = invoke("explain", str(path), "--data", "random")
    assert result.code == 2
    assert "random numbers say nothing" in result.err
    report = path.with_name("m.board.report.json")
    data = json.loads(report.read_text(encoding="utf-8"))
    data["quantization"]["reference"]["search"]["calibration"] = {"random": True}
    report.write_text(json.dumps(data), encoding="utf-8")
    assert "does not hold for real data" in invoke("explain", str(path), "--no-layers").out


def test_a_missing_report_says_where_it_should_be(explained: Callable[..., Path], invoke: Invoke) -> None:
    path = explained()
    report = path.with_name("m.board.report.json")
    moved = report.rename(report.with_name("elsewhere.json"))
    result = invoke("explain", str(path))
    assert result.code == 2
    assert str(report) in result.err
    assert "--report" in result.err
    assert invoke("explain", str(path), "--report", str(moved), "--no-layers").code == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(bundle_id="0" * 64), "is the report of bundle 000000000000"),
        (lambda data: data.update(schema="edgebuild.decisions/1"), "expected a report with schema 'edgebuild.build/1'"),
        (lambda data: data.pop("kept"), "older version"),
    ],
)
def test_a_report_that_is_not_this_bundles_is_refused(
    explained: Callable[..., Path], invoke: Invoke, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    path = explained()
    report = path.with_name("m.board.report.json")
    data = json.loads(report.read_text(encoding="utf-8"))
    change(data)
    report.write_text(json.dumps(data), encoding="utf-8")
    result = invoke("explain", str(path), "--json")
    assert result.code == 2
    assert message in result.err
    assert result.json["error"]["hint"]
    report.write_text("{", encoding="utf-8")
    assert "not JSON" in invoke("explain", str(path)).err


def test_an_empty_cache_is_said_with_what_to_do(explained: Callable[..., Path], invoke: Invoke, tmp_path: Path) -> None:
    path = explained()
    shutil.rmtree(tmp_path / "cache" / "edgebuild" / "quantize")
    result = invoke("explain", str(path))
    assert result.code == 2
    assert "no longer in the cache" in result.err
    assert "build it again" in result.err
    assert invoke("explain", str(path), "--no-layers").code == 0  # that needs the report alone


def test_a_model_is_told_from_a_bundle(invoke: Invoke, tmp_path: Path) -> None:
    graph = three_convolutions(tmp_path / "net.onnx")
    result = invoke("explain", str(graph))
    assert result.code == 2
    assert "expected a bundle (.edge, or its folder), got a model (" in result.err
    assert "build it first" in result.err


@pytest.mark.parametrize("target", [".", "nowhere/page.html"])
def test_a_page_that_can_not_be_written_is_said_before_anything_is_measured(
    explained: Callable[..., Path], invoke: Invoke, target: str
) -> None:
    result = invoke("explain", str(explained()), "--html", target)
    assert result.code == 2
    assert "--html" in result.err


def test_data_that_can_not_be_judged_on_are_said_by_their_own_flag(
    explained: Callable[..., Path], invoke: Invoke
) -> None:
    bundle = str(explained(int8=True))
    missing = invoke("explain", bundle, "--data", "nosuch")
    assert missing.code == 2
    assert "--data nosuch: no such file or folder" in missing.err
    unread = invoke("explain", bundle, "--data", "nosuch", "--no-layers")
    assert unread.code == 2
    assert "--data is given with --no-layers" in unread.err
