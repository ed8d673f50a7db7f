"""Making candidates: from a float graph, observations and a placement to a quantised graph in a file."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgebuild.export.write import EXTERNAL_FROM_BYTES, INLINE_BELOW, weight_bytes
from edgebuild.graph.io import load_model, save_model
from edgebuild.graph.passes.dead_code import DeadCodeElimination
from edgebuild.graph.passes.sub_pixel import SubPixelConvolutions
from edgebuild.quantize.equalize import equalize
from edgebuild.quantize.insert import Forms, insert, static_region
from edgebuild.quantize.observe import Observations
from edgebuild.quantize.placements import Placement
from edgebuild.quantize.plan import Plan, Smoothing, Vectors
from edgebuild.quantize.ranges import RangeMethod, choose_range
from edgebuild.quantize.smooth import smooth
from edgebuild.quantize.tensorrt_rules import place_for_tensorrt
from edgebuild.targets.spec import QuantizationScheme


def values_to_observe(model: ir.Model, placements: Sequence[Placement], forms: Forms) -> tuple[str, ...]:
    """Names of the values whose ranges one of the placements needs, in the order of execution."""
    names: dict[str, None] = {}
    for placement in placements:
        region = static_region(model, Plan(modes=placement.modes, operators=placement.operators), forms)
        names |= dict.fromkeys(region.leader(value).name or "" for value in region.carried)
    return tuple(names)


class RangeChooser:
    """Ranges of observed values by any method, each computed once.

    Args:
        observations: Of the values.
        scheme: Whose integer type and symmetry the ranges are for.
        only: Values that are asked for; None: all that were observed.
    """

    def __init__(
        self, observations: Observations, scheme: QuantizationScheme, *, only: frozenset[str] | None = None
    ) -> None:
        self._observations = observations
        self._names = [name for name in observations.tensors if only is None or name in only]
        self._levels = 2**16 if scheme.activation.endswith("16") else 2**8
        self._symmetric = scheme.symmetric_activations
        self._found: dict[tuple[str, RangeMethod], tuple[float, float]] = {}

    def ranges(self, methods: Mapping[str, RangeMethod] | RangeMethod) -> dict[str, tuple[float, float]]:
        """(low, high) of every observed value, by one method or by one for each."""
        return {name: self._range(name, methods if isinstance(methods, str) else methods[name]) for name in self._names}

    def _range(self, name: str, method: RangeMethod) -> tuple[float, float]:
        if (name, method) not in self._found:
            self._found[name, method] = choose_range(
                self._observations.tensors[name], method, levels=self._levels, symmetric=self._symmetric
            )
        return self._found[name, method]


def without(plan: Plan, layers: frozenset[str]) -> Plan:
    """The plan with some layers left float."""
    return replace(
        plan,
        modes={name: mode for name, mode in plan.modes.items() if name not in layers},
        means={name: values for name, values in plan.means.items() if name not in layers},
        roundings={name: kept for name, kept in plan.roundings.items() if name not in layers},
    )


def prepare(model: ir.Model, layers: Collection[str] | None = None) -> int:
    """Rewrites a float graph in place into the forms that have integer kernels; layers keep their names.

    Args:
        model: The optimised float graph.
        layers: Names of those that will be quantised; None: all. The others stay in the form that is best in float.

    Returns:
        How many layers were rewritten.
    """
    return int(sum(record.rewrites for record in SubPixelConvolutions(layers)(model).records))


def write_candidate(graph: Path, plan: Plan, scheme: QuantizationScheme, forms: Forms, path: Path) -> Path:
    """Writes the graph quantised by a plan; weights of 256 MiB or more beside it."""
    model = load_model(graph)
    # Factors are found on the graph in which all that can be is prepared; only there they fit.
    _rewrite(model, None if plan.equalization else plan.modes, plan.smoothing, plan.equalization, plan.modes)
    insert(model, plan, scheme, forms)
    if scheme.placement == "tensorrt":
        place_for_tensorrt(model)
    _save(model, path)
    return path


def write_rewritten(
    graph: Path,
    path: Path,
    *,
    smoothing: Smoothing | None = None,
    equalization: Vectors | None = None,
    layers: Collection[str] | None = None,
) -> Path:
    """Writes the float graph with what a plan does to it first, whose ranges are to be observed.

    Args:
        graph: The optimised float graph.
        path: Where to write.
        smoothing: As in the plan.
        equalization: As in the plan.
        layers: Names of those that it quantises; None: all that can be.
    """
    model = load_model(graph)
    _rewrite(model, None, smoothing, equalization or {}, layers)
    _save(model, path)
    return path


def _rewrite(
    model: ir.Model,
    prepared: Collection[str] | None,
    smoothing: Smoothing | None,
    equalization: Vectors,
    layers: Collection[str] | None,
) -> None:
    prepare(model, prepared)
    apply_equalization(model, equalization)
    apply_smoothing(model, smoothing, layers)


def apply_equalization(model: ir.Model, factors: Vectors) -> None:
    """Equalises in place as a plan says."""
    if factors:
        equalize(model, {name: np.asarray(values) for name, values in factors.items()})


def apply_smoothing(model: ir.Model, smoothing: Smoothing | None, layers: Collection[str] | None = None) -> None:
    """Smooths in place as a plan says, for the layers that it quantises; None: all."""
    if smoothing is not None:
        absmax = {name: np.asarray(values) for name, values in smoothing.absmax.items()}
        smooth(model, absmax, alpha=smoothing.alpha, alphas=smoothing.alphas, splits=smoothing.splits, layers=layers)


def _save(model: ir.Model, path: Path) -> None:
    DeadCodeElimination()(model)
    threshold = INLINE_BELOW if weight_bytes(model) >= EXTERNAL_FROM_BYTES else EXTERNAL_FROM_BYTES
    save_model(model, path, external_threshold=threshold)
