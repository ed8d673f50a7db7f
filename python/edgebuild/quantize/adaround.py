"""Adaptive rounding: weights are rounded up or down so that a layer's output, not each weight, is off by little.

The objective is that of AdaRound (Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020): for each row of the
weight, ``min e H e'`` over the rounding errors ``e``, with ``H = E[x x']`` of what the layer reads. The paper relaxes it and descends for
thousands of steps; here one input after the other is rounded such that it makes up for the errors of those before it (Frantar et al., "GPTQ: Accurate
Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023, as Babai's nearest plane): seconds on a CPU, and nearly the best.

What is kept is the difference to rounding to the nearest, mostly -1, 0 and 1, compressed.
"""

import base64
import binascii
import shutil
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgebuild.errors import InternalError
from edgebuild.graph.io import load_model
from edgebuild.quantize.instrument import read_graph, write_exposed
from edgebuild.quantize.layers import Layer, find_layers
from edgebuild.quantize.running import OpenGraph
from edgebuild.quantize.weights import QuantizedWeight, quantize_weight, rounding_key, weight_limit
from edgebuild.targets.spec import QuantizationScheme

SAMPLES = 32
"""Batches that are looked at."""

ROWS = 128
"""Places of an image, or tokens, that are taken of each batch."""

_DAMPING = 0.2
"""Added to the diagonal of H, of its mean: what few samples say about directions that they hardly have is not to be trusted.

On MiniLM with 24 samples 0.01 takes 1.2 dB off the noise that rounding all weights adds, 0.1 takes 1.8 and 0.3 takes 2.2, with 64
samples 0.2 takes 2.6; 1 takes less again."""

_LARGEST_DEPTH = 6144
"""Weights of one output beyond which a layer is left alone: H grows with the square, the work with the cube."""

_EXPOSED_BYTES = 256 * 2**20
"""Of the matrices that are summed up in one pass over the data."""

_BLOCK = 128

_Array = npt.NDArray[np.float64]
Batch = Mapping[str, npt.NDArray[np.generic]]


def adaptive_roundings(
    graph: Path,
    layers: Collection[str],
    schemes: Sequence[QuantizationScheme],
    batches: Callable[[], Iterable[Batch]],
    open_graph: OpenGraph,
    folder: Path,
    *,
    seconds: float = 120.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict[str, str]]:
    """Roundings for a plan.

    Args:
        graph: The float graph, with all that the plan does to it first.
        layers: Names of those that are quantised; others, and recurrent ones, are left aside.
        schemes: Those that the plan is for; each has a rounding of its own.
        batches: Gives the calibration data anew, by the graph's input names; the first ``SAMPLES`` are looked at.
        open_graph: How a graph is run.
        folder: Where graphs lie meanwhile.
        seconds: After these no further layer is begun.
        progress: Hears how many of how many layers are done.

    Returns:
        By layer and ``weights.rounding_key``; see ``Plan.roundings``.
    """
    end = time.monotonic() + seconds
    model = load_model(graph)
    wanted = [layer for layer in find_layers(model.graph) if layer.name in layers and _Reading.of(layer) is not None]
    roundings: dict[str, dict[str, str]] = {}
    done = 0
    for number, chunk in enumerate(_chunks(wanted)):
        if time.monotonic() >= end:
            break
        moments = _moments(graph, chunk, batches, open_graph, folder / f"inputs-{number}")
        for layer in chunk:
            if time.monotonic() >= end:
                break
            reading = _Reading.of(layer)
            assert reading is not None
            roundings[layer.name] = _solve(layer, moments[reading], schemes)
            done += 1
            progress(done, len(wanted))
    return {name: found for name, found in roundings.items() if found}


def apply_rounding(layer: Layer, weight: QuantizedWeight, packed: str) -> QuantizedWeight:
    """A weight rounded as a plan says.

    Args:
        layer: Whose weight it is, for the message.
        weight: Rounded to the nearest, within the limit of the scheme.
        packed: From ``adaptive_roundings``.

    Raises:
        InternalError: It is no rounding of this weight.
    """
    size = weight.values.size
    try:
        raw = zlib.decompressobj()
        data = raw.decompress(base64.b64decode(packed, validate=True), size + 1)
    except (binascii.Error, zlib.error, ValueError) as error:
        msg = f"the rounding of '{layer.name}' in the quantisation plan can't be read: {error}"
        raise InternalError(msg) from error
    if len(data) != size or not raw.eof:
        msg = f"the rounding of '{layer.name}' in the quantisation plan is not of {size} weights"
        raise InternalError(msg)
    moved = weight.values.astype(np.int16) + np.frombuffer(data, np.int8).reshape(weight.values.shape)
    values = np.clip(moved, -weight.limit, weight.limit).astype(np.int8)
    return QuantizedWeight(values=values, scales=weight.scales, axis=weight.axis, limit=weight.limit)


def pack_rounding(differences: npt.NDArray[np.int8]) -> str:
    """As ``apply_rounding`` takes it."""
    # Three values in no order: Huffman's code is all that helps, and searching for repetitions takes ten times as long.
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    data = packer.compress(np.ascontiguousarray(differences).tobytes()) + packer.flush()
    return base64.b64encode(data).decode("ascii")


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """How a layer reads an activation: equal ones have equal matrices H.

    Args:
        data: Name of the activation.
        groups: Of its channels.
        depth: Weights of one output.
        kernel: Of a convolution; empty: a product.
    """

    data: str
    groups: int
    depth: int
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()

    @classmethod
    def of(cls, layer: Layer) -> "_Reading | None":
        """None: the layer can't be done."""
        if layer.kind == "recurrent" or not layer.data.name:
            return None
        shape = layer.weight_shape
        if layer.kind == "matmul":
            depth = shape[1] if layer.transposed else shape[0]
            return cls(data=layer.data.name, groups=1, depth=depth) if depth <= _LARGEST_DEPTH else None
        kernel = shape[2:]
        depth = int(np.prod(shape[1:]))
        auto = layer.nodes[0].attributes.get("auto_pad")
        if depth > _LARGEST_DEPTH or (auto is not None and auto.as_string() not in ("NOTSET", "VALID")):
            return None
        rank = len(kernel)
        return cls(
            data=layer.data.name,
            groups=layer.groups,
            depth=depth,
            kernel=kernel,
            strides=_integers(layer, "strides", [1] * rank),
            dilations=_integers(layer, "dilations", [1] * rank),
            pads=_integers(layer, "pads", [0] * 2 * rank),
        )

    def rows(self, data: npt.NDArray[np.generic], random: np.random.Generator) -> npt.NDArray[np.float32]:
        """Up to ``ROWS`` finite ones of what meets the weights of one output: ``(groups, rows, depth)``."""
        array = np.asarray(data, np.float32)
        if not self.kernel:
            flat = array.reshape(-1, self.depth)
            flat = _finite(flat[_some(len(flat), random)])
            # Tokens differ in size by orders of magnitude, and the normalisation behind most products makes them alike.
            largest = np.abs(flat).max(axis=1, keepdims=True, initial=0.0)
            return np.asarray(flat / np.where(largest > 0, largest, 1), np.float32)[None]
        rank = len(self.kernel)
        padded = np.pad(array, [(0, 0), (0, 0), *zip(self.pads[:rank], self.pads[rank:], strict=True)])
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        axes = tuple(range(2, 2 + rank))
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=axes)
        steps = (slice(None), slice(None), *(slice(None, None, s) for s in self.strides))
        windows = windows[(*steps, *(slice(None, None, d) for d in self.dilations))]
        places = windows.shape[:1] + windows.shape[2 : 2 + rank]
        chosen = np.unravel_index(_some(int(np.prod(places)), random), places)
        taken = np.moveaxis(windows, 1, 1 + rank)[chosen]  # (rows, C, *kernel)
        finite = _finite(taken.reshape(len(taken), -1))
        return finite.reshape(len(finite), self.groups, self.depth).transpose(1, 0, 2)


def _integers(layer: Layer, name: str, default: Sequence[int]) -> tuple[int, ...]:
    attribute = layer.nodes[0].attributes.get(name)
    return tuple(default if attribute is None else (int(x) for x in attribute.as_ints()))


def _finite(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Without rows that hold infinity or NaN: one would make all moments so."""
    return rows[np.isfinite(rows).all(axis=1)]


def _some(count: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    if count <= ROWS:
        return np.arange(count)
    return np.sort(random.choice(count, ROWS, replace=False))


def _chunks(layers: Sequence[Layer]) -> Iterator[list[Layer]]:
    """Layers whose matrices fit into memory together, in order."""
    chunk: list[Layer] = []
    seen: dict[_Reading, int] = {}
    for layer in layers:
        reading = _Reading.of(layer)
        assert reading is not None
        size = reading.groups * reading.depth**2 * 4
        if chunk and reading not in seen and sum(seen.values()) + size > _EXPOSED_BYTES:
            yield chunk
            chunk, seen = [], {}
        chunk.append(layer)
        seen[reading] = size
    if chunk:
        yield chunk


def _moments(
    graph: Path,
    layers: Sequence[Layer],
    batches: Callable[[], Iterable[Batch]],
    open_graph: OpenGraph,
    folder: Path,
) -> dict[_Reading, npt.NDArray[np.float32]]:
    """``sum x x'`` of everything that the layers read, ``(groups, depth, depth)``."""
    readings = list(dict.fromkeys(reading for layer in layers if (reading := _Reading.of(layer)) is not None))
    names = list(dict.fromkeys(reading.data for reading in readings))
    source = read_graph(graph, names)
    inside = [name for name in names if name not in source.inputs]
    totals = {r: np.zeros((r.groups, r.depth, r.depth), np.float32) for r in readings}
    random = np.random.default_rng(0)
    try:
        with ExitStack() as stack:
            runner = stack.enter_context(open_graph(write_exposed(source, inside, folder))) if inside else None
            for index, batch in enumerate(batches()):
                if index == SAMPLES:
                    break
                values = {**batch, **({} if runner is None else runner.run(batch))}
                for reading in readings:
                    rows = reading.rows(values[reading.data], random)
                    totals[reading] += np.matmul(rows.transpose(0, 2, 1), rows)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return totals


def _solve(layer: Layer, moments: npt.NDArray[np.float32], schemes: Sequence[QuantizationScheme]) -> dict[str, str]:
    """The rounding for each scheme; nothing where rounding to the nearest is as good."""
    groups, depth, _ = moments.shape
    weight, axis = layer.weight_array(), layer.channel_axis
    if layer.kind == "matmul":
        weight, axis = (np.ascontiguousarray(weight.T) if layer.transposed else weight), 1
    found: dict[str, str] = {}
    factor = None
    for scheme in schemes:
        key = rounding_key(scheme)
        nearest = quantize_weight(weight, axis, per_channel=scheme.per_channel, reduce_range=scheme.reduce_range)
        if key in found:
            continue
        if factor is None:
            factor = _factor(moments)
        rows = (weight.T if layer.kind == "matmul" else weight).reshape(groups, -1, depth).astype(np.float64)
        scales = np.broadcast_to(nearest.scales, (rows.shape[0] * rows.shape[1],)).astype(np.float64)
        steps = scales.reshape(groups, -1, 1)
        limit = weight_limit(reduce_range=scheme.reduce_range)
        integers = _round(rows / steps, *factor, limit)
        plain = np.clip(np.rint(rows / steps), -limit, limit)
        errors = [_error((q - rows / steps) * steps, moments) for q in (plain, integers)]
        if not errors[1] < errors[0]:
            continue
        values = integers.reshape(-1, depth) if layer.kind == "matmul" else integers.reshape(weight.shape)
        values = values.T if layer.kind == "matmul" else values
        found[key] = pack_rounding((values - nearest.values).astype(np.int8))
    return found


def _factor(moments: npt.NDArray[np.float32]) -> tuple[_Array, npt.NDArray[np.int64]]:
    """Upper triangular ``R`` with ``H = R R'`` for each group, inputs in the order of their power, and that order ``(groups, depth)``."""
    matrix = moments.astype(np.float64)
    diagonal = np.einsum("gii->gi", matrix)
    mean = diagonal.mean(axis=1)
    damping = _DAMPING * np.where(mean > 0, mean, 1.0)
    order = np.argsort(-diagonal, axis=1, kind="stable").astype(np.int64)
    matrix = matrix + damping[:, None, None] * np.eye(matrix.shape[1])
    matrix = np.take_along_axis(np.take_along_axis(matrix, order[:, :, None], 1), order[:, None, :], 2)
    lower = np.linalg.cholesky(matrix[:, ::-1, ::-1])
    return np.asarray(lower[:, ::-1, ::-1], np.float64), order


def _round(rows: _Array, factor: _Array, order: npt.NDArray[np.int64], limit: int) -> _Array:
    """Rows ``(groups, M, depth)`` in steps of their scales to integers.

    With ``e H e' = |e R|^2`` and R triangular, each input in turn gets the integer that brings its column of ``e R`` next to zero, whatever the errors
    before it were.
    """
    weights = (
        np.take_along_axis(rows, order[:, None, :], 2).transpose(2, 0, 1).copy()
    )  # a column is one piece of memory
    depth = len(weights)
    integers, errors = np.zeros_like(weights), np.zeros_like(weights)
    carried = np.zeros_like(weights)  # what the errors so far add to each column of e R
    for start in range(0, depth, _BLOCK):
        stop = min(start + _BLOCK, depth)
        for column in range(start, stop):
            wanted = weights[column] - carried[column] / factor[:, column, column, None]
            integers[column] = np.clip(np.rint(wanted), -limit, limit)
            errors[column] = integers[column] - weights[column]
            part = factor[:, column, column + 1 : stop].T[:, :, None]
            carried[column + 1 : stop] += part * errors[column]
        # (groups, columns behind, columns of the block) @ (groups, columns of the block, M)
        behind = factor[:, start:stop, stop:].transpose(0, 2, 1)
        carried[stop:] += np.matmul(behind, errors[start:stop].transpose(1, 0, 2)).transpose(1, 0, 2)
    back = np.empty_like(rows)
    np.put_along_axis(back, np.broadcast_to(order[:, None, :], rows.shape), integers.transpose(1, 2, 0), 2)
    return back


def _error(errors: _Array, moments: npt.NDArray[np.float32]) -> float:
    return float(np.sum(np.matmul(errors, moments) * errors))
