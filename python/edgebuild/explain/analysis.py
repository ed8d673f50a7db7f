"""Explains a quantised graph: measures what each layer adds, finds out why, and puts the reasons in order."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgebuild.cache import Cache, content_key
from edgebuild.errors import CalibrationError
from edgebuild.explain.attribution import Attribution, Contribution, attribute
from edgebuild.explain.causes import (
    RATIO,
    Cause,
    Clues,
    Finding,
    Part,
    Repair,
    channel_ratio,
    findings,
    value_cause,
    weight_cause,
)
from edgebuild.explain.growth import Profile, profile
from edgebuild.explain.saturation import may_saturate, saturation_noise
from edgebuild.explain.shift import find_shift
from edgebuild.explain.values import (
    QuantizedValue,
    channel_axis,
    has_channels,
    input_power,
    nearest_makers,
    quantized_values,
    value_noise,
    weight_noise,
)
from edgebuild.fingerprint import source_digest
from edgebuild.graph.io import load_model
from edgebuild.graph.stage import graph_sha256, stage_versions
from edgebuild.quantize.candidate import without, write_candidate, write_rewritten
from edgebuild.quantize.insert import forms_of
from edgebuild.quantize.instrument import read_graph, write_exposed
from edgebuild.quantize.layers import find_layers
from edgebuild.quantize.observe import observe
from edgebuild.quantize.parameters import quantization_parameters
from edgebuild.quantize.running import OpenGraph
from edgebuild.quantize.statistics import Observations, TensorStatistics
from edgebuild.select.budget import Score
from edgebuild.select.evidence import Evidence
from edgebuild.select.search import noise_share
from edgebuild.select.workbench import Workbench

Batch = Mapping[str, npt.NDArray[Any]]

_BATCH_TIME_S = 0.3
"""Of one judged graph: as many batches as fit, so that a large net takes few."""

_BATCHES = (4, 64)

_PROFILE_BATCHES = 16


@dataclass(frozen=True, kw_only=True)
class LayerExplanation:
    """One layer.

    Args:
        name: Of its first node.
        operator: E.g. "Conv".
        mode: How it is computed; "float" if it was reverted.
        noise: That it adds to the output, over signal; the mean of two orders.
        spread: Half the difference between both.
        share: Of all noise.
        cause: Of the largest part.
        detail: Of that.
        reverted: Whether it was taken back to float for the sake of accuracy.
    """

    name: str
    operator: str
    mode: str
    noise: float
    spread: float
    share: float
    cause: Cause
    detail: str
    reverted: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class ValueExplanation:
    """One value that is integers: its range and its distribution, for the plots."""

    name: str
    extent: tuple[float, float] | None
    layers: tuple[str, ...]
    share: float
    cause: Cause
    detail: str
    held_out: TensorStatistics
    calibration: TensorStatistics | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """What explains a quantised graph.

    Args:
        candidate: Its name.
        shipped: Whether it is in the bundle, but for what was reverted.
        total: Noise over signal of the worst output with all layers quantised, measured.
        sum: Of the layers' contributions.
        on_calibration: The total on calibration data; None: there is none.
        output: The output that is meant.
        batches: Held-out batches that were looked at.
        findings: Reasons, the most important first.
        layers: In the order of execution.
        values: The same.
        noise_by_value: Noise over signal of each value that both graphs compute.
    """

    candidate: str
    shipped: bool
    total: float
    sum: float
    on_calibration: float | None
    output: str
    batches: int
    findings: tuple[Finding, ...]
    layers: tuple[LayerExplanation, ...]
    values: tuple[ValueExplanation, ...]
    noise_by_value: Mapping[str, float] = field(default_factory=dict)


def analyse(
    graph: Path,
    evidence: Evidence,
    open_graph: OpenGraph,
    cache: Cache,
    *,
    arch: str = "x86_64",
    progress: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> Analysis:
    """Explains a quantised form of a float graph.

    Args:
        graph: The optimised float graph.
        evidence: The plan, its scheme and the data.
        open_graph: How a graph is run.
        cache: For what is needed meanwhile.
        arch: Of the target.
        progress: Hears what is being done, and how many of how many steps are done.

    Raises:
        CalibrationError: There is no held-out data.
    """
    if not evidence.held_out:
        msg = "there is no held-out data to measure the error of layers on"
        raise CalibrationError(msg, hint="give some with --data")
    folder = cache.staging_folder()
    try:
        return _Analyst(graph, evidence, open_graph, cache, arch, folder, progress).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Analyst:
    def __init__(
        self,
        graph: Path,
        evidence: Evidence,
        open_graph: OpenGraph,
        cache: Cache,
        arch: str,
        folder: Path,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self.graph, self.evidence, self.open, self.cache, self.arch = graph, evidence, open_graph, cache, arch
        self.folder, self.progress = folder, progress
        self.plan, self.scheme = evidence.plan, evidence.scheme
        self.forms = forms_of(evidence.fused_operators)
        # What the integers stand for: the float graph with everything that the plan does to it before it is quantised.
        self.exact = write_rewritten(
            graph, folder / "exact.onnx", smoothing=self.plan.smoothing, equalization=self.plan.equalization
        )
        self.model = load_model(self.exact)
        layers = {layer.name: layer for layer in find_layers(self.model.graph)}
        self.layers = {name: layer for name, layer in layers.items() if name in self.plan.modes}

    def run(self) -> Analysis:
        attribution, output, count = self.attributed()
        held = self.evidence.held_out[:count]
        self.progress("distributions", 0, 0)
        values = quantized_values(self.model, self.plan, self.forms)
        held_stats = self.observed(values, held)
        calibration = list(self.evidence.calibration)
        calibration_stats = self.observed(values, calibration) if calibration else None
        parts = self.parts(attribution, values, held_stats, calibration_stats)
        clues = self.clues(attribution, held_stats, calibration, output)
        found = findings(parts, clues)
        return Analysis(
            candidate=self.evidence.candidate,
            shipped=self.evidence.shipped,
            total=attribution.total,
            sum=attribution.sum,
            on_calibration=clues.on_calibration,
            output=output,
            batches=len(held),
            findings=found,
            layers=self.layer_rows(attribution, parts),
            values=_value_rows(values, parts, attribution.total, held_stats, calibration_stats),
            noise_by_value=self.by_value.noise,
        )

    def attributed(self) -> tuple[Attribution, str, int]:
        """Contributions of the layers to the noise of the worst output, and how many batches were looked at; kept by content."""
        names = list(self.layers)
        digest = hashlib.sha256()
        for batch in self.evidence.held_out:
            for name, array in sorted(batch.items()):
                digest.update(f"{name} {array.dtype} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
        key = content_key(
            ["attribution", graph_sha256(self.graph), self.plan.to_json(), {**vars(self.scheme)}],
            [list(self.evidence.fused_operators), dict(self.evidence.inputs), dict(self.evidence.outputs)],
            digest.hexdigest(),
            stage_versions(),
            source_digest("quantize", "select", "devices", "explain"),
        )

        def make(folder: Path) -> None:
            count = self.batches()
            with self.bench(self.evidence.held_out[:count]) as bench:
                outputs = bench.score(self.write(frozenset(names)), evaluate=False).outputs
                output = max(outputs, key=lambda o: -o.sqnr_db).output
                found = attribute(
                    lambda layers: noise_share_of(bench.score(self.write(layers), evaluate=False), output),
                    names,
                    progress=lambda done, total: self.progress("error of layers", done, total),
                )
            data = {**asdict(found), "output": output, "batches": min(count, len(self.evidence.held_out))}
            (folder / "attribution.json").write_text(json.dumps(data), encoding="utf-8")

        folder = self.cache.get_or_make("explain", key, make)
        data = json.loads((folder / "attribution.json").read_text(encoding="utf-8"))
        contributions = tuple(Contribution(**entry) for entry in data["contributions"])
        attribution = Attribution(contributions=contributions, total=data["total"], floor=data["floor"])
        return attribution, data["output"], data["batches"]

    def write(self, layers: frozenset[str]) -> Path:
        plan = without(self.plan, frozenset(self.plan.modes) - layers)
        return write_candidate(self.graph, plan, self.scheme, self.forms, self.folder / "candidate.onnx")

    def bench(self, batches: Sequence[Batch]) -> Workbench:
        return Workbench(
            self.graph,
            lambda: iter(batches),
            inputs=self.evidence.inputs,
            outputs=self.evidence.outputs,
            open_graph=self.open,
        )

    def batches(self) -> int:
        """How many batches each graph is judged by."""
        batch = self.evidence.held_out[0]
        with self.open(self.graph) as runner:
            runner.run(batch)
            start = time.monotonic()
            runner.run(batch)
            took = time.monotonic() - start
        return int(min(max(_BATCH_TIME_S / max(took, 1e-6), _BATCHES[0]), _BATCHES[1]))

    def observed(self, values: Sequence[QuantizedValue], batches: Sequence[Batch]) -> Observations:
        """Statistics of all values that layers read or that carry integers, with their channels."""
        wanted: dict[str, int] = {value.name: value.axis for value in values}
        for layer in self.layers.values():
            wanted.setdefault(layer.data.name or "", channel_axis(layer.data, self.layers))
        by_name = _values(self.model.graph)
        channels = {name: axis for name, axis in wanted.items() if has_channels(by_name[name])}
        return observe(
            self.exact, list(wanted), iter(batches), self.open, channels=channels, infinite="count", cache=self.cache
        )

    def parts(
        self,
        attribution: Attribution,
        values: Sequence[QuantizedValue],
        held: Observations,
        calibration: Observations | None,
    ) -> list[Part]:
        """Divides each layer's contribution among its weights and the values around it, and puts together what belongs to one value."""
        noise_of = {entry.layer: entry.mean for entry in attribution.contributions}
        blame: dict[tuple[str, str], float] = {}
        local: dict[tuple[str, str], float] = {}
        reasons: dict[tuple[str, str], tuple[Cause, str]] = {}
        for name, layer in self.layers.items():
            mine: dict[tuple[str, str], float] = {}
            for value in values:
                if name not in value.readers and name not in value.makers:
                    continue
                stats = held.tensors[value.name]
                found = value_noise(stats, value.extent, self.scheme, self.power(value, name, stats))
                mine["value", value.name] = found.total
                if found.total >= local.get(("value", value.name), 0.0):
                    seen = None if calibration is None else calibration.tensors[value.name]
                    reasons["value", value.name] = value_cause(value, found, stats, seen)
            read = held.tensors.get(layer.data.name or "")
            extent = next((value.extent for value in values if value.name == layer.data.name), None)
            step = None if extent is None else self.step(extent)
            weights = weight_noise(layer, self.plan.modes[name], self.scheme, read, step)
            mine["weights", name] = weights.noise
            reasons["weights", name] = weight_cause(weights)
            whole = sum(mine.values())
            for key, value_of in mine.items():
                share = value_of / whole if whole > 0 else 1 / len(mine)
                blame[key] = blame.get(key, 0.0) + share * noise_of[name]
                local[key] = max(local.get(key, 0.0), value_of)
        by_name = {value.name: value for value in values}
        return [
            Part(
                kind="value" if key[0] == "value" else "weights",
                name=key[1],
                layers=_ordered(key, by_name, noise_of),
                noise=blame[key],
                local=local[key],
                cause=reasons[key][0],
                detail=reasons[key][1],
            )
            for key in blame
        ]

    def power(self, value: QuantizedValue, layer: str, statistics: TensorStatistics) -> npt.NDArray[np.float64] | None:
        """How much each channel counts for a layer that reads a value; for one that makes it, for its first direct reader."""
        if statistics.channels is None:
            return None
        count = len(statistics.channels.absmax)
        direct = [name for name in (layer, *value.readers) if self.layers[name].data.name == value.name]
        return input_power(self.layers[direct[0]], count) if direct else None

    def step(self, extent: tuple[float, float]) -> float:
        symmetric = self.scheme.symmetric_activations
        return float(quantization_parameters(*extent, self.scheme.activation, symmetric=symmetric).scale)

    def clues(self, attribution: Attribution, held: Observations, calibration: Sequence[Batch], output: str) -> Clues:
        on_calibration = None
        candidate = self.write(frozenset(self.layers))
        if calibration:
            with self.bench(calibration[: self.batches()]) as bench:
                on_calibration = noise_share_of(bench.score(candidate, evaluate=False), output)
        self.progress("error through the graph", 0, 0)
        held_out = self.evidence.held_out[: min(self.batches(), _PROFILE_BATCHES)]
        self.by_value: Profile = profile(self.exact, candidate, held_out, self.open, self.folder / "profile")
        return Clues(
            total=attribution.total,
            on_calibration=on_calibration,
            shift=find_shift(calibration, self.evidence.held_out),
            growths=self.by_value.growths,
            near={growth.node: self.before(growth.node) for growth in self.by_value.growths},
            repairs=self.repairs(),
            saturation=self.saturation(held) if may_saturate(self.scheme, self.arch) else {},
        )

    def repairs(self) -> list[Repair]:
        """Unequal channels that smoothing and equalisation took care of."""
        found = []
        if self.plan.smoothing is not None:
            readers: dict[str, list[str]] = {}
            for layer in find_layers(load_model(self.graph).graph):
                readers.setdefault(layer.data.name or "", []).append(layer.name)
            for name, magnitudes in self.plan.smoothing.absmax.items():
                found.append(
                    Repair(
                        where=name,
                        layers=tuple(layer for layer in readers.get(name, ()) if layer in self.layers),
                        ratio=channel_ratio(magnitudes),
                        how="smoothing",
                    )
                )
        for name, factors in self.plan.equalization.items():
            found.append(Repair(where=name, layers=(name,), ratio=channel_ratio(factors), how="equalisation"))
        return [repair for repair in found if repair.ratio >= RATIO]

    def before(self, node_name: str) -> tuple[str, ...]:
        """The nearest layers before a node."""
        for node in self.model.graph:
            if (node.name or node.outputs[0].name) == node_name:
                return nearest_makers(node.outputs[0], self.layers)
        return ()

    def saturation(self, held: Observations) -> dict[str, tuple[float, float]]:
        """Of every layer, on the first held-out batch."""
        names = [layer.data.name or "" for layer in self.layers.values()]
        inputs = {value.name for value in self.model.graph.inputs}
        inside = [name for name in dict.fromkeys(names) if name not in inputs]
        batch = self.evidence.held_out[0]
        data: dict[str, npt.NDArray[Any]] = dict(batch)
        if inside:
            with self.open(write_exposed(read_graph(self.exact, inside), inside, self.folder / "layers")) as runner:
                data |= runner.run(batch)
        found = {}
        for name, layer in self.layers.items():
            value = layer.data.name or ""
            stats = held.tensors[value]
            low, high = self.plan.ranges.get(value, (min(stats.low, 0.0), max(stats.high, 0.0)))
            parameters = quantization_parameters(low, high, self.scheme.activation, symmetric=False)
            found[name] = saturation_noise(layer, np.asarray(data[value], np.float32), parameters, self.scheme)
        return found

    def layer_rows(self, attribution: Attribution, parts: Sequence[Part]) -> tuple[LayerExplanation, ...]:
        rows = []
        for entry in attribution.contributions:
            layer = self.layers[entry.layer]
            mine = [part for part in parts if entry.layer in part.layers]
            top = max(mine, key=lambda part: part.noise, default=None)
            reverted = entry.layer in self.evidence.reverted
            rows.append(
                LayerExplanation(
                    name=entry.layer,
                    operator=layer.nodes[0].op_type,
                    mode="float" if reverted else self.plan.modes[entry.layer],
                    noise=entry.mean,
                    spread=abs(entry.forward - entry.backward) / 2,
                    share=entry.mean / attribution.total if attribution.total > 0 else 0.0,
                    cause="rounding" if top is None else top.cause,
                    detail="" if top is None else top.detail,
                    reverted=reverted,
                )
            )
        return tuple(rows)


def noise_share_of(score: Score, output: str) -> float:
    """Noise over signal of one output of a score."""
    return noise_share(replace(score, outputs=tuple(o for o in score.outputs if o.output == output)))


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    found = {value.name: value for value in graph.inputs if value.name}
    found |= {value.name: value for node in graph for value in node.outputs if value.name}
    return found


def _ordered(key: tuple[str, str], values: Mapping[str, QuantizedValue], noise: Mapping[str, float]) -> tuple[str, ...]:
    if key[0] == "weights":
        return (key[1],)
    layers = dict.fromkeys((*values[key[1]].makers, *values[key[1]].readers))
    return tuple(sorted(layers, key=lambda name: -noise[name]))


def _value_rows(
    values: Sequence[QuantizedValue],
    parts: Sequence[Part],
    total: float,
    held: Observations,
    calibration: Observations | None,
) -> tuple[ValueExplanation, ...]:
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
