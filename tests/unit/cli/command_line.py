import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
