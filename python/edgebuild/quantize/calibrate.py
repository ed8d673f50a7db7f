"""Calibration with its cache: statistics of every value that may carry Q/DQ, once for a graph and its data."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgebuild.cache import Cache, content_key
from edgebuild.data.calibration import CalibrationData
from edgebuild.errors import CalibrationError
from edgebuild.fingerprint import source_digest
from edgebuild.graph.stage import graph_sha256, stage_versions
from edgebuild.quantize.observe import Observations, observe
from edgebuild.quantize.running import OpenGraph

Batch = Mapping[str, NDArray[Any]]


def named_batches(data: CalibrationData, inputs: Mapping[str, str]) -> Iterator[Batch]:
    """Batches by the graph's input names.

    Args:
        data: By the signature's names.
        inputs: The signature's name of each of the graph's inputs.
    """
    for batch in data.batches():
        absent = [name for name in inputs.values() if name not in batch]
        if absent:
            msg = f"calibration data without input '{absent[0]}' can't be used: the graph reads it"
            raise CalibrationError(msg, hint="give a value for every input in every sample")
        yield {graph_name: batch[name] for graph_name, name in inputs.items()}


def calibrate(
    graph: Path,
    values: Sequence[str],
    data: CalibrationData,
    inputs: Mapping[str, str],
    open_graph: OpenGraph,
    cache: Cache,
    *,
    channels: Mapping[str, int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Observations, bool]:
    """Statistics of values of a float graph.

    Args:
        graph: ONNX file.
        values: Names of float values.
        data: What the graph is run on.
        inputs: The signature's name of each of the graph's inputs.
        open_graph: How a graph is run.
        cache: Where the result is kept.
        channels: Axis, by value, along which the statistics of each channel are wanted too.
        progress: Hears the number of batches that are done.

    Returns:
        The statistics, and whether they came from the cache.

    Raises:
        CalibrationError: A batch holds NaN or infinity, or makes them inside the graph; names the value and the batch.
    """
    key = content_key(
        ["calibration", list(values), dict(channels or {}), dict(inputs)],
        graph_sha256(graph),
        data.sha256,
        stage_versions(),
        source_digest("data", "quantize", "devices"),
    )

    def make(folder: Path) -> None:
        found = observe(
            graph,
            values,
            named_batches(data, inputs),
            open_graph,
            channels=channels,
            infinite="count",
            progress=progress,
            cache=cache,
        )
        found.write(folder / "observations.npz")

    folder, cached = cache.find_or_make("calibration", key, make)
    return Observations.read(folder / "observations.npz"), cached
