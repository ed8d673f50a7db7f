"""Peak memory of building a traced model with 768 MiB of weights: the largest process, export worker or edgebuild itself."""

import os
import sys
import tempfile
from pathlib import Path

from nets.small import wide_mlp
from workbench import EDGEBUILD, WORK, process_cost, show, traced

MEBIBYTES = 768


def main() -> None:
    """For weights of 512 MiB or more: peak minus the memory after imports under 3 times the weights."""
    path = traced(f"wide_mlp_{MEBIBYTES}", lambda: wide_mlp(MEBIBYTES), 1, 4096)
    imports = "import torch, onnx, onnx_ir, onnxscript, onnxruntime, torch.onnx"
    base = process_cost([sys.executable, "-W", "ignore", "-c", imports]).peak_mib
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        # A name of its own: the cache must not answer, and the runner need not be compiled anew.
        fresh = Path(folder) / f"{path.stem}_{os.getpid()}.pt"
        fresh.hardlink_to(path)
        command = [str(EDGEBUILD), "--target", "x86-64", str(fresh), "-o", f"{folder}/wide.edge", "--no-measure"]
        peak = process_cost([*command, "--input", "float32[1,4096]"]).peak_mib
    show(
        f"Peak memory of building a model with {MEBIBYTES} MiB of weights (largest process)",
        ("peak MiB", "after imports", "over the weights", "allowed"),
        [(f"{peak:.0f}", f"{base:.0f}", f"{(peak - base) / MEBIBYTES:.2f}x", "3x")],
    )


if __name__ == "__main__":
    main()
