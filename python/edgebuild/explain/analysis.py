"""Explains a quantised graph: measures what each layer adds, finds out why, and puts the reasons in order."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgebuild.cache import Cache, content_key
from edgebuild.errors import CalibrationError
from edgebuild.explain.attribution import Attribution, Contribution, attribute
from edgebuild.explain.blame import blame, layer_rows, value_rows
from edgebuild.explain.causes import RATIO, channel_ratio
from edgebuild.explain.findings import Clues, Repair, findings, suspects
from edgebuild.explain.growth import Profile, profile, share_through
from edgebuild.explain.result import Analysis
from edgebuild.explain.saturation import may_saturate, saturation_noise
from edgebuild.explain.shift import find_shift
from edgebuild.explain.values import QuantizedValue, channel_axis, has_channels, nearest_makers, quantized_values
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
from edgebuild.quantize.statistics import Observations
from edgebuild.select.budget import Score
from edgebuild.select.evidence import Evidence
from edgebuild.select.trials import noise_share
from edgebuild.select.workbench import Workbench

Batch = Mapping[str, npt.NDArray[Any]]

_BATCH_TIME_S = 0.3
"""Of one judged graph: as many batches as fit, so that a large net takes few."""

_BATCHES = (4, 64)

_PROFILE_BATCHES = 16

_KEPT = 1
"""Of what is kept in the cache: another number where contributions are measured in another way."""

_SUSPECTS = 3
"""Operators of which it is measured how much of the output's noise comes through them."""


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
            graph,
            folder / "exact.onnx",
            smoothing=self.plan.smoothing,
            equalization=self.plan.equalization,
            layers=self.plan.modes,
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
        parts = blame(attribution, self.layers, values, self.plan, self.scheme, held_stats, calibration_stats)
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
            layers=layer_rows(attribution, parts, self.layers, self.plan, self.evidence.reverted),
            values=value_rows(values, parts, attribution.total, held_stats, calibration_stats),
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
            ["attribution", _KEPT, graph_sha256(self.graph), self.plan.to_json(), {**vars(self.scheme)}],
            [list(self.evidence.fused_operators), dict(self.evidence.inputs), dict(self.evidence.outputs)],
            digest.hexdigest(),
            stage_versions(),
            source_digest("data", "quantize", "select", "devices"),
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

    def clues(self, attribution: Attribution, held: Observations, calibration: Sequence[Batch], output: str) -> Clues:
        on_calibration = None
        candidate = self.write(frozenset(self.layers))
        if calibration:
            with self.bench(calibration[: self.batches()]) as bench:
                on_calibration = noise_share_of(bench.score(candidate, evaluate=False), output)
        self.progress("error through the graph", 0, 0)
        held_out = self.evidence.held_out[: min(self.batches(), _PROFILE_BATCHES)]
        self.by_value: Profile = profile(self.exact, candidate, held_out, self.open, self.folder / "profile")
        growths = [
            replace(
                growth,
                share=share_through(
                    self.exact,
                    candidate,
                    growth.value,
                    self.graph_output(output),
                    held_out,
                    self.open,
                    self.folder / "cut",
                ),
            )
            for growth in suspects(self.by_value.growths, attribution.total)[:_SUSPECTS]
        ]
        return Clues(
            total=attribution.total,
            on_calibration=on_calibration,
            shift=find_shift(calibration, self.evidence.held_out),
            growths=growths,
            near={growth.node: self.before(growth.node) for growth in growths},
            repairs=self.repairs(),
            saturation=self.saturation(held) if may_saturate(self.scheme, self.arch) else {},
        )

    def graph_output(self, output: str) -> str:
        """The graph's name of one of the signature's outputs."""
        return next(name for name, other in self.evidence.outputs.items() if other == output)

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


def noise_share_of(score: Score, output: str) -> float:
    """Noise over signal of one output of a score."""
    return noise_share(replace(score, outputs=tuple(o for o in score.outputs if o.output == output)))


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    found = {value.name: value for value in graph.inputs if value.name}
    found |= {value.name: value for node in graph for value in node.outputs if value.name}
    return found
