"""Bases: the float graph as it is and rewritten, which candidates are made from; each is measured when it is first needed."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache as cached_call
from functools import cached_property
from pathlib import Path

import onnx_ir as ir

from edgebuild.cache import Cache
from edgebuild.data.calibration import CalibrationData
from edgebuild.graph.io import load_model
from edgebuild.quantize.adaround import adaptive_roundings
from edgebuild.quantize.calibrate import calibrate, named_batches
from edgebuild.quantize.candidate import RangeChooser, prepare, values_to_observe, write_rewritten
from edgebuild.quantize.correct import correctable, input_means
from edgebuild.quantize.equalize import equalizable, equalization_factors
from edgebuild.quantize.insert import Forms
from edgebuild.quantize.layers import Layer, find_layers
from edgebuild.quantize.observe import Observations
from edgebuild.quantize.placements import Placement, placements
from edgebuild.quantize.plan import Mode, Smoothing, Vectors
from edgebuild.quantize.product_forms import FUSED_ROWS, SEPARATE_ROWS
from edgebuild.quantize.running import OpenGraph
from edgebuild.quantize.smooth import smoothable
from edgebuild.quantize.tables import find_tables
from edgebuild.quantize.tune import Tuned, tune_products
from edgebuild.select.roundings import Roundings, SharedRoundings
from edgebuild.targets.spec import QuantizationScheme


@dataclass(frozen=True, kw_only=True)
class Base:
    """What candidates are made from: the float graph, or the float graph rewritten.

    Args:
        name: "plain", or what is done first, e.g. "smoothed".
        smoothing: That; None: nothing.
        ranges: Of the values that carry Q/DQ; made when static ranges are first needed.
        equalization: Factors of layers; empty: none.
        modes: Of layers that are better computed in another mode than a placement's.
        means: Of input channels, for the correction of biases; None: there is nothing to correct.
        roundings: Of weights, compensated; None: there is nothing to round so.
        tuned: Forms of products, of which it has the cheap ones, for a choice among all; None: there is none.
        shared: Roundings of candidates with other forms; None: weights are rounded to the nearest.
    """

    name: str
    smoothing: Smoothing | None
    ranges: Callable[[], RangeChooser]
    equalization: Vectors = field(default_factory=dict)
    modes: Mapping[str, Mode] = field(default_factory=dict)
    means: Callable[[], Vectors] | None = None
    roundings: Callable[[], Roundings] | None = None
    tuned: Tuned | None = None
    shared: SharedRoundings | None = None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What bases are measured with.

    Args:
        data: Samples.
        inputs: The signature's name of each of the graph's inputs.
        open_graph: How a graph is run.
        cache: Where statistics are kept.
        progress: Hears what is being done.
        advance: Hears how many of how many steps of it are done.
    """

    data: CalibrationData
    inputs: Mapping[str, str]
    open_graph: OpenGraph
    cache: Cache
    progress: Callable[[str], None]
    advance: Callable[[int, int], None]


class Bases:
    """The bases of one graph, and what every candidate has in common.

    Args:
        graph: The optimised float graph.
        forms: How products are written.
        scheme: Of the candidates.
        schemes: All of the target's, whose weights may be of other widths.
        calibration: What they are measured with.
        folder: For graphs that lie on disk meanwhile.
        rounding_seconds: After these no further layer is rounded with compensation; 0: none is.
    """

    def __init__(
        self,
        graph: Path,
        forms: Forms,
        scheme: QuantizationScheme,
        schemes: Sequence[QuantizationScheme],
        calibration: Calibration,
        folder: Path,
        *,
        rounding_seconds: float,
    ) -> None:
        self._graph, self._forms, self._scheme, self._schemes = graph, forms, scheme, schemes
        self._calibration, self._folder = calibration, folder
        self._rounding_seconds = rounding_seconds
        self.model = load_model(graph)
        prepare(self.model)
        self.placements: tuple[Placement, ...] = placements(self.model, forms)
        # TensorRT takes integers from Q alone, and its parser casts none to float.
        tables = () if scheme.placement == "tensorrt" else find_tables(self.model.graph)
        self.tables = frozenset(tables)

    def makers(self) -> list[Callable[[], Base | None]]:
        """In the order in which they are to be tried."""
        makers: list[Callable[[], Base | None]] = [self.first]
        if _mostly_products(self.model) and self._products:
            # Where products may have any mode, "smoothed" is the foot of a ladder that ends in float.
            makers += [self.smoothed] if self._forms.fused_products else [self.smoothed, self.balanced]
        return makers

    def first(self) -> Base:
        """Equalised where that promises much, else as it is."""
        wanted = equalizable(self.model.graph)
        if not wanted:
            return self._base("plain")
        found = self._observe(None, {}, tuple(self._values), wanted)
        channels = {name: c for name in wanted if (c := found.tensors[name].channels) is not None}
        factors = equalization_factors(self.model.graph, channels)
        if not factors:
            return self._base("plain")
        return self._base("equalised", equalization={n: tuple(map(float, f)) for n, f in factors.items()})

    def smoothed(self) -> Base | None:
        """Products smoothed, or their rows scaled, as suits each activation."""
        cheap = self._tuned.tuning(self._tuned.cheap())
        base = self._base("smoothed", smoothing=cheap.smoothing, modes=cheap.modes)
        return replace(base, tuned=self._tuned, shared=self._shared) if self._forms.fused_products else base

    def balanced(self) -> Base | None:
        """Outlying channels split, where that takes away enough noise for its time."""
        cheap, balanced = (self._tuned.tuning(of()) for of in (self._tuned.cheap, self._tuned.balanced))
        if balanced == cheap:
            return None
        return self._base("outliers split", smoothing=balanced.smoothing, modes=balanced.modes)

    @cached_property
    def _tuned(self) -> Tuned:
        at = self._calibration
        at.progress("rows that products read")
        with self._rewritten(None, {}) as graph:
            return tune_products(
                graph,
                self._products,
                named_batches(at.data, at.inputs),
                at.open_graph,
                at.cache,
                reduce_range=self._scheme.reduce_range,
                modes=self._forms.modes,
                costs=FUSED_ROWS if self._forms.fused_rows else SEPARATE_ROWS,
            )

    @cached_property
    def _shared(self) -> SharedRoundings | None:
        if not self._rounds:
            return None
        activations = {layer.name: name for name, layers in self._products.items() for layer in layers}

        def solve(
            smoothing: Smoothing | None, names: Collection[str], schemes: Sequence[QuantizationScheme], seconds: float
        ) -> Roundings:
            return self._roundings(smoothing, {}, names, schemes, seconds)

        return SharedRoundings(solve, activations, self._scheme, self._schemes, self._rounding_seconds)

    @property
    def _rounds(self) -> bool:
        return self._scheme.per_channel and self._rounding_seconds > 0

    @cached_property
    def _products(self) -> dict[str, list[Layer]]:
        return dict(smoothable(self.model.graph))

    @cached_property
    def _values(self) -> dict[str, None]:
        return dict.fromkeys(values_to_observe(self.model, self.placements, self._forms))

    def _base(
        self,
        name: str,
        *,
        smoothing: Smoothing | None = None,
        equalization: Vectors | None = None,
        modes: Mapping[str, Mode] | None = None,
    ) -> Base:
        factors = equalization or {}
        return Base(
            name=name,
            smoothing=smoothing,
            equalization=factors,
            modes=modes or {},
            ranges=cached_call(lambda: self._ranges(smoothing, factors)),
            means=cached_call(lambda: self._means(smoothing, factors)),
            roundings=cached_call(lambda: self._all_roundings(smoothing, factors)) if self._rounds else None,
        )

    def _ranges(self, smoothing: Smoothing | None, equalization: Vectors) -> RangeChooser:
        if smoothing is None:
            values = tuple(self._values)
        else:
            with self._rewritten(smoothing, equalization) as graph:
                values = values_to_observe(load_model(graph), self.placements, self._forms)
        # Channels that equalisation asked for come along, so that the same statistics serve both.
        wanted = {} if smoothing is not None or equalization else equalizable(self.model.graph)
        return RangeChooser(
            self._observe(smoothing, equalization, values, wanted), self._scheme, only=frozenset(values)
        )

    def _means(self, smoothing: Smoothing | None, equalization: Vectors) -> Vectors:
        with self._rewritten(smoothing, equalization) as graph:
            wanted = correctable(load_model(graph).graph)
        if not wanted:
            return {}
        found = self._observe(smoothing, equalization, (), wanted)
        with self._rewritten(smoothing, equalization) as graph:
            rewritten = load_model(graph).graph
            channels = {n: c for n in wanted if (c := found.tensors[n].channels) is not None}
            return input_means(rewritten, channels)

    def _all_roundings(self, smoothing: Smoothing | None, equalization: Vectors) -> Roundings:
        names = {name for placement in self.placements for name in placement.modes}
        return self._roundings(smoothing, equalization, names, self._schemes, self._rounding_seconds)

    def _roundings(
        self,
        smoothing: Smoothing | None,
        equalization: Vectors,
        names: Collection[str],
        schemes: Sequence[QuantizationScheme],
        seconds: float,
    ) -> Roundings:
        at = self._calibration
        at.progress("rounding of weights")
        with self._rewritten(smoothing, equalization) as graph:
            return adaptive_roundings(
                graph,
                names,
                schemes,
                lambda: named_batches(at.data, at.inputs),
                at.open_graph,
                self._folder / "rounding",
                seconds=seconds,
                progress=lambda done, total: at.progress(f"rounding of layer {done} of {total}"),
            )

    def _observe(
        self,
        smoothing: Smoothing | None,
        equalization: Vectors,
        values: Sequence[str],
        channels: Mapping[str, int],
    ) -> Observations:
        at = self._calibration
        at.progress(f"calibrate: {at.data.description}")
        total = len(at.data)
        with self._rewritten(smoothing, equalization) as graph:
            return calibrate(
                graph,
                tuple(dict.fromkeys((*values, *channels))),
                at.data,
                at.inputs,
                at.open_graph,
                at.cache,
                channels=channels,
                progress=lambda done: at.advance(done, total),
            )[0]

    @contextmanager
    def _rewritten(self, smoothing: Smoothing | None, equalization: Vectors) -> Iterator[Path]:
        """The graph that values are looked at in."""
        path = self._folder / "rewritten.onnx"
        self._folder.mkdir(parents=True, exist_ok=True)
        write_rewritten(self._graph, path, smoothing=smoothing, equalization=equalization)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)
            path.with_name(path.name + ".data").unlink(missing_ok=True)


def _mostly_products(model: ir.Model) -> bool:
    """Whether smoothing can matter: at least half of the layers are products."""
    layers = find_layers(model.graph)
    return 2 * sum(layer.kind == "matmul" for layer in layers) >= len(layers)
