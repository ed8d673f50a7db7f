"""What the goldens of a quantised variant are held to."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgebuild.errors import GateError
from edgebuild.export.result import ExportedModel
from edgebuild.quantize.running import OpenGraph
from edgebuild.select.metrics import sqnr_db

_MARGIN = 1.5
"""Between CPUs sums are rounded differently, and a value on the edge between two steps takes the other one."""


@dataclass(frozen=True, kw_only=True)
class GoldenFit:
    """How a quantised graph meets the goldens on this machine.

    Args:
        tolerances: (atol, rtol) by output name; integer and bool outputs are compared exactly only where they are equal here.
        sqnr_db: Signal to noise of the worst output over all goldens; infinite: nothing differs.
    """

    tolerances: Mapping[str, tuple[float, float]]
    sqnr_db: float


def golden_fit(exported: ExportedModel, graph: Path, open_graph: OpenGraph) -> GoldenFit:
    """Tolerances that a quantised graph meets here with some margin: 1.5 times its own error on the samples.

    They prove that the bundle's files compute what was judged, not that it is accurate: that is what the budget is for.

    Args:
        exported: Whose samples and outputs are the goldens.
        graph: The quantised graph.
        open_graph: How it is run.
    """
    tolerances = dict(exported.tolerances)
    sums = {name: [0.0, 0.0] for name in tolerances}
    with open_graph(graph) as runner:
        for index in range(exported.sample_count):
            with np.load(exported.directory / "samples" / f"{index}.npz", allow_pickle=False) as arrays:
                feeds = {name: arrays[f"in.{i}"] for i, name in enumerate(exported.engine_inputs) if name is not None}
                expected = [arrays[f"out.{i}"] for i in range(len(exported.engine_outputs))]
            results = runner.run(feeds)
            for spec, name, wanted in zip(exported.signature.outputs, exported.engine_outputs, expected, strict=True):
                got = np.asarray(results[name])
                if wanted.dtype.kind not in "fiub" or wanted.size == 0:
                    continue
                if got.shape != wanted.shape:
                    msg = f"output '{spec.name}': the quantised model gives {got.shape}, the original {wanted.shape}"
                    raise GateError(msg, hint="sizes that hang on values can't be held to goldens: build it in float")
                difference = np.abs(got.astype(np.float64) - wanted.astype(np.float64))
                finite = np.isfinite(difference)
                worst = float(np.max(difference[finite], initial=0.0))
                if wanted.dtype.kind == "f":
                    sums[spec.name][0] += float(np.sum(np.square(wanted[finite].astype(np.float64))))
                    sums[spec.name][1] += float(np.sum(np.square(difference[finite])))
                atol, rtol = tolerances[spec.name]
                tolerances[spec.name] = (max(atol, _MARGIN * worst), rtol)
    return GoldenFit(tolerances=tolerances, sqnr_db=min((sqnr_db(*pair) for pair in sums.values()), default=math.inf))
