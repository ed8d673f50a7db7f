"""edgebuild's own operators (cpp/backends/onnxruntime/operators) for the copy of ONNX Runtime that Python runs."""

import importlib.util
from pathlib import Path
from typing import Any

from edgebuild.errors import InternalError


def operator_library() -> Path:
    """The library that makes them known to a session: the compiled module.

    Raises:
        InternalError: It is not installed.
    """
    spec = importlib.util.find_spec("edgebuild._runtime")
    if spec is None or spec.origin is None:
        msg = "the compiled module edgebuild._runtime is missing"
        raise InternalError(msg)
    return Path(spec.origin)


def register_operators(options: Any) -> None:
    """Makes the operators known to sessions with these ``onnxruntime.SessionOptions``."""
    options.register_custom_ops_library(str(operator_library()))
