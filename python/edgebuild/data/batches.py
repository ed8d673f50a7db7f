"""Cuts records into batches, and reads batches again."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebuild.data.fit import Fitter, Plan
from edgebuild.data.records import Record, RecordReader
from edgebuild.errors import CalibrationError

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows (or input sets) ``start`` to ``stop`` of one record."""

    record: Record
    plan: Plan
    start: int
    stop: int

    @property
    def where(self) -> str:
        if self.plan.mode in ("whole", "lift") or (self.start, self.stop) == (0, self.plan.count):
            return self.record.where
        if self.stop - self.start == 1:
            return f"{self.record.where}, sample {self.start}"
        return f"{self.record.where}, samples {self.start} to {self.stop - 1}"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch: the parts that it is made of. ``samples`` of them count."""

    parts: tuple[Part, ...]
    samples: int

    @property
    def where(self) -> str:
        first, last = self.parts[0].where, self.parts[-1].where
        return first if len(self.parts) == 1 else f"{first} to {last}"


class BatchReader:
    """Reads batches as the signature wants them; keeps one record in memory."""

    def __init__(self, fitter: Fitter) -> None:
        self._fitter = fitter
        self._reader = RecordReader()

    def plan(self, record: Record) -> Plan:
        return self._fitter.plan(self._reader.arrays(record), record.where)

    def read(self, batch: Batch) -> dict[str, Array]:
        """The batch's arrays, in the signature's order.

        Raises:
            CalibrationError: Element types, sizes or numbers are not what the signature wants; names tensor and sample.
        """
        made = [self._part(part) for part in batch.parts]
        joined = made[0] if len(made) == 1 else self._joined(made, batch)
        self._fitter.check_symbols(joined, batch.where)
        return joined

    def _part(self, part: Part) -> dict[str, Array]:
        arrays = self._reader.arrays(part.record)
        return {
            name: self._fitter.convert(part.plan.take(arrays[name], part.start, part.stop), name, part.where)
            for name in self._fitter.types
            if name in arrays
        }

    def _joined(self, made: list[dict[str, Array]], batch: Batch) -> dict[str, Array]:
        joined = {}
        for name in made[0]:
            for part, arrays in zip(batch.parts, made, strict=True):
                if name not in arrays or arrays[name].shape[1:] != made[0][name].shape[1:]:
                    got = list(arrays[name].shape) if name in arrays else "none"
                    want = f"{list(made[0][name].shape)} as in {batch.parts[0].where}, which shares its batch"
                    msg = f"{part.where}: input '{name}': expected the sizes {want}, got {got}"
                    raise CalibrationError(msg, hint="samples of one batch have equal sizes")
            joined[name] = np.concatenate([arrays[name] for arrays in made])
        return joined


def cut(records: Iterable[Record], fitter: Fitter, reader: BatchReader) -> Iterator[Batch]:
    """Batches of the records, in order.

    What is one batch as given stays one, unless it is all that there is: then it is stacked samples. Rows that a fixed
    batch size does not divide go on into the next record; what remains at the end is left out, and said.
    """
    iterator = iter(records)
    record = next(iterator, None)
    following = next(iterator, None)
    alone = following is None
    waiting: list[Part] = []
    rows = 0
    while record is not None:
        plan = reader.plan(record)
        if alone and plan.mode == "whole" and isinstance(fitter.batch, str) and plan.count > 1:
            plan = Plan(mode="rows", count=plan.count)
        if plan.count == 0:
            msg = f"{record.where}: an empty array, expected samples"
            raise CalibrationError(msg, hint="leave it out")
        size = _size(fitter, plan, alone)
        if plan.mode == "whole":
            yield Batch(parts=(Part(record=record, plan=plan, start=0, stop=plan.count),), samples=plan.count)
        elif plan.mode == "sets":
            samples = fitter.batch_size if isinstance(fitter.batch, int) else 1
            for index in range(plan.count):
                yield Batch(parts=(Part(record=record, plan=plan, start=index, stop=index + 1),), samples=samples)
        else:
            if plan.mode == "rows":
                fitter.note(f"{record.where if alone else 'arrays'}: stacked samples were split into batches of {size}")
            start = 0
            while start < plan.count:
                stop = min(plan.count, start + size - rows)
                waiting.append(Part(record=record, plan=plan, start=start, stop=stop))
                rows += stop - start
                start = stop
                if rows == size:
                    yield Batch(parts=tuple(waiting), samples=rows)
                    waiting, rows = [], 0
        record, following = following, next(iterator, None)
    if not rows:
        return
    if rows >= fitter.batch_limits[0]:  # a dynamic axis takes fewer too
        yield Batch(parts=tuple(waiting), samples=rows)
    else:
        fitter.note(f"{rows} samples at the end do not fill a batch of {size} and were left out")


def files_of_a_batch(record: Record, fitter: Fitter, reader: BatchReader) -> int:
    """How many records like this one ``cut`` makes a batch of; 1 if one record has more than that."""
    plan = reader.plan(record)
    return -(-_size(fitter, plan, False) // max(plan.count, 1)) if plan.mode in ("rows", "lift") else 1


def _size(fitter: Fitter, plan: Plan, alone: bool) -> int:
    """Rows of a batch that is cut from stacked samples, or gathered from single ones."""
    if not isinstance(fitter.batch, str):
        return fitter.batch_size
    if plan.mode == "lift":
        return max(1, fitter.batch_limits[0])
    best = fitter.batch_size
    if alone and plan.count < 4 * best:  # a part is to be kept aside for the gate
        best = min(best, max(1, fitter.batch_limits[0], plan.count // 4))
    return best
