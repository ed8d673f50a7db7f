"""Strict reading of TOML: every key is asked for by type, and what nobody asked for is an error."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar, overload

from edgebuild.errors import UsageError

T = TypeVar("T")


class _Required:
    """Stands for "no default": None is a default of its own."""


_REQUIRED = _Required()


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A hint with the known name that is nearest to ``name``, or None if none is near."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else None


def describe(value: object) -> str:
    """A TOML value as an error shows it: its text for scalars, its kind for the rest."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'the string "{value}"'
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Mapping):
        return "a table"
    return "an array" if isinstance(value, Sequence) else type(value).__name__


class Table:
    """One TOML table that is being read.

    Args:
        data: What tomllib made of it.
        file: Its file, as errors name it.
        path: Keys that lead to it, e.g. "soc"; empty for the file's top.
    """

    def __init__(self, data: Mapping[str, Any], *, file: str, path: str = "") -> None:
        self._data = data
        self._file = file
        self._path = path
        self._asked: list[str] = []

    def has(self, key: str) -> bool:
        self._asked.append(key)
        return key in self._data

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def fail(self, key: str, expected: str, got: str) -> NoReturn:
        """Raises UsageError: file, key, expected and got."""
        msg = f"{self._file}: {self._name(key)}: expected {expected}, got {got}"
        raise UsageError(msg)

    def unknown(self, key: str, known: Iterable[str]) -> NoReturn:
        """Raises UsageError for a key that nobody knows, with the nearest one that is known."""
        names = sorted(set(known))
        msg = f"{self._file}: unknown key {self._name(key)}"
        hint = did_you_mean(key, names) or f"known here: {', '.join(names)}"
        raise UsageError(msg, hint=hint)

    def finish(self, known: Sequence[str] = ()) -> None:
        """Raises UsageError if the table holds a key that was not asked for and is not in ``known``."""
        names = [*self._asked, *known]
        for key in self._data:
            if key not in names:
                self.unknown(key, names)

    @overload
    def string(self, key: str, *, pattern: re.Pattern[str] | None = None, form: str = ...) -> str: ...
    @overload
    def string(self, key: str, *, pattern: re.Pattern[str] | None = None, form: str = ..., default: T) -> str | T: ...
    def string(
        self, key: str, *, pattern: re.Pattern[str] | None = None, form: str = "a string", default: Any = _REQUIRED
    ) -> Any:
        value = self._get(key, form, default)
        if value is default:
            return value
        if not isinstance(value, str) or not value or (pattern and not pattern.fullmatch(value)):
            self.fail(key, form, describe(value))
        return value

    @overload
    def integer(self, key: str, *, minimum: int, unit: str = "") -> int: ...
    @overload
    def integer(self, key: str, *, minimum: int, unit: str = "", default: T) -> int | T: ...
    def integer(self, key: str, *, minimum: int, unit: str = "", default: Any = _REQUIRED) -> Any:
        form = f"an integer of at least {minimum}" + (f" in {unit}, without the unit" if unit else "")
        value = self._get(key, form, default)
        if value is default:
            return value
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            self.fail(key, form, describe(value))
        return value

    def boolean(self, key: str, *, default: bool | _Required = _REQUIRED) -> bool:
        value = self._get(key, "true or false", default)
        if not isinstance(value, bool):
            self.fail(key, "true or false", describe(value))
        return value

    def choice(self, key: str, choices: Sequence[str]) -> str:
        form = f"one of {', '.join(choices)}"
        value = self._get(key, form, _REQUIRED)
        self._check_choice(key, value, choices)
        return str(value)

    def strings(
        self,
        key: str,
        *,
        choices: Sequence[str] | None = None,
        default: tuple[str, ...] | _Required = _REQUIRED,
    ) -> tuple[str, ...]:
        form = "an array of strings"
        value = self._get(key, form, default)
        if isinstance(value, tuple):
            return value
        if not isinstance(value, list):
            self.fail(key, form, describe(value))
        for index, item in enumerate(value):
            if choices is not None:
                self._check_choice(f"{key}[{index}]", item, choices)
            elif not isinstance(item, str) or not item:
                self.fail(f"{key}[{index}]", "a string", describe(item))
        if len(set(value)) != len(value):
            self.fail(key, "each string once", ", ".join(sorted({v for v in value if value.count(v) > 1})) + " twice")
        if choices is not None and not value:
            self.fail(key, f"at least one of {', '.join(choices)}", "none")
        return tuple(value)

    def string_map(self, key: str) -> dict[str, str]:
        """A table of strings; empty if the key is absent."""
        section = self.table(key, optional=True)
        return {name: section.string(name) for name in section}

    def table(self, key: str, *, optional: bool = False) -> "Table":
        value = self._get(key, "a table", {} if optional else _REQUIRED)
        if not isinstance(value, dict):
            self.fail(key, f"a table [{key}]", describe(value))
        return Table(value, file=self._file, path=self._name(key))

    def tables(self, key: str) -> tuple["Table", ...]:
        """An array of tables with at least one entry."""
        form = f"one or more tables [[{self._name(key)}]]"
        value = self._get(key, form, _REQUIRED)
        if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
            self.fail(key, form, "an empty array" if value == [] else describe(value))
        return tuple(
            Table(item, file=self._file, path=f"{self._name(key)}[{index}]") for index, item in enumerate(value)
        )

    def _get(self, key: str, form: str, default: Any) -> Any:
        self._asked.append(key)
        if key in self._data:
            return self._data[key]
        if isinstance(default, _Required):
            msg = f"{self._file}: {self._name(key)} is missing: expected {form}"
            near = [name for name in get_close_matches(key, list(self._data), n=1, cutoff=0.6) if name != key]
            raise UsageError(msg, hint=f"is {self._name(near[0])} meant to be it?" if near else None)
        return default

    def _check_choice(self, key: str, value: object, choices: Sequence[str]) -> None:
        if value in choices:
            return
        msg = f"{self._file}: {self._name(key)}: expected one of {', '.join(choices)}, got {describe(value)}"
        raise UsageError(msg, hint=did_you_mean(str(value), choices))

    def _name(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key
