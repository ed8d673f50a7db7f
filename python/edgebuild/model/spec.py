"""Parses what ``--input``, ``--dynamic`` and ``--arg`` say. Needs neither torch nor numpy."""

import difflib
import math
import re
from typing import Any

from edgebuild.errors import UsageError
from edgebuild.model.request import DynamicRequest, InputRequest
from edgebuild.model.signature import DTYPES

_ALIASES = {"float": "float32", "half": "float16", "double": "float64", "long": "int64", "int": "int32"}
_INPUT, _DYNAMIC, _ARG = "--input", "--dynamic", "--arg"
_MAX_RANK = 16
_MAX_SIZE = 2**53 - 1
_INPUT_HINT = "--input 'x:float32[1,3,224,224]', or without a name 'float32[1,3,224,224]'"
_DYNAMIC_HINT = "--dynamic 'x:0=batch[1..8..32]', or 'x:0=batch'; multiples of 16: 'x:2=h[32..64..128/16]'"
_RANGE = re.compile(r"\[\s*(?:([0-9]*)\s*\.\.\s*([0-9]*)\s*(?:\.\.\s*([0-9]*)\s*)?)?(?:/\s*([0-9]+)\s*)?\]\s*")
_ARG_HINT = "--arg sr=16000; values are integers, floats, true, false, none, or text"


def _fail(flag: str, text: str, column: int, what: str, hint: str) -> UsageError:
    """The error at ``column`` (from 0), with the place marked by its 1-based column."""
    msg = f"{flag} '{text}': {what} at column {column + 1}"
    return UsageError(msg, hint=f"for example {hint}")


def parse_input(text: str) -> InputRequest:
    """Parses ``[name:]dtype[dims]``; the name ends at the last ``:`` before the dtype, so it may hold ``:`` itself.

    Raises:
        UsageError: Names the column and gives an example.
    """
    opening = text.rfind("[")
    if opening < 0:
        raise _fail(_INPUT, text, len(text), "expected '[' and the sizes", _INPUT_HINT)
    closing = text.find("]", opening)
    if closing < 0:
        raise _fail(_INPUT, text, len(text), "expected ']'", _INPUT_HINT)
    if text[closing + 1 :].strip():
        raise _fail(_INPUT, text, closing + 1, f"unexpected '{text[closing + 1 :].strip()}'", _INPUT_HINT)
    colon = text.rfind(":", 0, opening)
    name = text[:colon].strip() if colon >= 0 else None
    if name == "":
        raise _fail(_INPUT, text, 0, "the name before ':' is empty", _INPUT_HINT)
    dtype = text[colon + 1 : opening].strip()
    if not dtype:
        raise _fail(_INPUT, text, colon + 1, "expected a dtype", _INPUT_HINT)
    dtype = _ALIASES.get(dtype, dtype)
    if dtype not in DTYPES:
        near = difflib.get_close_matches(dtype, [*DTYPES, *_ALIASES], 1, 0.5)
        guess = f", did you mean '{near[0]}'?" if near else ""
        raise _fail(_INPUT, text, colon + 1, f"unknown dtype '{dtype}'{guess}", _INPUT_HINT)
    shape: list[int] = []
    inner = text[opening + 1 : closing]
    place = opening + 1
    for part in inner.split(",") if inner.strip() else ():
        word = part.strip()
        if not re.fullmatch(r"[0-9]+", word):
            what = f"expected a size of 0 or more, got '{word}'" if word else "expected a size"
            hint = f"{_INPUT_HINT}; give a size here and say --dynamic for an axis that may change"
            raise _fail(_INPUT, text, place, what, hint)
        if int(word) > _MAX_SIZE:
            raise _fail(_INPUT, text, place, f"size {word} is too large", _INPUT_HINT)
        shape.append(int(word))
        place += len(part) + 1
    if len(shape) > _MAX_RANK:
        raise _fail(_INPUT, text, opening, f"expected at most {_MAX_RANK} sizes, got {len(shape)}", _INPUT_HINT)
    return InputRequest(name=name, dtype=dtype, shape=tuple(shape))


def parse_dynamic(text: str) -> DynamicRequest:
    """Parses ``name:axis=symbol[min..best..max/step]``; the range is optional, so is each of its numbers; axes may be negative.

    Sizes are multiples of the step; ``symbol[/step]`` gives it alone.

    Raises:
        UsageError: Names the column and gives an example.
    """
    places = list(re.finditer(r":\s*(-?[0-9]+)\s*=", text))
    match = places[-1] if places else None  # the last one: names may hold ':' themselves
    if match is None:
        equals = text.find("=")
        if equals < 0:
            raise _fail(_DYNAMIC, text, len(text), "expected '=symbol'", _DYNAMIC_HINT)
        colon = text.rfind(":", 0, equals)
        if colon < 0:
            raise _fail(_DYNAMIC, text, equals, "expected ':axis' after the input's name", _DYNAMIC_HINT)
        got = text[colon + 1 : equals].strip()
        raise _fail(_DYNAMIC, text, colon + 1, f"expected the axis as an integer, got '{got}'", _DYNAMIC_HINT)
    name = text[: match.start()].strip()
    if not name:
        raise _fail(_DYNAMIC, text, 0, "expected the input's name", _DYNAMIC_HINT)
    rest, offset = text[match.end() :], match.end()
    head = re.match(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*", rest)
    if head is None:
        raise _fail(_DYNAMIC, text, offset, "expected a symbol (letters, digits, '_')", _DYNAMIC_HINT)
    axis, symbol = int(match.group(1)), head.group(1)
    rest, offset = rest[head.end() :], offset + head.end()
    if not rest:
        return DynamicRequest(input=name, axis=axis, symbol=symbol)
    bounds = _RANGE.fullmatch(rest)
    if bounds is None or (bounds.group(1) is None and bounds.group(4) is None):
        raise _fail(_DYNAMIC, text, offset, f"expected '[min..best..max]', got '{rest}'", _DYNAMIC_HINT)
    *numbers, step = [int(word) if word else None for word in bounds.groups()]
    if step == 0:
        raise _fail(_DYNAMIC, text, offset, "expected a step of 1 or more after '/', got 0", _DYNAMIC_HINT)
    minimum, best, maximum = numbers if bounds.group(3) is not None else (numbers[0], None, numbers[1])
    order = [n for n in (minimum, best, maximum) if n is not None]
    if order != sorted(order):
        raise _fail(_DYNAMIC, text, offset, f"expected min <= best <= max, got {rest.strip()}", _DYNAMIC_HINT)
    if step is not None and any(n % step for n in order):
        what = f"expected multiples of {step}, got {rest.strip()}"
        raise _fail(_DYNAMIC, text, offset, what, _DYNAMIC_HINT)
    return DynamicRequest(input=name, axis=axis, symbol=symbol, minimum=minimum, best=best, maximum=maximum, step=step)


def parse_argument(text: str) -> tuple[str, Any]:
    """Parses ``name=value``: an integer, a float, ``true``, ``false``, ``none``, else text (quote it to keep ``'1'`` text).

    Raises:
        UsageError: Names the column and gives an example.
    """
    name, equals, value = text.partition("=")
    name = name.strip()
    if not equals:
        raise _fail(_ARG, text, len(text), "expected '=value'", _ARG_HINT)
    if not name:
        raise _fail(_ARG, text, 0, "expected a name before '='", _ARG_HINT)
    word = value.strip()
    lower = word.lower()
    if lower in ("true", "false"):
        return name, lower == "true"
    if lower in ("none", "null"):
        return name, None
    if len(word) >= 2 and word[0] == word[-1] and word[0] in "'\"":
        return name, word[1:-1]
    if re.fullmatch(r"[+-]?[0-9]+", word):
        return name, int(word)
    try:
        number = float(word)
    except ValueError:
        return name, value
    if not math.isfinite(number):
        raise _fail(_ARG, text, len(name) + 1, f"expected a finite number, got '{word}'", _ARG_HINT)
    return name, number


def parse_arguments(texts: "list[str] | tuple[str, ...]") -> dict[str, Any]:
    """Parses every ``--arg``; a name may come once.

    Raises:
        UsageError: A name comes twice, or as in ``parse_argument``.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, value = parse_argument(text)
        if name in found:
            msg = f"--arg {name} is given twice: {found[name]!r} and {value!r}"
            raise UsageError(msg, hint="give it once")
        found[name] = value
    return found
