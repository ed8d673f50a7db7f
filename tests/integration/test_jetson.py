"""`edgebuild --target jetson model.pt` on a machine without TensorRT and GPU: its CPU variant is proved under emulation, and what is missing is said.

Its runner is that of all 64-bit ARM boards, which other tests compile too.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgebuild import Bundle
from edgebuild.machine import machine_arch

SHAPE = (1, 3, 16, 16)

pytestmark = [
    pytest.mark.skipif(
        machine_arch() != "x86_64", reason="the board is no foreign one here: this is no x86-64 machine"
    ),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.slow,
    pytest.mark.timeout(2400),  # alone, it compiles the board's runner
]


@pytest.fixture(scope="module")
def work(module_folder: Callable[[str], Path]) -> Path:
    folder = module_folder("jetson")
    torch.manual_seed(2)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 5)).eval()
    torch.jit.save(torch.jit.trace(module, torch.zeros(SHAPE)), folder / "model.pt")
    return folder


def build(work: Path, *arguments: str, code: int = 0, **environment: str) -> tuple[str, str]:
    return edgebuild(work, "--target", "jetson", "model.pt", *arguments, code=code, **environment)


def edgebuild(work: Path, *arguments: str, code: int = 0, **environment: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "edgebuild.cli.main", *arguments],
        cwd=work,
        env={**os.environ, "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == code, f"exit {done.returncode}, expected {code}\n{done.stdout}{done.stderr}"
    return done.stdout, done.stderr


def test_without_headers_the_cpu_variant_is_proved_and_the_one_command_is_named(work: Path, tmp_path: Path) -> None:
    report: dict[str, Any] = json.loads(build(work, "--json", TENSORRT_ROOT=str(tmp_path))[0])
    assert [v["name"] for v in report["variants"]] == ["onnxruntime-float32"]
    (variant,) = report["variants"]
    assert variant["proof"] == "emulator"
    assert all(check["passed"] for check in variant["checks"])
    assert any(
        "no TensorRT variant" in n and "edgebuild doctor --target" in n and "--fetch`" in n for n in report["notes"]
    )
    assert not any("prepare" in step for step in report["next_steps"])
    bundle = Bundle.open(work / "model.jetson-orin.edge")
    assert bundle.manifest.target.arch == "aarch64"
    assert not [name for name in bundle.manifest.files if "tensorrt" in name]


def test_with_headers_the_plugin_and_its_variants_are_in_the_bundle(work: Path) -> None:
    root = os.environ.get("EDGEBUILD_TEST_TENSORRT_ROOT", "")
    if not root:
        pytest.skip(
            "EDGEBUILD_TEST_TENSORRT_ROOT names no folder with TensorRT 10.0 to 10.3's headers (include/NvInfer.h)"
        )
    report: dict[str, Any] = json.loads(
        build(work, "--json", "--backend", "tensorrt", "--backend", "onnxruntime", TENSORRT_ROOT=root)[0]
    )
    names = [v["name"] for v in report["variants"]]
    assert names == ["tensorrt-float16", "tensorrt-float32", "onnxruntime-float32"]
    for variant in report["variants"][:2]:
        assert variant["proof"] is None
        assert "TensorRT 10 can't be opened" in variant["note"]
    assert report["variants"][2]["proof"] == "emulator"
    bundle = Bundle.open(work / "model.jetson-orin.edge")
    for entry in bundle.manifest.variants[:2]:
        assert entry.plugin == "lib/libedgebuild_tensorrt.so"
        assert entry.options["workspace_mib"] == "1024"
        assert entry.engine is None
        assert entry.speed == "unproved"
    assert any(step.startswith("on the board: model.jetson-orin/bin/edgerun prepare") for step in report["next_steps"])
    plans = json.loads(edgebuild(work, "explain", "model.jetson-orin.edge", "--json")[0])["predicted_plans"]
    assert [(plan["variant"], len(plan["kernels"])) for plan in plans] == [
        ("tensorrt-float16", 2),
        ("tensorrt-float32", 2),
    ]
