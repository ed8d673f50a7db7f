"""Runner.run from Python against the same call in C++: what the binding adds, in microseconds."""

import json
import statistics
import subprocess
import time

import numpy as np

from nets.small import tiny_mlp
from workbench import bundle, engine_library, model_file, native_program, show, traced

BLOCKS = 15
RUNS = 2000


def main() -> None:
    """At most 10 microseconds over C++, for a contiguous array of the right dtype; nothing is copied."""
    import edgebuild

    path = traced("tiny_mlp", tiny_mlp, 1, 8)
    folder = bundle(path, "--input", "float32[1,8]")
    command = [
        str(native_program("overhead")),
        str(engine_library()),
        str(model_file(folder)),
        str(folder),
        "3",
        "4000",
    ]
    added = []
    with edgebuild.Runner(folder, options={"intra_op_threads": "1"}) as runner:
        feed = {runner.signature.inputs[0].name: np.ones((1, 8), np.float32)}
        for _ in range(BLOCKS):
            native = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["runner_us"]
            times = []
            for _ in range(RUNS):
                start = time.perf_counter_ns()
                runner.run(feed)
                times.append(time.perf_counter_ns() - start)
            added.append(statistics.median(times) / 1e3 - native)
    ordered = sorted(added)
    show(
        "Python over C++, one inference",
        ("median", "10th to 90th percentile", "allowed"),
        [(f"{statistics.median(added):.2f} us", f"{ordered[1]:.2f} to {ordered[-2]:.2f} us", "10 us")],
    )


if __name__ == "__main__":
    main()
