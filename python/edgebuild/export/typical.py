"""Goldens of the user's own data: what calibration data hold takes the place of random numbers.

On noise a trained model's activations lie elsewhere than in use: quantised, a classifier of digits keeps 42 dB on digits and 1 dB on
noise, and goldens of noise would then let any INT8 kernel pass.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgebuild.errors import CalibrationError
from edgebuild.model.request import DataRequest
from edgebuild.model.resolve import last_line
from edgebuild.model.samples import SETS
from edgebuild.model.signature import Signature
from edgebuild.model.source import Inputs, ModelSource


def with_data(source: ModelSource, data: DataRequest) -> ModelSource:
    """The source, with samples from calibration data in place of random ones; of sizes that the data lack, cut and repeated.

    One random sample would spoil all of them: a quantised model's tolerance is of its worst error.

    Args:
        source: A loaded model; its first sample has the best sizes, and so has that of the result.
        data: Where the data lie.

    Raises:
        CalibrationError: The data do not fit the model, or it refuses them.
    """
    from edgebuild.data.first import first_batches

    signature = Signature(inputs=source.inputs, outputs=(), symbols=source.symbols)
    found = first_batches(Path(data.path), signature, preprocess=data.preprocess, count=SETS)
    names = [spec.name for spec in source.inputs]
    typical: list[Inputs] = []
    for where, arrays in found:
        if any(name not in arrays for name in names):
            continue  # an optional input that this model always gets
        sample = {name: arrays[name] for name in names}
        try:
            source.reference(sample)
        except Exception as error:  # whatever the model raises
            msg = f"--calib {data.path}: the model refuses {where}: {last_line(error)}"
            raise CalibrationError(msg, hint="check names, dtypes, sizes and values of the arrays") from None
        typical.append(sample)
    return replace(source, samples=_merged(_resized(source.samples, typical, source.reference), typical))


def _resized(random: Sequence[Inputs], typical: Sequence[Inputs], run: Callable[[Inputs], Any]) -> list[Inputs]:
    """Random samples of sizes that no data have, with data cut or repeated to these sizes in their place where the model takes them."""
    covered = {_same(_shapes(sample)) for sample in typical}
    found = []
    for number, sample in enumerate(random if typical else ()):
        begin = number % len(typical)
        others = [*typical[begin:], *typical[:begin]]
        made = None if _same(_shapes(sample)) in covered else _of_sizes(others, _shapes(sample))
        if made is not None:
            try:
                run(made)
            except Exception:  # a refusal is an answer: lengths, for example, are beyond a sequence that was cut
                made = None
        found.append(sample if made is None else made)
    return found or list(random)


def _of_sizes(typical: Sequence[Inputs], shapes: Mapping[str, tuple[int, ...]]) -> Inputs | None:
    """Rows of all samples of the first one's sizes, then cut or begun anew along each axis; None: there is nothing to repeat."""
    alike = [sample for sample in typical if _shapes(sample) == _shapes(typical[0])]
    made = {}
    for name, shape in shapes.items():
        first = np.asarray(typical[0][name])
        if first.ndim != len(shape) or (0 in first.shape and first.shape != shape):
            return None
        array = np.concatenate([sample[name] for sample in alike]) if shape and shape[0] != first.shape[0] else first
        for axis, size in enumerate(shape):
            array = array[(slice(None),) * axis + (np.arange(size) % max(array.shape[axis], 1),)]
        made[name] = np.require(array, requirements="C")
    return made


def _merged(random: Sequence[Inputs], typical: Sequence[Inputs]) -> tuple[Inputs, ...]:
    """Samples of the best sizes first, typical ones before random ones; other sizes stay.

    Where a single sample would not show what tracing baked in, random ones fill up.
    """
    best = _shapes(random[0])
    covered = {_same(_shapes(sample)) for sample in typical}
    kept = [sample for sample in random if _same(_shapes(sample)) not in covered]
    spare = [sample for sample in random if _same(_shapes(sample)) in covered]
    merged = [*typical, *kept]
    if len(typical) < 2:
        merged += spare[: max(0, SETS - len(merged))]
    return tuple(sorted(merged, key=lambda sample: _shapes(sample) != best))


def _shapes(sample: Inputs) -> Mapping[str, tuple[int, ...]]:
    return {name: tuple(np.shape(value)) for name, value in sample.items()}


def _same(shapes: Mapping[str, tuple[int, ...]]) -> Any:
    return tuple(sorted(shapes.items()))
