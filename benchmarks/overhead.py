"""Runner against bare ONNX Runtime: time and allocations of one inference, alternating in one process."""

import json
import subprocess

from nets import find
from nets.small import digits_sized_cnn, tiny_mlp
from nets.stored import torchscript
from workbench import bundle, engine_library, model_file, native_program, show, traced

CASES = (
    ("tiny_mlp", lambda: traced("tiny_mlp", tiny_mlp, 1, 8), (1, 8), 41, 4000),
    ("digits_cnn", lambda: traced("digits_cnn", digits_sized_cnn, 1, 1, 8, 8), (1, 1, 8, 8), 41, 2000),
    ("mobilenet_v2", lambda: torchscript(find("mobilenet_v2")), (1, 3, 224, 224), 15, 20),
)


def main() -> None:
    """At most 2 microseconds or 1%, whichever is larger; no allocation more than the engine's own."""
    rows = []
    for name, make, shape, blocks, runs in CASES:
        folder = bundle(make(), "--input", f"float32[{','.join(map(str, shape))}]")
        command = [str(native_program("overhead")), str(engine_library()), str(model_file(folder)), str(folder)]
        done = subprocess.run([*command, str(blocks), str(runs)], check=True, capture_output=True, text=True)
        r = json.loads(done.stdout)
        allowed = max(2.0, 0.01 * r["bare_us"])
        rows.append(
            (
                name,
                f"{r['bare_us']:.2f}",
                f"{r['runner_us']:.2f}",
                f"{r['overhead_us']:+.2f} ({r['overhead_us_p10']:+.2f} to {r['overhead_us_p90']:+.2f})",
                f"{allowed:.1f}",
                f"{r['runner_allocations'] - r['bare_allocations']:+.2f} over {r['bare_allocations']:.0f}",
            )
        )
    show(
        "Overhead of one inference, microseconds (median; 10th to 90th percentile of blocks)",
        ("model", "bare", "Runner", "overhead", "allowed", "allocations added"),
        rows,
    )


if __name__ == "__main__":
    main()
