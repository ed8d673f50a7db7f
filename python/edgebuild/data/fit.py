"""How one input set as it was given becomes batches of the signature: names, element types, shapes, rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgebuild.data.arrays import LazyArray
from edgebuild.errors import CalibrationError
from edgebuild.model.signature import Dim, Signature, TensorType
from edgebuild.model.values import numpy_dtype

Array = NDArray[Any]
Note = Callable[[str], None]

Mode = Literal["whole", "rows", "lift", "sets"]
"""``whole``: the arrays are one batch. ``rows``: their rows are samples. ``lift``: one sample without its batch axis.
``sets``: a new first axis counts input sets."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to cut one input set; ``count`` is the number of rows or of input sets that ``start`` and ``stop`` refer to."""

    mode: Mode
    count: int

    def take(self, array: LazyArray, start: int, stop: int) -> Array:
        """The part of one array that lies in a batch."""
        if self.mode == "rows":
            return array.rows(start, stop)
        if self.mode == "sets":
            return np.asarray(array.rows(start, start + 1)[0])
        whole = array.whole()
        return whole[np.newaxis] if self.mode == "lift" else whole


class Fitter:
    """Fits input sets to a signature. Says a conversion once, however many arrays need it.

    Args:
        signature: Of the model. An optional input may be left out; sequences can't be calibrated with.
        note: Hears what was converted, split or left out.
    """

    def __init__(self, signature: Signature, note: Note) -> None:
        self.signature = signature
        self.types: dict[str, TensorType] = {}
        self.optional: set[str] = set()
        self.image_input: str | None = None  # the one that --preprocess makes
        self.note = note
        for spec in signature.inputs:
            if isinstance(spec.type, TensorType):
                self.types[spec.name] = spec.type
            elif spec.type.kind == "optional" and isinstance(spec.type.element, TensorType):
                self.types[spec.name] = spec.type.element
                self.optional.add(spec.name)
            else:
                msg = f"input '{spec.name}' is a {spec.type}; calibration takes tensors only"
                raise CalibrationError(msg, hint="build without --int8")
        for name, kind in self.types.items():
            try:
                numpy_dtype(kind.dtype)
            except TypeError:
                msg = f"input '{name}' is {kind}; NumPy has no such element type to calibrate with"
                raise CalibrationError(msg, hint="build without --int8") from None
        self.batch = self._batch_dim()

    def _batch_dim(self) -> Dim:
        """The size or symbol that every input has as its first axis; None if there is no such axis."""
        first = {t.shape[0] if t.shape else None for t in self.types.values()}
        return first.pop() if len(first) == 1 else None

    @property
    def batch_size(self) -> int:
        """Samples of a batch: the fixed size, or the best one of a dynamic axis; 1 if neither is known."""
        if isinstance(self.batch, str):
            span = self.signature.symbols.get(self.batch)
            return max(span.best, 1) if span is not None else 1
        return self.batch or 1

    @property
    def batch_limits(self) -> tuple[int, int | None]:
        """Fewest and most rows of a batch."""
        if isinstance(self.batch, str):
            span = self.signature.symbols.get(self.batch)
            return (span.minimum, span.maximum) if span is not None else (0, None)
        return (self.batch or 0, self.batch)

    def plan(self, arrays: Mapping[str, LazyArray], where: str) -> Plan:
        """Decides how to cut one input set, from its shapes.

        Raises:
            CalibrationError: A name is missing or unknown, or a rank or size fits in no way.
        """
        self._check_names(arrays, where)
        given = {name: arrays[name].shape for name in self.types if name in arrays}
        wanted = {name: self.types[name].shape for name in given}
        if all(_fits(wanted[n], given[n]) for n in given):
            leading = {shape[:1] for shape in given.values()}
            rows = leading.pop()[0] if self.batch is not None and len(leading) == 1 else 1
            most = self.batch_limits[1]
            return Plan(mode="whole" if most is None or rows <= most else "rows", count=rows)
        ranks = {n: len(shape) for n, shape in wanted.items() if shape is not None}
        if len(ranks) == len(given) and given:
            if all(len(given[n]) == ranks[n] for n in given) and isinstance(self.batch, int):
                rest = all(_fits((wanted[n] or ())[1:], given[n][1:]) for n in given)
                if rest and len({given[n][0] for n in given}) == 1:
                    return Plan(mode="rows", count=next(iter(given.values()))[0])
            if self.batch is not None and all(_fits((wanted[n] or ())[1:], given[n]) for n in given):
                self.note("samples without a batch axis: it was added")
                return Plan(mode="lift", count=1)
            stacked = all(given[n] and _fits(wanted[n], given[n][1:]) for n in given)
            if stacked and len({shape[0] for shape in given.values()}) == 1:
                self.note("arrays with one axis more than the model's: their first axis counts input sets")
                return Plan(mode="sets", count=next(iter(given.values()))[0])
        name = next(n for n in given if not _fits(wanted[n], given[n]))
        msg = f"{where}: input '{name}': expected {self.types[name]}, got {arrays[name].dtype}{_text(given[name])}"
        raise CalibrationError(msg, hint=self._shape_hint(name, given[name]))

    def _shape_hint(self, name: str, given: tuple[int, ...]) -> str:
        wanted = self.types[name].shape or ()
        if len(wanted) == len(given) == 4 and (given[1:] == (*_tail(wanted)[1:], _tail(wanted)[0])):
            return "the array is NHWC, the model takes NCHW: transpose it, array.transpose(0, 3, 1, 2)"
        if name == self.image_input:
            size = wanted[-3:-1] if wanted and wanted[-1] in (1, 3) else wanted[-2:]
            text = "x".join(str(n) for n in size) if all(isinstance(n, int) for n in size) else "HxW"
            return (
                f"images must come to the model's size: --preprocess with resize={text}, or crop={text}, as in training"
            )
        text = "give arrays of this shape, or stack samples along the first axis"
        if len(given) == len(wanted) - 1 and isinstance(wanted[0], int):  # one sample without its batch axis
            given = (wanted[0], *given)
        pairs = list(zip(wanted, given, strict=False))[1:] if len(wanted) == len(given) else []
        axis = next((i for i, (size, got) in enumerate(pairs, 1) if isinstance(size, int) and size != got), None)
        if axis is None:
            return text
        first = wanted[0] if isinstance(wanted[0], int) else given[0]
        sizes = ",".join(map(str, (first, *given[1:])))
        own = f"if they are the model's own sizes: --input '{name}:{self.types[name].dtype}[{sizes}]'"
        return f"{text}; {own}; if axis {axis} may have any size: --dynamic '{name}:{axis}=SYMBOL'"

    def _check_names(self, arrays: Mapping[str, LazyArray], where: str) -> None:
        known = ", ".join(self.types)
        for name in arrays:
            if name not in self.types:
                msg = f"{where}: unknown input '{name}', the model takes {known}"
                hint = "name the arrays as the model's inputs, and leave out what is none, e.g. labels"
                raise CalibrationError(msg, hint=hint)
        for name in self.types:
            if name not in arrays and name not in self.optional:
                msg = f"{where}: input '{name}' is missing, got {', '.join(arrays) or 'no array'}"
                raise CalibrationError(msg, hint=f"the model takes {known}")

    def convert(self, array: Array, name: str, where: str) -> Array:
        """One array of a batch in the signature's element type, C-contiguous, in the machine's byte order; finite.

        Raises:
            CalibrationError: Converting would lose more than precision, or there is a NaN or an infinity.
        """
        wanted = numpy_dtype(self.types[name].dtype)
        got = array.dtype.newbyteorder("=")
        if got != wanted:
            array = self._cast(array, name, wanted, where)
        array = np.require(array, dtype=wanted, requirements=["C", "A"])
        if self.types[name].dtype.startswith(("float", "bfloat", "complex")):
            check_finite(array, name, where)
        return array

    def _cast(self, array: Array, name: str, wanted: np.dtype[Any], where: str) -> Array:
        ours, got = self.types[name].dtype, array.dtype
        if ours == "string" and got.kind in "US":
            return array.astype(object)
        raw = got.itemsize == wanted.itemsize and got.kind in "Vu"
        if raw and ours.startswith(("bfloat", "float8")):  # NumPy lacks these types: files hold raw bytes
            return array.view(wanted)
        floats = got.kind == "f" and (wanted.kind == "f" or ours.startswith("bfloat"))
        widening = got.kind in "biu" and wanted.kind in "iu" and ours != "bool"
        if floats or widening or (got.kind == "c" and wanted.kind == "c"):
            with np.errstate(all="ignore"):  # what overflows is found below, with its place
                made = array.astype(wanted)
            if floats and np.isfinite(array).all():
                check_finite(made, name, where, f"a value beyond {ours}")
            if widening and (_wrapped(array, made) or not np.array_equal(made.astype(got), array)):
                value = array.reshape(-1)[np.argmax((made.astype(object) != array.astype(object)).reshape(-1))]
                msg = f"{where}: input '{name}': {value} ({got}) is beyond {ours}"
                raise CalibrationError(msg, hint=f"give values that fit {ours}")
            self.note(f"input '{name}': {got.newbyteorder('=')} was converted to {ours}")
            return made
        msg = f"{where}: input '{name}': expected {self.types[name]}, got {got}{_text(array.shape)}"
        hint = f"convert it as the model was trained, e.g. array.astype('{ours}')"
        if got == np.uint8 and ours.startswith("float") and array.ndim >= 3:
            hint = "images need the preprocessing of the training: --preprocess, or convert and normalise them yourself"
        raise CalibrationError(msg, hint=hint)

    def check_symbols(self, batch: Mapping[str, Array], where: str) -> None:
        """Sees that one symbol stands for one size inside a batch, and that the size is in its range.

        Raises:
            CalibrationError: It does not; names the tensors.
        """
        sizes: dict[str, tuple[int, str]] = {}
        for name, array in batch.items():
            for axis, (dim, size) in enumerate(zip(self.types[name].shape or (), array.shape, strict=False)):
                if not isinstance(dim, str):
                    continue
                first, source = sizes.setdefault(dim, (size, name))
                if size != first:
                    msg = f"{where}: '{dim}' is {first} in input '{source}' and {size} in axis {axis} of input '{name}'"
                    raise CalibrationError(msg, hint="one name stands for one size inside a batch")
                span = self.signature.symbols.get(dim)
                if span is not None and (size < span.minimum or (span.maximum is not None and size > span.maximum)):
                    most = "unbounded" if span.maximum is None else span.maximum
                    msg = f"{where}: input '{name}': axis {axis} ({dim}): expected {span.minimum} to {most}, got {size}"
                    raise CalibrationError(msg, hint="give other arrays, or widen the range with --dynamic")


def _tail(shape: Sequence[Dim]) -> tuple[Dim, ...]:
    return tuple(shape[1:])


def _fits(wanted: Sequence[Dim] | None, given: Sequence[int]) -> bool:
    """Whether sizes are those of a shape; symbols and unknown sizes take any."""
    if wanted is None:
        return True
    return len(wanted) == len(given) and all(
        not isinstance(w, int) or w == g for w, g in zip(wanted, given, strict=True)
    )


def _wrapped(array: Array, made: Array) -> bool:
    """Whether a cast between signed and unsigned integers changed a sign."""
    if array.dtype.kind == made.dtype.kind or array.dtype.kind == "b" or not array.size:
        return False
    return int(array.min()) != int(made.min()) or int(array.max()) != int(made.max())


def check_finite(array: Array, name: str, where: str, what: str = "") -> None:
    """Raises CalibrationError at the first value that is no finite number; ``what`` it is called instead of NaN or infinity."""
    finite = np.isfinite(array)
    if finite.all():
        return
    index = tuple(int(i) for i in np.unravel_index(int(np.argmin(finite)), array.shape))
    value = array[index]
    shown = what or ("NaN" if np.isnan(value) else "infinity")
    count = int(array.size - np.count_nonzero(finite))
    msg = f"{where}: input '{name}': {shown} at {_text(index)} ({count} of {array.size} elements)"
    raise CalibrationError(msg, hint="calibration needs finite numbers: leave this sample out, or repair its source")


def _text(numbers: Sequence[int]) -> str:
    return f"[{','.join(map(str, numbers))}]"
