"""Prints the figures: ``run.py [NAME …]``; without a name, all of them."""

import importlib
import sys

NAMES = (
    "overhead",
    "overhead_libtorch",
    "cold_start",
    "python_overhead",
    "command_line",
    "export_memory",
    "quantization",
    "calibration",
    "foreign_boards",
    "both_engines",
    "aot_inductor",
    "int8_libtorch",
)


def main() -> None:
    """Runs the benchmarks that are named."""
    chosen = sys.argv[1:] or NAMES
    unknown = [name for name in chosen if name not in NAMES]
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    for name in chosen:
        importlib.import_module(name).main()


if __name__ == "__main__":
    main()
