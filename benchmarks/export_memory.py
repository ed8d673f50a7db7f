"""Peak memory of exporting a traced model with 768 MiB of weights, over what is there after the imports."""

import os
import subprocess
import sys
import tempfile

import models
from workbench import EDGEBUILD, WORK, children_peak_mib, process_cost, show, traced

MEBIBYTES = 768


def main() -> None:
    """For weights of 512 MiB or more: peak minus the memory after imports under 3 times the weights."""
    path = traced(f"wide_mlp_{MEBIBYTES}", models.wide_mlp(MEBIBYTES), 1, 4096)
    imports = "import torch, onnx, onnx_ir, onnxscript, onnxruntime, torch.onnx"
    base = process_cost([sys.executable, "-W", "ignore", "-c", imports]).peak_mib
    with tempfile.TemporaryDirectory(dir=WORK) as cache:
        environment = {**os.environ, "XDG_CACHE_HOME": cache}
        command = [str(EDGEBUILD), "--target", "x86-64", str(path), "-o", f"{cache}/wide.edge"]
        subprocess.run([*command, "--input", "float32[1,4096]"], check=True, env=environment, stdout=subprocess.DEVNULL)
    peak = children_peak_mib()
    show(
        f"Peak memory of building a model with {MEBIBYTES} MiB of weights (largest process)",
        ("peak MiB", "after imports", "over the weights", "allowed"),
        [(f"{peak:.0f}", f"{base:.0f}", f"{(peak - base) / MEBIBYTES:.2f}x", "3x")],
    )


if __name__ == "__main__":
    main()
