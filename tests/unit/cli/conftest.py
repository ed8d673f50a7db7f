import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgebuild.bundle.manifest import Target, Tolerance, Variant
from edgebuild.bundle.writer import BundleFile, write_bundle
from edgebuild.cli.main import main
from edgebuild.machine import machine_arch
from edgebuild.model.signature import Signature, SymbolRange, TensorType, ValueSpec
from edgebuild.report import BuildReport, OutputCheck, VariantReport


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as JSON; fails if it is anything but one object."""
        return json.loads(self.out)


Invoke = Callable[..., Result]


@pytest.fixture
def invoke(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs the command line in this process, in an empty folder with a cache of its own."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*arguments: str) -> Result:
        capfd.readouterr()
        code = main(arguments)
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return run


def run_process(
    *arguments: str, cwd: Path, env: dict[str, str] | None = None, prefix: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process of its own."""
    python = Path(__file__).parents[3] / "python"
    path = os.pathsep.join([str(python), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return subprocess.run(
        [*prefix, sys.executable, "-m", "edgebuild.cli.main", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


SIGNATURE = Signature(
    inputs=(ValueSpec(name="x", type=TensorType(dtype="float32", shape=("batch", 3)), layout=None),),
    outputs=(ValueSpec(name="y", type=TensorType(dtype="int64", shape=("batch",))),),
    symbols={"batch": SymbolRange(minimum=1, best=8, maximum=None)},
    output_structure={"tensor": 0},
)

# Tells what it was given, so that a test can see it; the last word of its own is the exit code.
RUNNER = """#!/bin/sh
printf '%s\\n' "$@"
echo "to stderr" >&2
exit {code}
"""


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small bundle whose runner is a shell script."""

    def make(*, arch: str = "", code: int = 0, runner: bool = True, directory: bool = False) -> Path:
        arch = arch or machine_arch()
        path = tmp_path / ("m.board" if directory else "m.board.edge")
        variant = Variant(
            name="reference-float32",
            backend="reference",
            precision="float32",
            model="model/m.bin",
            inputs=("x",),
            outputs=("y",),
            tolerances={"y": Tolerance(atol=0.0, rtol=0.0)},
        )
        files = [BundleFile(path="model/m.bin", source=b"12345")]
        if runner:
            files.append(BundleFile(path="bin/edgerun", source=RUNNER.format(code=code).encode(), executable=True))
        write_bundle(
            path,
            name="m",
            target=Target(name="board", arch=arch, triple=f"{arch}-linux-gnu"),
            signature=SIGNATURE,
            variants=[variant],
            files=files,
            producer={"edgebuild": "0.1.0"},
            directory=directory,
        )
        return path

    return make


def check(**changes: Any) -> OutputCheck:
    values = {"output": "y", "max_abs_error": 2.1e-7, "index": (0, 3), "atol": 1e-5, "rtol": 1e-4, "passed": True}
    return OutputCheck(**{**values, **changes})


def variant_report(**changes: Any) -> VariantReport:
    values: dict[str, Any] = {
        "name": "onnxruntime-float32",
        "backend": "onnxruntime",
        "precision": "float32",
        "latency_ms": 0.0814,
        "speed_up": 5.1,
        "proof": "native",
        "checks": (check(),),
        "size_bytes": 87_654,
    }
    return VariantReport(**{**values, **changes})


def build_report(**changes: Any) -> BuildReport:
    values: dict[str, Any] = {
        "bundle": Path("/somewhere/digits.x86-64.edge"),
        "bundle_id": "0123456789abcdef" * 4,
        "target": "x86-64",
        "model": "model.pt",
        "kind": "TorchScript, traced",
        "exporter": "torch.export",
        "opset": 20,
        "signature": SIGNATURE,
        "sizes": {"archive": 31_000_000, "model": 87_654, "runner": 412_000, "libraries": 29_400_000, "goldens": 3_000},
        "parity": (check(),),
        "passes": {"fold-constants": 4, "conv-batch-norm": 3, "identity": 0},
        "nodes": (23, 9),
        "variants": (variant_report(),),
        "assumptions": (
            "input x is float32[1,3]: the first layer takes 3 features; --input 'x:float32[1,3]' overrides",
        ),
        "notes": ("for INT8 give calibration data: --int8 --calib DIR",),
        "seconds": {"export": 8.1, "optimise": 0.2, "runner": 5.3},
        "cached": ("runner",),
        "original_latency_ms": 0.415,
        "next_steps": ("edgebuild run digits.x86-64.edge --inputs in.npz --outputs out.npz",),
    }
    return BuildReport(**{**values, **changes})
