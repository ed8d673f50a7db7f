"""One streaming pass over calibration data: the distribution of every tensor that will carry a Q/DQ, without keeping any."""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgebuild import _runtime
from edgebuild.cache import Cache
from edgebuild.errors import CalibrationError, InternalError, SignatureError
from edgebuild.quantize.instrument import MOST_OUTPUTS, SourceGraph, read_graph, write_exposed, write_sizes
from edgebuild.quantize.running import GraphRunner, OpenGraph
from edgebuild.quantize.statistics import ChannelStatistics, Observations, TensorStatistics

__all__ = ["ChannelStatistics", "Observations", "TensorStatistics", "observe"]

MEMORY_BUDGET = 512 * 2**20
"""Bytes of observed tensors that one run may hold at once; more are spread over several runs of the same batch."""

Batch = Mapping[str, NDArray[Any]]
Infinite = Literal["refuse", "count"]


def observe(
    graph: Path,
    tensors: Sequence[str],
    batches: Iterable[Batch],
    open_graph: OpenGraph,
    *,
    channels: Mapping[str, int] | None = None,
    infinite: Infinite = "refuse",
    progress: Callable[[int], None] | None = None,
    memory_budget: int = MEMORY_BUDGET,
    cache: Cache | None = None,
) -> Observations:
    """Run the graph on every batch and gather statistics of tensors inside it; memory does not grow with the number of batches.

    Each tensor costs the engine an output that it has to write, and may keep it from fusing the tensor's producer with
    what follows. Ask for what a fusion gives (the result of a ReLU, not of the convolution before it).

    Args:
        graph: An ONNX file; external data lies beside it.
        tensors: Names of values of its main graph, inputs included, of a float type.
        batches: Yields ``{input name: array}``, run one by one; read once.
        open_graph: Opens an ONNX file; see ``edgebuild.quantize.running``.
        channels: Axis, by tensor, whose channels are wanted too.
        infinite: ``count``: leave infinities that the graph itself makes (attention masks) out and count them. In the inputs they
            are refused always, and so is NaN everywhere.
        progress: Called with the number of batches done.
        memory_budget: Bytes of tensors that a run may expose at once.
        cache: Where the graph with other outputs lies meanwhile; by default the user's cache. Nothing stays there.

    Raises:
        CalibrationError: There is no batch, or one holds NaN, infinity, or an input whose name, dtype or shape does not fit; names
            the tensor, the batch (from 0) and the index. Or a tensor has no finite element in any batch.
        ModelError: The graph can't be read.
        InternalError: There is no such tensor.
    """
    source = read_graph(graph, tensors)
    counters = {name: _Counter(name, (channels or {}).get(name), infinite) for name in dict.fromkeys(tensors)}
    inside = [name for name in source.order if name in counters]
    done = 0
    folder = (cache or Cache.default()).staging_folder()
    try:
        with ExitStack() as stack:
            groups: list[tuple[GraphRunner, list[str]]] | None = None
            for index, batch in enumerate(batches):
                _check_inputs(source, batch, index)
                if groups is None:
                    split = _split(source, inside, batch, index, open_graph, folder / "sizes", memory_budget)
                    groups = []
                    for number, names in enumerate(split):
                        exposed = write_exposed(source, names, folder / str(number))
                        unordered = [name for name in names if not counters[name].ordered]
                        groups.append((stack.enter_context(open_graph(exposed, unordered=unordered)), names))
                for name in source.inputs:
                    if name in counters and not counters[name].add(batch[name], index):
                        raise _not_finite(name, batch[name], index)
                for runner, names in groups:
                    outputs = _run(runner, batch, index)
                    for name in names:
                        if not counters[name].add(outputs[name], index):
                            # In the tensor's own order, for the index.
                            with open_graph(write_exposed(source, [name], folder / "again")) as one:
                                raise _not_finite(name, _run(one, batch, index)[name], index)
                    del outputs  # or two batches' tensors would be held at once
                done = index + 1
                if progress is not None:
                    progress(done)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not done:
        msg = "the calibration set is empty: expected one batch at least"
        raise CalibrationError(msg, hint="give some data with --calib, or --calib random to try things out")
    return Observations(tensors={name: counter.result(done) for name, counter in counters.items()}, batches=done)


class _Counter:
    """What is gathered of one tensor."""

    def __init__(self, name: str, axis: int | None, infinite: Infinite) -> None:
        self._name = name
        self._infinite = infinite
        self._histogram = _runtime.Histogram()
        self._channels = None if axis is None else _runtime.ChannelStatistics(axis)

    @property
    def ordered(self) -> bool:
        """Whether the tensor must come as it is, not in any order of its elements."""
        return self._channels is not None

    def add(self, array: NDArray[Any], batch: int) -> bool:
        """Take one batch's tensor in. False: it holds what is refused."""
        first = self._histogram.add(array)
        if first is not None and (self._infinite == "refuse" or bool(np.isnan(array).any())):
            return False
        if self._channels is not None:
            try:
                self._channels.add(array)
            except SignatureError as error:
                msg = f"batch {batch}: tensor '{self._name}': {error.message}"
                raise CalibrationError(msg) from error
        return True

    def result(self, batches: int) -> TensorStatistics:
        if not self._histogram.count:
            msg = f"tensor '{self._name}' has no finite value in any of {batches} batches, so it has no range"
            raise CalibrationError(msg, hint="is the data what the model was trained on?")
        return TensorStatistics.of(self._histogram, self._channels)


def _check_inputs(source: SourceGraph, batch: Batch, index: int) -> None:
    inputs = source.inputs
    if batch.keys() != inputs.keys():
        msg = f"batch {index}: expected the inputs {_listed(inputs)}, got {_listed(batch)}"
        raise CalibrationError(msg)
    for name, array in batch.items():
        # A sum is finite only if every element is, and costs a fraction of looking at each; one that overflows is looked at.
        if array.dtype.kind == "f":
            with np.errstate(over="ignore", invalid="ignore"):
                suspect = not np.isfinite(array.sum())
            if suspect and not np.isfinite(array).all():
                raise _not_finite(name, array, index)


def _not_finite(name: str, array: NDArray[Any], batch: int) -> CalibrationError:
    wrong = np.isnan(array) if np.isnan(array).any() else ~np.isfinite(array)
    place = np.unravel_index(int(np.argmax(wrong)), array.shape)
    value = "NaN" if np.isnan(array[place]) else "infinity"
    msg = f"batch {batch}: tensor '{name}' holds {value} at index {tuple(map(int, place))}, expected finite values"
    return CalibrationError(msg, hint="look at this sample: is it read and preprocessed as the model expects?")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _run(runner: GraphRunner, batch: Batch, index: int) -> Mapping[str, NDArray[Any]]:
    try:
        return runner.run(batch)
    except SignatureError as error:
        msg = f"batch {index}: {error.message}"
        raise CalibrationError(msg, hint=error.hint) from error
    except InternalError as error:
        msg = f"batch {index}: the model can't be run on it: {error.message}"
        raise CalibrationError(msg, hint="are the sizes of its inputs those that the model expects?") from error


def _split(
    source: SourceGraph, names: list[str], batch: Batch, index: int, open_graph: OpenGraph, folder: Path, budget: int
) -> list[list[str]]:
    """Groups of tensors that may be exposed together; the last runs of a deep graph need not repeat what comes after."""
    sizes = {name: source.bytes_of(name, batch) for name in names}
    if any(size is None for size in sizes.values()):
        # Shapes are known only when the graph runs; then a run that gives their sizes and keeps none comes first.
        counts: list[NDArray[Any]] = []
        for start in range(0, len(names), MOST_OUTPUTS):
            part = names[start : start + MOST_OUTPUTS]
            with open_graph(write_sizes(source, part, folder / str(start))) as runner:
                counts += _run(runner, batch, index).values()
        sizes = {name: int(n) * source.element_bytes(name) for name, n in zip(names, counts, strict=True)}
    groups: list[list[str]] = []
    held = 0
    for name in names:
        size = sizes[name] or 0
        if not groups or held + size > budget or len(groups[-1]) == MOST_OUTPUTS:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    return groups
