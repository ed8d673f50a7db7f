"""Which of an engine's libraries a board's bundle carries, and whether it carries a C library of its own."""

from dataclasses import dataclass
from pathlib import Path

from edgebuild.errors import IncompatibleError
from edgebuild.native.engines import EngineFiles, EnginePin
from edgebuild.targets import OperatingSystem


@dataclass(frozen=True, kw_only=True)
class EngineLayout:
    """What goes along with an engine's library.

    Args:
        needed: Libraries, each after what it needs itself; their file names are those in a bundle.
        system: The C library, its loader first; empty: the board's own one serves.
        glibc: Version of the C library that the engine runs on: of the one in ``system``, else the board's oldest.
    """

    needed: tuple[Path, ...]
    system: tuple[Path, ...]
    glibc: str


def engine_layout(files: EngineFiles, os: OperatingSystem) -> EngineLayout:
    """Lays out an engine for the oldest system of a target.

    A board's own library is used where the target file says that every such board has it and its C and C++ libraries are young enough;
    with a C library of its own the bundle carries everything, because the two do not mix.

    Raises:
        IncompatibleError: The board's C library is too old for the engine, and there is none to go with it.
    """
    pin = files.pin
    if _is_too_new(pin, os):
        _refuse(pin, os, brings_libc=bool(files.system))
        return EngineLayout(
            needed=tuple(files.needed.values()), system=tuple(files.system.values()), glibc=files.system_glibc
        )
    old_cxx = _numbers(os.glibcxx) < _numbers(pin.glibcxx)
    own = {"libstdc++.so.6", "libgcc_s.so.1"} if old_cxx else set()
    provided = set(os.libraries) - own
    needed = tuple(path for soname, path in files.needed.items() if soname not in provided)
    return EngineLayout(needed=needed, system=(), glibc=os.glibc)


def check_engine(pin: EnginePin, os: OperatingSystem) -> None:
    """Finds out before anything is downloaded whether an engine can run on a target's oldest system. Raises as ``engine_layout``."""
    if _is_too_new(pin, os):
        _refuse(pin, os, brings_libc=pin.debian is not None and bool(pin.debian.system))


def _is_too_new(pin: EnginePin, os: OperatingSystem) -> bool:
    return _numbers(os.glibc) < _numbers(pin.glibc)


def _refuse(pin: EnginePin, os: OperatingSystem, *, brings_libc: bool) -> None:
    if not brings_libc:
        msg = f"{pin.engine} {pin.version} for {pin.arch} needs glibc {pin.glibc}, the target's oldest system has {os.glibc}"
        raise IncompatibleError(msg, hint="pin another version of the engine in the target file")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
