"""Saves an ONNX model in ONNX Runtime's own format: ``python -P ort_format.py MODEL.onnx MODEL.ort``, a program of its own.

The engine writes the nodes' arguments in the order of a hash table of pointers, so its file differs from run to run with the addresses
that the system hands out. Here every run gets the same ones: a fresh process, the same short environment, paths relative to the
working folder, and no randomised address space. Where the system refuses that, the model is the same and its bytes may not be.
"""

import ctypes
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

_ADDR_NO_RANDOMIZE = 0x0040000  # linux/personality.h
_KEPT = ("LD_LIBRARY_PATH",)
"""Nothing else of this process's environment: the interpreter copies it, and so every value moves what is allocated later."""


def save_ort_format(graph: Path, path: Path) -> str | None:
    """Writes ``path`` from ``graph``; both in one folder.

    Returns:
        None, or what the engine said against the model.
    """
    from edgebuild.backends.operators import operator_library  # not for the program, which sees none of edgebuild

    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment |= {"ORT_DISABLE_TELEMETRY": "1", "PYTHONHASHSEED": "0", "PYTHONPATH": _packages()}
    done = subprocess.run(
        [sys.executable, "-P", "-s", str(Path(__file__).resolve()), graph.name, path.name, str(operator_library())],
        cwd=graph.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=_fix_addresses,
    )
    if done.returncode == 0 and path.exists():
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"it ended with status {done.returncode}"


def _packages() -> str:
    """Folders that hold the engine and what it needs, wherever they were installed; nothing else of this process's path."""
    specs = (
        importlib.util.find_spec(name)
        for name in ("onnxruntime", "numpy", "google.protobuf", "flatbuffers", "packaging")
    )
    folders = (
        Path(spec.origin).parents[spec.name.count(".") + 1] for spec in specs if spec is not None and spec.origin
    )
    return os.pathsep.join(dict.fromkeys(map(str, folders)))


def _fix_addresses() -> None:
    ctypes.CDLL(None).personality(_ADDR_NO_RANDOMIZE)


def _main(graph: str, path: str, operators: str) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # One thread: more would ask for memory in an order of their own.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = path
    options.log_severity_level = 3
    options.add_session_config_entry("session.save_model_format", "ORT")
    # As the runner does (cpp/backends/onnxruntime/session.cpp).
    options.add_session_config_entry("optimization.disable_specified_optimizers", "SkipLayerNormFusion")
    options.register_custom_ops_library(operators)
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    _main(*sys.argv[1:])
