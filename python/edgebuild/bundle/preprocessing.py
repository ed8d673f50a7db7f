"""The rules of a manifest's ``preprocessing``."""

from collections.abc import Mapping
from typing import Any

from edgebuild.data.image_spec import (
    CHANNELS,
    DTYPES,
    INTERPOLATIONS,
    LAYOUTS,
    MAX_SIDE,
    fit_problem,
    values_problem,
)

Problem = tuple[str, str, Any]
"""Where, what was expected, what came."""

_CHOICES = {
    "kind": ("image",),
    "interpolation": INTERPOLATIONS,
    "channels": CHANNELS,
    "layout": LAYOUTS,
    "dtype": DTYPES,
}


def find_problem(value: Any, types: Mapping[str, Any]) -> Problem | None:
    """The first rule that is broken; None if all is well.

    Args:
        value: Of the key ``preprocessing``.
        types: The inputs' types by name, checked.
    """
    if value is None:
        return None
    where = "preprocessing"
    if not isinstance(value, dict) or not isinstance(value.get("inputs"), dict) or not value["inputs"]:
        return where, "null or an object whose 'inputs' has an entry for each input that images are made into", value
    for name, spec in value["inputs"].items():
        here = f"{where}.inputs[{name!r}]"
        if name not in types:
            return here, f"an input of the signature ({', '.join(types)})", name
        problem = _image_problem(here, spec)
        if problem is not None:
            return problem
        misfit = fit_problem(spec, types[name])
        if misfit is not None:
            return here, "tensors that the input takes", misfit
    return None


def _image_problem(where: str, spec: Any) -> Problem | None:
    if not isinstance(spec, dict):
        return where, "an object", spec
    for key in (*_CHOICES, "resize", "crop", "scale", "mean", "std"):
        if key not in spec:
            return f"{where}.{key}", "a value", "nothing: the key is missing"
    for key, choices in _CHOICES.items():
        if not isinstance(spec[key], str) or spec[key] not in choices:
            return f"{where}.{key}", f"one of {', '.join(choices)}", spec[key]
    for key in ("resize", "crop"):
        if not _is_size(spec[key], shorter=key == "resize"):
            return f"{where}.{key}", f"null or sides from 1 to {MAX_SIDE}", spec[key]
    count = 1 if spec["channels"] == "gray" else 3
    for key in ("mean", "std"):
        numbers = spec[key]
        if not isinstance(numbers, list) or len(numbers) != count or not all(map(_is_number, numbers)):
            return f"{where}.{key}", f"a list of {count} numbers, one a channel", numbers
    if not _is_number(spec["scale"]):
        return f"{where}.scale", "a number", spec["scale"]
    problem = values_problem(spec["scale"], spec["mean"], spec["std"], spec["dtype"])
    return None if problem is None else (where, "numbers that make sense", problem)


def _is_size(value: Any, *, shorter: bool) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict):
        return False
    if shorter and "shorter" in value:
        return _is_side(value["shorter"]) and not {"height", "width"} & set(value)
    return _is_side(value.get("height")) and _is_side(value.get("width"))


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_SIDE


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
