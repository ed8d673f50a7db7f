"""Holds the programs and libraries of a bundle to its target: what a board's loader would refuse is refused before it is packed."""

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgebuild.errors import IncompatibleError, ToolError
from edgebuild.native.elf import ElfError, ElfFile, VersionNeed, read_elf
from edgebuild.targets import TargetSpec

_LOADERS = {
    "x86_64": "/lib64/ld-linux-x86-64.so.2",
    "aarch64": "/lib/ld-linux-aarch64.so.1",
    "armv7l": "/lib/ld-linux-armhf.so.3",
    "riscv64": "/lib/ld-linux-riscv64-lp64d.so.1",
}
# e_machine and bits; all are little-endian.
_MACHINES = {"x86_64": (62, 64), "aarch64": (183, 64), "armv7l": (40, 32), "riscv64": (243, 64)}
_MACHINE_NAMES = {3: "x86 (32 bits)", 8: "MIPS", 21: "ppc64", 22: "s390", **{m: a for a, (m, _) in _MACHINES.items()}}
_ARM_SOFT_FLOAT = 0x200
_RISCV_FLOAT_ABI, _RISCV_DOUBLE = 0x6, 0x4
# Newest CXXABI of a libstdc++ by its newest GLIBCXX, from GCC's "ABI Policy and Guidelines".
_CXXABI = {
    (3, 4, 22): (1, 3, 10),
    (3, 4, 23): (1, 3, 11),
    (3, 4, 26): (1, 3, 12),
    (3, 4, 29): (1, 3, 13),
    (3, 4, 31): (1, 3, 14),
    (3, 4, 33): (1, 3, 15),
}


@dataclass(frozen=True, kw_only=True)
class NativeFile:
    """A program (under ``bin/``) or library (under ``lib/``) by its path in the bundle, and where it lies now."""

    path: str
    source: Path


def check_native_files(files: Iterable[NativeFile], target: TargetSpec) -> None:
    """Checks every program and library of a bundle.

    - Machine, word size, byte order and float ABI are the target's; a program asks for its standard loader.
    - Every library that one needs is in the bundle's ``lib/`` or among ``[os] libraries`` of the target.
    - Symbol versions that it wants of the system are not above ``[os] glibc`` and ``glibcxx``; those that it wants of a bundled library
      are defined there. A program is started by the system's loader, so it is held to the system even where libc is bundled.
    - RUNPATH and RPATH lead to folders of the bundle, from ``$ORIGIN``.

    Raises:
        IncompatibleError: One does not fit; names the file, the symbol or library, and the target's floor.
        ToolError: One is no ELF file or a damaged one.
    """
    read: dict[str, ElfFile] = {}
    for file in files:
        try:
            read[file.path] = read_elf(file.source)
        except ElfError as error:
            msg = f"{file.path} can't be used on {target.name}: {error}"
            raise ToolError(msg, hint=f"{file.source.name} is damaged or no native program; get it anew") from error
    libraries = {path.rpartition("/")[2]: elf for path, elf in read.items() if path.startswith("lib/")}
    libraries |= {elf.soname: elf for elf in libraries.values() if elf.soname}
    for path, elf in read.items():
        bundled = libraries if path.startswith("lib/") else {}
        for problem in (
            _wrong_machine(elf, target),
            _wrong_search(path, elf),
            _missing_library(elf, bundled, target),
            _missing_version(elf, bundled, target),
        ):
            if problem is not None:
                msg = f"{path} can't run on {target.name}: {problem}"
                raise IncompatibleError(msg, hint=_hint(path))


def newest_versions(elf: ElfFile) -> dict[str, str]:
    """The highest version of each namespace that a file wants, e.g. ``{"GLIBC": "2.28"}``."""
    newest: dict[str, tuple[int, ...]] = {}
    for need in elf.version_needs:
        space, number = _version(need.version)
        if number is not None:
            newest[space] = max(number, newest.get(space, number))
    return {space: _text(number) for space, number in sorted(newest.items())}


def _hint(path: str) -> str:
    if path.startswith("bin/"):
        return "the toolchain did not build for this target: correct [toolchain] and [os] of its file"
    return "take an older build of this library, or correct [os] of the target's file if boards have it"


def _wrong_machine(elf: ElfFile, target: TargetSpec) -> str | None:
    arch = target.soc.arch
    machine, bits = _MACHINES[arch]
    if (elf.machine, elf.bits, elf.little_endian) != (machine, bits, True):
        order = "little" if elf.little_endian else "big"
        found = _MACHINE_NAMES.get(elf.machine, f"machine {elf.machine}")
        return f"it is for {found}, {elf.bits} bits, {order}-endian; expected {arch}, {bits} bits, little-endian"
    if arch == "armv7l" and elf.flags & _ARM_SOFT_FLOAT:
        return "it passes floats in integer registers (armel); expected the hard-float ABI (armhf)"
    if arch == "riscv64" and elf.flags & _RISCV_FLOAT_ABI != _RISCV_DOUBLE:
        return "it does not pass floats in 64-bit float registers; expected the ABI lp64d"
    if elf.interpreter and elf.interpreter != _LOADERS[arch]:
        return f"it asks for the loader {elf.interpreter}, expected {_LOADERS[arch]}"
    return None


def _wrong_search(path: str, elf: ElfFile) -> str | None:
    folder = posixpath.dirname(path)
    for entry in elf.search:
        rest = re.sub(r"^\$(ORIGIN|\{ORIGIN\})(?=/|$)", folder, entry)
        if rest == entry or "$" in rest or posixpath.normpath(rest).split("/")[0] in ("..", "", "."):
            return f"it looks for libraries in {entry!r} (RUNPATH); expected $ORIGIN and folders of the bundle"
    return None


def _missing_library(elf: ElfFile, bundled: Mapping[str, ElfFile], target: TargetSpec) -> str | None:
    system = {*target.os.libraries, posixpath.basename(_LOADERS[target.soc.arch])}
    for name in elf.needed:
        if name not in bundled and name not in system:
            have = ", ".join(sorted(target.os.libraries))
            return f"it needs {name}, which is neither in the bundle nor in the target's system ({have})"
    return None


def _missing_version(elf: ElfFile, bundled: Mapping[str, ElfFile], target: TargetSpec) -> str | None:
    worst: tuple[tuple[int, ...], VersionNeed, str] | None = None
    for need in elf.version_needs:
        if need.weak:
            continue
        what = f"{need.symbol}@{need.version}" if need.symbol else need.version
        if need.library in bundled:
            if need.version not in bundled[need.library].version_definitions:
                return f"it needs {what} of {need.library}, which the bundled one does not have"
            continue
        space, number = _version(need.version)
        floor = _floor(space, target)
        if floor is None:
            continue
        if number is None:
            return f"it needs {what} of {need.library}, which no two releases share"
        if number > floor and (worst is None or number > worst[0]):
            worst = (
                number,
                need,
                f"it needs {what} of {need.library}, {target.name} has {space} {_text(floor)} at the oldest",
            )
    return worst[2] if worst else None


def _floor(space: str, target: TargetSpec) -> tuple[int, ...] | None:
    """Newest version of a namespace that every system of the target has; None: nothing is known of this namespace."""
    glibcxx = _numbers(target.os.glibcxx)
    if space == "GLIBC":
        return _numbers(target.os.glibc)
    if space == "GLIBCXX":
        return glibcxx
    if space == "CXXABI":
        return max((abi for version, abi in _CXXABI.items() if version <= glibcxx), default=None)
    return None


def _version(name: str) -> tuple[str, tuple[int, ...] | None]:
    """Namespace and numbers of "GLIBC_2.28"; numbers None for "GLIBC_PRIVATE"."""
    if name.startswith(
        "GLIBC_ABI_"
    ):  # markers of what the loader must know, e.g. GLIBC_ABI_DT_RELR; the first came with 2.36
        return "GLIBC", (2, 36)
    space, _, rest = name.rpartition("_")
    return space, _numbers(rest) if re.fullmatch(r"\d+(\.\d+)*", rest) else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _text(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
