"""What an engine's own choice of kernels changes in a quantised model's outputs.

Between Q and DQ a value lies on a grid. Which of two neighbouring points a sum lands on depends on the order and the width of
additions, so fused integer kernels and the graph as written differ by whole steps, and a step in an early layer moves everything
after it. The tolerance that is derived for float arithmetic says nothing about that; the engine's own spread does.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgebuild.backends.operators import register_operators
from edgebuild.errors import GateError
from edgebuild.export.result import ExportedModel

_SAFETY = 4.0
"""The samples show some of the spread, not all of it."""

_CAP = 0.1
"""Of an output's largest magnitude: a spread beyond it is no rounding."""


def widened_tolerances(exported: ExportedModel, graph: Path) -> Mapping[str, tuple[float, float]]:
    """Tolerances of a quantised graph: the derived ones, or four times the engine's own spread where that is more.

    The spread of an output is the largest difference, over all samples, between the graph run as written and with every
    optimisation of the engine.

    Raises:
        GateError: The spread is over a tenth of the output's largest magnitude.
    """
    import onnxruntime

    sessions = []
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        register_operators(options)
        sessions.append(onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"]))
    tolerances = dict(exported.tolerances)
    for index in range(exported.sample_count):
        with np.load(exported.directory / "samples" / f"{index}.npz", allow_pickle=False) as arrays:
            feed = {name: arrays[f"in.{i}"] for i, name in enumerate(exported.engine_inputs) if name is not None}
        plain, fused = (session.run(list(exported.engine_outputs), feed) for session in sessions)
        for spec, a, b in zip(exported.signature.outputs, plain, fused, strict=True):
            if not np.issubdtype(a.dtype, np.floating) or a.size == 0:
                continue
            spread = float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64))))
            magnitude = float(np.max(np.abs(a)))
            if spread > _CAP * magnitude:
                msg = (
                    f"output '{spec.name}' of the quantised model depends on the engine's kernels: it differs by "
                    f"{spread:.3g} of {magnitude:.3g} between the graph as written and optimised, allowed {_CAP:.0%}"
                )
                raise GateError(msg, hint="quantise with more calibration data, or build the float model")
            atol, rtol = tolerances[spec.name]
            tolerances[spec.name] = (max(atol, _SAFETY * spread), rtol)
    return tolerances
