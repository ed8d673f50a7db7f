"""Boards that this machine can't run: their programs under qemu-user, as the board's CPU, with its oldest system's libraries.

The emulator is one on PATH, else the pinned package that lies in the cache. Nothing here needs root or changes the machine.
"""

import difflib
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgebuild.cache import Cache, content_key
from edgebuild.errors import IncompatibleError, ToolError
from edgebuild.machine import machine_arch
from edgebuild.native.debian import fetch_package, package_entry, pinned_packages
from edgebuild.report import Progress

OLDEST = (10, 0)
"""qemu-user 7.2 crashes when it loads ONNX Runtime for aarch64; 10.0 runs it (measured)."""

_PROGRAMS = {"x86_64": "qemu-x86_64", "aarch64": "qemu-aarch64", "armv7l": "qemu-arm", "riscv64": "qemu-riscv64"}
_DEBIAN_ARCH = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "armhf", "riscv64": "riscv64"}
_MEMBERS = tuple(f"usr/bin/{program}" for program in _PROGRAMS.values())
_SYSTEMS = (("debian-11", "2.31"), ("debian-12", "2.36"), ("debian-13", "2.41"))
"""Sets of packages that stand for a board's system, with their C library's version, oldest first."""

_PLAINEST_CPU = {"x86_64": "Nehalem", "aarch64": "cortex-a53", "armv7l": "cortex-a7", "riscv64": "rv64"}
_ANY_TARGET = {
    "x86_64": "x86-64",
    "aarch64": "generic-aarch64",
    "armv7l": "raspberrypi2",
    "riscv64": "generic-riscv64",
}
"""A target of each architecture whose emulator serves for boards that are not known here."""

_PROBE_LIMIT_S = 20


@dataclass(frozen=True, kw_only=True)
class Emulator:
    """How programs for one kind of board are run here.

    Args:
        program: The emulator.
        version: Its version, e.g. "10.0.13".
        arch: Architecture of the programs that it runs.
        cpu: The CPU model that it stands for.
        root: Folder with the loader and libraries that programs get to see in place of this machine's.
        system: What those libraries are, e.g. "debian-11 (glibc 2.31)".
    """

    program: Path
    version: str
    arch: str
    cpu: str
    root: Path
    system: str

    def __str__(self) -> str:
        return f"{_PROGRAMS[self.arch]} {self.version} as {self.cpu}"

    def command(self, words: Sequence[str]) -> list[str]:
        """The command line that runs a program of the board with its arguments."""
        return [str(self.program), "-cpu", self.cpu, "-L", str(self.root), *words]

    def environment(self) -> dict[str, str]:
        """This process's environment without what is meant for this machine's loader, or would change the emulator."""
        return {name: value for name, value in os.environ.items() if not name.startswith(("LD_", "QEMU_"))}

    @property
    def identity(self) -> list[str]:
        """What a result that was got with it holds for."""
        own = [] if os.environ.get("QEMU_LD_PREFIX", "") != self.system else _contents(self.root)
        return [self.arch, self.cpu, self.version, self.system, *map(str, _stamp(self.program)), *own]

    def to_json(self) -> dict[str, str]:
        """For reports."""
        return {"arch": self.arch, "cpu": self.cpu, "emulator": f"qemu {self.version}", "system": self.system}


def is_emulated(arch: str) -> bool:
    """Whether there are emulators for an architecture at all."""
    return arch in _PROGRAMS


@dataclass(frozen=True, kw_only=True)
class Board:
    """What is emulated of a board: its CPU model, and its oldest system's C library ("" if nothing says which).

    ``target`` is one whose emulator serves for it; ``known``: its own.
    """

    cpu: str
    target: str
    glibc: str = ""
    known: bool = False


class UnknownCpuError(ToolError):
    """The emulator is there, and does not know the target's CPU: nothing that is fetched helps."""


EVERY_FEATURE = "max"
"""The emulator's CPU model with all that it can do."""


def board_of_target(name: str, arch: str, features: Collection[str] = ()) -> Board:
    """The board of a target that is known by name, else one with the plainest CPU of its architecture that serves.

    Args:
        name: Of the target.
        arch: Of the bundle.
        features: Of the CPU, which the bundle asks for.
    """
    from edgebuild.errors import UsageError
    from edgebuild.targets import load_target

    plainest = Board(cpu=_PLAINEST_CPU[arch], target=_ANY_TARGET[arch])
    try:
        target = load_target(name)
    except (UsageError, IncompatibleError):
        known = load_target(plainest.target).soc.features
        return plainest if set(features) <= set(known) else replace(plainest, cpu=EVERY_FEATURE)
    if target.soc.arch != arch:
        return plainest
    return Board(cpu=target.soc.cpu, target=name, glibc=target.os.glibc, known=True)


def find_emulator(
    arch: str,
    cpu: str,
    glibc: str,
    cache: Cache,
    *,
    fetch: bool = False,
    progress: Progress | None = None,
) -> Emulator:
    """The emulator for a board.

    Args:
        arch: The board's architecture.
        cpu: Its CPU model as the emulator calls it (``[soc] cpu`` of a target).
        glibc: Oldest C library that the board's programs may meet; programs get the oldest known system that has it.
        cache: Where downloaded ones are kept.
        fetch: Download what is missing.
        progress: Hears of downloads.

    Raises:
        ToolError: There is none, it is too old, it does not start, or it does not know the CPU.
    """
    program, version = _find_program(arch, cache, fetch=fetch, progress=progress)
    models = _cpu_models(*_stamp(program))
    if cpu not in models:
        msg = f"{program.name} {_text(version)} does not know the CPU {cpu!r}"
        near = difflib.get_close_matches(cpu, sorted(models), n=1)
        guess = f", e.g. {near[0]}" if near else ""
        raise UnknownCpuError(
            msg, hint=f"correct [soc] cpu of the target{guess}; `{program} -cpu help` lists what it knows"
        )
    root, system = _find_root(arch, glibc, cache, fetch=fetch, progress=progress)
    return Emulator(program=program, version=_text(version), arch=arch, cpu=cpu, root=root, system=system)


def fetch_command(target: str) -> str:
    """What a user types to get the emulator for a target."""
    return f"edgebuild doctor --target {target} --fetch"


def _find_program(arch: str, cache: Cache, *, fetch: bool, progress: Progress | None) -> tuple[Path, tuple[int, ...]]:
    name = _PROGRAMS[arch]
    problems: list[str] = []
    for candidate in (f"{name}-static", name):
        path = shutil.which(candidate)
        if path is None:
            continue
        try:
            version = _version(*_stamp(Path(path)))
        except ToolError as error:
            problems.append(error.message)
            continue
        if version >= OLDEST:
            return Path(path), version
        problems.append(f"{path} is {_text(version)}, which is too old")
    try:
        path_in_cache = _packaged(name, cache, fetch=fetch, progress=progress)
    except ToolError as error:
        if not problems:
            raise
        msg = f"{'; '.join(problems)}, and {error.message}"
        raise ToolError(msg, hint=error.hint) from error
    if path_in_cache is not None:
        return path_in_cache, _version(*_stamp(path_in_cache))
    found = f": {'; '.join(problems)}" if problems else ""
    msg = f"there is no emulator for {arch} here ({name} {_text(OLDEST)} or newer){found}"
    raise ToolError(msg)


def _packaged(name: str, cache: Cache, *, fetch: bool, progress: Progress | None) -> Path | None:
    """The emulator of the pinned package, from the cache or downloaded; None: it is not there."""
    try:
        package = pinned_packages("qemu-user", _DEBIAN_ARCH.get(machine_arch(), machine_arch()))[0]
    except IncompatibleError:
        return None
    if fetch:
        return fetch_package(package, cache, progress, members=_MEMBERS) / "usr" / "bin" / name
    folder = cache.get(*package_entry(package, _MEMBERS))
    return None if folder is None else folder / "usr" / "bin" / name


def _find_root(arch: str, glibc: str, cache: Cache, *, fetch: bool, progress: Progress | None) -> tuple[Path, str]:
    """The folder with the libraries that programs see, and its name."""
    own = os.environ.get("QEMU_LD_PREFIX", "")
    if own:
        if not Path(own).is_dir():
            msg = f"QEMU_LD_PREFIX is no folder: {own}"
            raise ToolError(msg, hint="unset it: edgebuild brings a system of its own for emulated programs")
        return Path(own), own
    wanted = _numbers(glibc)
    for system, version in _SYSTEMS:
        if _numbers(version) < wanted:
            continue
        try:
            # Packages such as gcc-12-base hold no library, only words.
            packages = [p for p in pinned_packages(system, _DEBIAN_ARCH[arch]) if not p.name.endswith("-base")]
        except IncompatibleError:  # riscv64 is in Debian since 13
            continue
        key = content_key("merged root", [package.sha256 for package in packages])
        folder = cache.get("debian", key)
        if folder is None and fetch:
            if progress is not None:
                size = sum(package.size for package in packages) / 2**20
                progress.note(f"downloading the {arch} libraries of {system} for the emulator ({size:.1f} MiB)")
            folder = cache.get_or_make(
                "debian",
                key,
                lambda folder, packages=packages: _merge(  # type: ignore[misc]
                    [fetch_package(package, cache, members=("*lib/*",)) for package in packages], folder
                ),
            )
        if folder is None:
            msg = f"the libraries that emulated {arch} programs need ({system}) are not here"
            raise ToolError(msg)
        return folder, f"{system} (glibc {version})"
    msg = f"no system with glibc {glibc} or newer is known for {arch}"
    raise ToolError(msg, hint="set QEMU_LD_PREFIX to a folder that holds the board's system")


def _merge(packages: Sequence[Path], folder: Path) -> None:
    """Libraries of unpacked packages in one folder, ``/lib`` being ``/usr/lib``: whichever a loader asks for is there.

    So none of this machine's libraries is taken, as would be where it is of the same architecture.
    """
    libraries = folder / "usr" / "lib"
    for package in packages:
        for part in ("lib", "usr/lib"):
            if (package / part).is_dir():
                shutil.copytree(package / part, libraries, symlinks=True, dirs_exist_ok=True)
    (folder / "lib").symlink_to("usr/lib")
    # The package's own link to the x86-64 loader is an absolute one.
    for loader in sorted(libraries.glob("x86_64-linux-gnu/ld-*.so*"))[:1]:
        (folder / "lib64").mkdir()
        (folder / "lib64" / "ld-linux-x86-64.so.2").symlink_to(f"../lib/x86_64-linux-gnu/{loader.name}")


def _contents(root: Path) -> list[str]:
    """What the libraries of a user's own system are known by; those of ours never change."""
    files = sorted(path for part in ("lib*", "usr/lib*") for path in root.glob(f"{part}/**/*.so*") if path.is_file())
    return [content_key([[str(path), *map(str, _stamp(path))] for path in files])]


def _stamp(program: Path) -> tuple[str, int, int]:
    status = program.stat()
    return str(program), status.st_size, status.st_mtime_ns


@functools.cache
def _version(program: str, size: int, changed_ns: int) -> tuple[int, ...]:
    said = _probe(program, "--version")
    match = re.search(r"version (\d+)\.(\d+)(?:\.(\d+))?", said)
    if match is None:
        msg = f"{program} --version said {said[:60]!r}, expected qemu's version"
        raise ToolError(msg, hint="remove it from PATH, or put another one before it")
    return tuple(int(part) for part in match.groups() if part is not None)


@functools.cache
def _cpu_models(program: str, size: int, changed_ns: int) -> frozenset[str]:
    return frozenset(
        re.findall(r"[^\s']+", _probe(program, "-cpu", "help", may_fail=True))
    )  # it lists them and ends with 1


def _probe(program: str, *arguments: str, may_fail: bool = False) -> str:
    try:
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_LIMIT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        msg = f"the emulator {program} does not answer: `{' '.join(arguments)}` took longer than {_PROBE_LIMIT_S} s"
        raise ToolError(msg, hint="remove it from PATH, or put another one before it") from None
    except OSError as error:
        msg = f"the emulator {program} does not start: {error.strerror}"
        raise ToolError(msg, hint="remove it from PATH, or put another one before it") from error
    if done.returncode < 0 or (done.returncode != 0 and not may_fail):
        how = f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"ended with {done.returncode}"
        msg = f"the emulator {program} {how} in `{' '.join(arguments)}`"
        raise ToolError(msg, hint="remove it from PATH, or put another one before it")
    return done.stdout


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _text(version: Sequence[int]) -> str:
    return ".".join(str(part) for part in version)
