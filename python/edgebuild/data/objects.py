"""Calibration data from Python: DataLoaders, generators, arrays, ``module:callable``."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebuild.errors import CalibrationError, EdgebuildError
from edgebuild.model.importing import import_attribute, searching
from edgebuild.model.resolve import first_line, last_line

Array = NDArray[Any]
Note = Callable[[str], None]


def import_batches(text: str, search_path: Sequence[str]) -> Any:
    """What ``module:callable`` gives: the callable's result, or the object itself if it is iterable.

    Raises:
        CalibrationError: It can't be imported, takes arguments, fails, or gives nothing that can be iterated.
    """
    found = import_attribute(
        text, search_path, option="--calib", noun="callable", example="mydata:batches", error=CalibrationError
    )
    if not callable(found) or hasattr(found, "__iter__"):
        return found
    try:
        with searching(search_path):
            return found()
    except EdgebuildError:
        raise
    except Exception as error:  # the user's code may raise anything
        msg = f"--calib {text}: the callable failed: {type(error).__name__}: {first_line(error)}"
        raise CalibrationError(msg, hint="it takes no arguments; bind them in a function of your own") from None


def iterate(
    source: Any, name: str, inputs: Sequence[str], note: Note, search_path: Sequence[str]
) -> Iterator[tuple[str, dict[str, Array]]]:
    """``(where, {input: array})`` of each item of an iterable or a map-style data set, in order.

    Raises:
        CalibrationError: It can't be iterated, or an item is not what a model with these inputs takes.
    """
    iterator = _iterator(source, name)
    index = 0
    while True:
        where = f"batch {index} of {name}"
        try:
            with searching(search_path):
                item = next(iterator)
        except StopIteration:
            return
        except EdgebuildError:
            raise
        except Exception as error:  # the user's code may raise anything
            msg = f"{where}: the source failed: {type(error).__name__}: {first_line(error)}"
            raise CalibrationError(msg, hint="run the source by itself to see the whole error") from error
        yield where, arrays_of(item, where, inputs, note)
        index += 1


def _iterator(source: Any, name: str) -> Iterator[Any]:
    if not hasattr(source, "__iter__") and hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return (source[i] for i in range(len(source)))  # a map-style data set, which need not end with IndexError
    try:
        return iter(source)
    except TypeError:
        msg = f"{name}: expected something that yields batches, got {type(source).__name__}"
        raise CalibrationError(msg, hint="give a DataLoader, a generator, or a list of {input name: array}") from None


def arrays_of(item: Any, where: str, inputs: Sequence[str], note: Note) -> dict[str, Array]:
    """The arrays of one item: a mapping by input name, a tuple in the signature's order, or the only input's array."""
    if isinstance(item, Mapping):
        return {str(name): _array(value, where, str(name)) for name, value in item.items()}
    if not isinstance(item, list | tuple):
        if len(inputs) == 1:
            return {inputs[0]: _array(item, where, inputs[0])}
        msg = f"{where}: got one {type(item).__name__}, the model takes {len(inputs)} inputs: {', '.join(inputs)}"
        raise CalibrationError(msg, hint="yield {input name: array}, or a tuple in this order")
    if len(item) == 2 and isinstance(item[0], Mapping | list | tuple) and not _numbers(item[0]):
        note("pairs: their first element was taken as the inputs, the second as labels")
        return arrays_of(item[0], where, inputs, note)
    if _numbers(item) and len(inputs) == 1:
        return {inputs[0]: _array(item, where, inputs[0])}
    if len(item) == len(inputs) + 1:
        what = "the first element was" if len(inputs) == 1 else f"the first {len(inputs)} elements were"
        note(f"tuples of {len(item)}: {what} taken as the inputs, the last as labels")
    elif len(inputs) == 1 and len(item) > 1:
        note(f"tuples of {len(item)}: the first element was taken as the input, the rest was left aside")
    elif len(item) != len(inputs):
        msg = f"{where}: got {len(item)} elements, the model takes {len(inputs)} inputs: {', '.join(inputs)}"
        raise CalibrationError(msg, hint="yield {input name: array}, or a tuple in this order")
    return {name: _array(value, where, name) for name, value in zip(inputs, item, strict=False)}


def _numbers(item: Any) -> bool:
    """Whether it is a plain list of numbers, nested or not."""
    while isinstance(item, list | tuple) and item:
        item = item[0]
    return isinstance(item, bool | int | float | complex | np.number)


def _array(value: Any, where: str, name: str) -> Array:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        from edgebuild.model.values import to_numpy

        return to_numpy(value)
    try:
        array = np.asarray(value)
    except Exception as error:
        msg = f"{where}: input '{name}': can't make an array of {type(value).__name__}: {last_line(error)}"
        raise CalibrationError(msg, hint="give numpy arrays or torch tensors") from None
    if array.dtype == object and not all(isinstance(v, str | bytes) for v in array.reshape(-1)):
        msg = f"{where}: input '{name}': expected an array, got {type(value).__name__}"
        raise CalibrationError(msg, hint="give numpy arrays or torch tensors")
    return array


def is_stack(source: Any) -> bool:
    """Whether a source is itself one array, or one mapping of arrays by input name."""
    torch = sys.modules.get("torch")
    return isinstance(source, np.ndarray | Mapping) or (torch is not None and isinstance(source, torch.Tensor))


def describe(source: Iterable[Any]) -> str:
    """What messages call an object: its class and length."""
    return f"the {type(source).__name__}" if type(source).__name__ != "generator" else "the generator"
