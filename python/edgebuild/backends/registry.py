"""The backends, each with the Python half of what it owns: what it needs from a graph, and how it lowers one."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Protocol

from edgebuild.backends.candidate import Candidate, LoweredVariant
from edgebuild.errors import UsageError

MOST_THREADS = 1024
"""Of an option that is a number of threads."""

_MODULES = {name: f"edgebuild.backends.{name}" for name in ("onnxruntime", "libtorch", "tensorrt")}


class Backend(Protocol):
    """What a backend's module offers."""

    NAME: str
    ENGINE: str | None
    """The engine whose library the bundle carries (native/engines.toml); None: none."""

    FORM: str
    """What it is lowered from: "onnx" or "torchscript"."""

    LOWERING: str
    """Changes whenever ``lower`` would give other bytes; part of the cache key."""

    OPTIONS: dict[str, tuple[str, ...]]
    """Options of a variant, each with its values; none: a number, at most that of NUMBERS or MOST_THREADS."""

    NUMBERS: dict[str, int]
    """The most of options that are numbers; of those that are not in it, MOST_THREADS."""

    def lower(self, candidate: Candidate, options: dict[str, str], folder: Path) -> tuple[LoweredVariant, ...]:
        """Writes into ``folder`` what the backend loads at run time; none: it can't load such a graph."""


def find_backend(name: str) -> Backend:
    """The backend's module.

    Raises:
        UsageError: There is no backend of this name (yet).
    """
    if name not in _MODULES:
        msg = f"backend {name!r} can't be built for yet; available: {', '.join(_MODULES)}"
        raise UsageError(msg, hint=f"leave it out: --backend {next(iter(_MODULES))}")
    module: Backend = import_module(_MODULES[name])
    return module


def options_of(name: str, options: Mapping[str, str], among: Sequence[str]) -> dict[str, str]:
    """Those of a build's options that a backend knows, where the build has several; all of them if none of ``among`` knows one."""
    known = find_backend(name).OPTIONS
    others = {option for other in among if other != name for option in find_backend(other).OPTIONS}
    return {option: value for option, value in options.items() if option in known or option not in others}


def check_options(name: str, options: Mapping[str, str]) -> None:
    """Says what is wrong with a variant's options before anything is built, in the words of the runner's own check.

    Raises:
        UsageError: The backend has no such option, or it does not take this value.
    """
    backend = find_backend(name)
    known = backend.OPTIONS
    for option, value in options.items():
        if option not in known:
            near = get_close_matches(option, known, 1)
            msg = f"the {name} backend has no option {option!r}; it knows {', '.join(known)}"
            raise UsageError(msg, hint=f"did you mean {near[0]}?" if near else None)
        values = known[option]
        most = backend.NUMBERS.get(option, MOST_THREADS)
        number = value.isascii() and value.isdigit() and int(value) <= most
        if value not in values if values else not number:
            choice = "" if option in backend.NUMBERS else " (the engine's choice)"
            wanted = f"one of {', '.join(values)}" if values else f"a number from 0{choice} to {most}"
            msg = f"option {option}: expected {wanted}, got {value!r}"
            raise UsageError(msg, hint=f"for example --option {option}={values[-1] if values else 2}")
