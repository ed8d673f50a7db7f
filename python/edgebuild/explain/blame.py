"""Divides what each layer adds to the noise among its weights and the values around it."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgebuild.explain.attribution import Attribution
from edgebuild.explain.causes import Cause, Part, value_cause, weight_cause
from edgebuild.explain.result import LayerExplanation, ValueExplanation
from edgebuild.explain.values import QuantizedValue, input_power, value_noise, weight_noise
from edgebuild.quantize.layers import Layer
from edgebuild.quantize.parameters import quantization_parameters
from edgebuild.quantize.plan import Plan
from edgebuild.quantize.statistics import Observations, TensorStatistics
from edgebuild.targets.spec import QuantizationScheme

_Key = tuple[str, str]
"""("value" or "weights", name)."""


def blame(
    attribution: Attribution,
    layers: Mapping[str, Layer],
    values: Sequence[QuantizedValue],
    plan: Plan,
    scheme: QuantizationScheme,
    held: Observations,
    calibration: Observations | None,
) -> list[Part]:
    """Parts of the noise: each layer's contribution divided in proportion to what its weights and values are expected to add.

    Args:
        attribution: What each layer adds.
        layers: Those that are quantised, by name, of the graph that the plan quantises.
        values: That carry integers.
        plan: What is quantised.
        scheme: How.
        held: Statistics of all values on held-out data.
        calibration: On calibration data; None: there is none.
    """
    noise_of = {entry.layer: entry.mean for entry in attribution.contributions}
    noise: dict[_Key, float] = {}
    local: dict[_Key, float] = {}
    reasons: dict[_Key, tuple[Cause, str]] = {}
    for name, layer in layers.items():
        mine: dict[_Key, float] = {}
        for value in values:
            if name not in value.readers and name not in value.makers:
                continue
            stats = held.tensors[value.name]
            found = value_noise(stats, value.extent, scheme, _power(value, name, layers, stats))
            key = ("value", value.name)
            mine[key] = found.total
            if found.total >= local.get(key, 0.0):
                seen = None if calibration is None else calibration.tensors[value.name]
                reasons[key] = value_cause(value, found, stats, seen)
        read = held.tensors.get(layer.data.name or "")
        extent = next((value.extent for value in values if value.name == layer.data.name), None)
        weights = weight_noise(layer, plan.modes[name], scheme, read, None if extent is None else _step(extent, scheme))
        mine["weights", name] = weights.noise
        reasons["weights", name] = weight_cause(weights)
        whole = sum(mine.values())
        for key, own in mine.items():
            share = own / whole if whole > 0 else 1 / len(mine)
            noise[key] = noise.get(key, 0.0) + share * noise_of[name]
            local[key] = max(local.get(key, 0.0), own)
    by_name = {value.name: value for value in values}
    return [
        Part(
            kind="value" if key[0] == "value" else "weights",
            name=key[1],
            layers=_ordered(key, by_name, noise_of),
            noise=noise[key],
            local=local[key],
            cause=reasons[key][0],
            detail=reasons[key][1],
        )
        for key in noise
    ]


def layer_rows(
    attribution: Attribution, parts: Sequence[Part], layers: Mapping[str, Layer], plan: Plan, reverted: Sequence[str]
) -> tuple[LayerExplanation, ...]:
    """Every layer with what it adds, and the cause of its largest part."""
    rows = []
    for entry in attribution.contributions:
        mine = [part for part in parts if entry.layer in part.layers]
        top = max(mine, key=lambda part: part.noise, default=None)
        rows.append(
            LayerExplanation(
                name=entry.layer,
                operator=layers[entry.layer].nodes[0].op_type,
                mode="float" if entry.layer in reverted else plan.modes[entry.layer],
                noise=entry.mean,
                spread=abs(entry.forward - entry.backward) / 2,
                share=entry.mean / attribution.total if attribution.total > 0 else 0.0,
                cause="rounding" if top is None else top.cause,
                detail="" if top is None else top.detail,
                reverted=entry.layer in reverted,
            )
        )
    return tuple(rows)


def value_rows(
    values: Sequence[QuantizedValue],
    parts: Sequence[Part],
    total: float,
    held: Observations,
    calibration: Observations | None,
) -> tuple[ValueExplanation, ...]:
    """Every value that carries integers, with its distributions."""
    by_name = {part.name: part for part in parts if part.kind == "value"}
    return tuple(
        ValueExplanation(
            name=value.name,
            extent=value.extent,
            layers=by_name[value.name].layers,
            share=by_name[value.name].noise / total if total > 0 else 0.0,
            cause=by_name[value.name].cause,
            detail=by_name[value.name].detail,
            held_out=held.tensors[value.name],
            calibration=None if calibration is None else calibration.tensors[value.name],
        )
        for value in values
        if value.name in by_name
    )


def _power(
    value: QuantizedValue, layer: str, layers: Mapping[str, Layer], statistics: TensorStatistics
) -> npt.NDArray[np.float64] | None:
    """How much each channel counts for a layer that reads a value; for one that makes it, for its first direct reader."""
    if statistics.channels is None:
        return None
    count = len(statistics.channels.absmax)
    direct = [name for name in (layer, *value.readers) if layers[name].data.name == value.name]
    return input_power(layers[direct[0]], count) if direct else None


def _step(extent: tuple[float, float], scheme: QuantizationScheme) -> float:
    found = quantization_parameters(*extent, scheme.activation, symmetric=scheme.symmetric_activations)
    return float(found.scale)


def _ordered(key: _Key, values: Mapping[str, QuantizedValue], noise: Mapping[str, float]) -> tuple[str, ...]:
    if key[0] == "weights":
        return (key[1],)
    layers = dict.fromkeys((*values[key[1]].makers, *values[key[1]].readers))
    return tuple(sorted(layers, key=lambda name: -noise[name]))
