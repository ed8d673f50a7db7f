"""A few input sets of calibration data in files, before all of it is opened: what a model is fed with in earnest."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgebuild.data.batches import Batch, BatchReader, cut, files_of_a_batch
from edgebuild.data.calibration import open_origin
from edgebuild.data.fit import Fitter, Plan
from edgebuild.data.records import Record
from edgebuild.data.spool import Spool
from edgebuild.model.signature import Signature

Array = NDArray[Any]


def first_batches(
    path: Path, signature: Signature, *, preprocess: str | None = None, count: int = 3
) -> list[tuple[str, Mapping[str, Array]]]:
    """Input sets from all over the data, the same ones each time, of no more rows than the best batch; little more than them is read.

    Args:
        path: A folder or file, as ``open_calibration`` takes it.
        signature: What they have to fit; its outputs don't matter.
        preprocess: Text form of what makes images into inputs.
        count: How many at most.

    Returns:
        For each, what messages call it, and arrays by input name; fewer than ``count`` if there are no more.

    Raises:
        CalibrationError: The data can't be used; names the tensor and the file.
        UsageError: ``preprocess`` does not fit the signature.
    """
    spool = Spool(None)
    try:
        fitter = Fitter(signature, lambda text: None)
        reader = BatchReader(fitter)
        records = list(open_origin(str(path), fitter, spool, preprocess).records)
        batches = [_smaller(batch, fitter) for batch in _spread(records, fitter, reader, count)]
        return [(batch.where, reader.read(batch)) for batch in batches]
    finally:
        spool.close()


def _spread(records: list[Record], fitter: Fitter, reader: BatchReader, count: int) -> list[Batch]:
    """Batches from the whole length of the records: files are often sorted, by class for instance."""
    if len(records) == 1:  # rows of one file: any of them can be picked
        batches = list(cut(records, fitter, reader))
        return [batches[i * len(batches) // count] for i in range(count)] if len(batches) > count else batches
    each = files_of_a_batch(records[0], fitter, reader)
    if len(records) < count * each:
        return list(islice(cut(records, fitter, reader), count))
    firsts = [i * len(records) // count for i in range(count)]
    # A record that none follows would be taken for stacked samples, so the first one does.
    runs = [[*records[first : first + each], records[0]] for first in firsts]
    return [batch for run in runs for batch in islice(cut(run, fitter, reader), 1)]


def _smaller(batch: Batch, fitter: Fitter) -> Batch:
    """No more rows than the best size has: files of hundreds would be goldens of hundreds, which a board has to run."""
    part = batch.parts[0]
    if not isinstance(fitter.batch, str) or part.plan.mode != "whole" or part.plan.count <= fitter.batch_size:
        return batch
    rows = Plan(mode="rows", count=part.plan.count)
    part = replace(part, plan=rows, stop=fitter.batch_size)
    return Batch(parts=(part,), samples=fitter.batch_size)
