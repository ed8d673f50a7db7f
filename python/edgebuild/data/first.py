"""A few input sets of calibration data in files, before all of it is opened: what a model is fed with in earnest."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgebuild.data.batches import Batch, BatchReader, cut
from edgebuild.data.calibration import open_origin
from edgebuild.data.fit import Fitter
from edgebuild.data.spool import Spool
from edgebuild.model.signature import Signature

Array = NDArray[Any]


def first_batches(
    path: Path, signature: Signature, *, preprocess: str | None = None, count: int = 3
) -> list[tuple[str, Mapping[str, Array]]]:
    """Input sets from all over the data, the same ones each time; little more than them is read.

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
        records = open_origin(str(path), fitter, spool, preprocess).records
        wanted = count * max(fitter.batch_size, 1)
        if isinstance(records, list) and len(records) > wanted:
            records = [records[i * len(records) // wanted] for i in range(wanted)]
        batches: list[Batch]
        if isinstance(records, list) and len(records) == 1:  # rows of one file: any of them can be picked
            batches = list(cut(records, fitter, reader))
            batches = [batches[i * len(batches) // count] for i in range(count)] if len(batches) > count else batches
        else:
            batches = list(islice(cut(records, fitter, reader), count))
        return [(batch.where, reader.read(batch)) for batch in batches]
    finally:
        spool.close()
