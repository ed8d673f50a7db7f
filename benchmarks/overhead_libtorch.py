"""Runner against bare LibTorch: time of one inference, alternating in one process. ``--smoke``: the smallest model, few blocks."""

import json
import subprocess
import sys
from collections.abc import Sequence

from nets import find
from nets.small import digits_sized_cnn, tiny_mlp
from nets.stored import torchscript
from workbench import bundle, model_file, native_program, show, traced

CASES = (
    ("tiny_mlp", lambda: traced("tiny_mlp", tiny_mlp, 1, 8), (1, 8), 41, 4000),
    ("digits_cnn", lambda: traced("digits_cnn", digits_sized_cnn, 1, 1, 8, 8), (1, 1, 8, 8), 41, 2000),
    ("mobilenet_v2", lambda: torchscript(find("mobilenet_v2")), (1, 3, 224, 224), 15, 20),
)


def main(arguments: Sequence[str] = ()) -> None:
    """At most 2 microseconds or 1 %, whichever is larger."""
    rows = []
    for name, make, shape, blocks, runs in CASES[:1] if "--smoke" in arguments else CASES:
        folder = bundle(
            make(),
            "--input",
            f"float32[{','.join(map(str, shape))}]",
            "--backend",
            "libtorch",
            "--thin",
            "--no-measure",
        )
        command = [str(native_program("overhead_libtorch")), str(model_file(folder)), str(folder)]
        done = subprocess.run([*command, str(blocks), str(runs)], check=True, capture_output=True, text=True)
        r = json.loads(done.stdout)
        rows.append(
            (
                name,
                f"{r['bare_us']:.2f}",
                f"{r['runner_us']:.2f}",
                f"{r['overhead_us']:+.2f} ({r['overhead_us_p10']:+.2f} to {r['overhead_us_p90']:+.2f})",
                f"{max(2.0, 0.01 * r['bare_us']):.1f}",
            )
        )
    show(
        "LibTorch: overhead of one inference, microseconds (median; 10th to 90th percentile of blocks)",
        ("model", "bare", "Runner", "overhead", "allowed"),
        rows,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
