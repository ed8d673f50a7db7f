"""What ``doctor`` looks at. Nothing here imports what it looks for: torch alone would take seconds."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Literal

from edgebuild.cache import Cache
from edgebuild.cli.output import size_text
from edgebuild.errors import EdgebuildError, ToolError
from edgebuild.machine import machine_arch
from edgebuild.report import Progress
from edgebuild.targets import BackendSpec, TargetSpec

State = Literal["ok", "missing", "absent"]

_PACKAGES = {
    # distribution: (what for, extra that brings it)
    "numpy": ("everything", ""),
    "click": ("everything", ""),
    "torch": ("build", "build"),
    "onnx": ("build", "build"),
    "onnx-ir": ("build", "build"),
    "onnxscript": ("build", "build"),
    "onnxruntime": ("build", "build"),
    "rich": ("progress", "build"),
    "ziglang": ("runners", "cross"),
}
_HEADERS = ("nlohmann/json.hpp", "CLI/CLI.hpp", "onnxruntime/onnxruntime_c_api.h")
FIRST_BUILD = "the first build"
"""How ``get`` begins where nobody has to do anything."""

READY_MADE = "came with edgebuild"
"""How a runner is described that needs no compiler."""

_CACHE_MIB = 2048  # zig's C library builds, engines and a few models


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked for.

    Args:
        state: "missing": a build needs it; "absent": only something optional does.
        found: Version and place, or what is wrong.
        get: What to do if it isn't there.
    """

    name: str
    state: State
    needed_for: str
    found: str
    get: str = ""


def machine_checks() -> list[Check]:
    """Python, its packages, tools, headers, cache and disk of this machine."""
    return [
        Check(
            name="Python", state="ok", needed_for="everything", found=f"{sys.version.split()[0]} at {sys.executable}"
        ),
        *(_package(name, what, extra) for name, (what, extra) in _PACKAGES.items()),
        _program("cmake", "runners", "pip install 'edgebuild[cross]'"),
        _program("ninja", "runners", "pip install 'edgebuild[cross]'"),
        _headers(),
        _compiler(),
        _engine_module(),
        _cache(),
        _here(),
    ]


def target_checks(target: TargetSpec) -> list[Check]:
    """What building for ``target`` needs beyond the machine's own: toolchain, engines, runner, emulator."""
    from edgebuild.native.sources import find_sources
    from edgebuild.native.toolchain import choose_toolchain

    found = ""
    try:
        toolchain = choose_toolchain(target, find_sources().root)
        state: State = "ok"
        found, get = f"{target.toolchain.triple}, {toolchain.identity[0]}", ""
    except EdgebuildError as error:
        state, found, get = "missing", error.message, error.hint or "correct [toolchain] of the target's file"
    checks = [Check(name="toolchain", state=state, needed_for="runners", found=found, get=get)]
    for backend in target.runtime:
        if backend.name == "libtorch":
            checks.append(_libtorch(target, backend))
        else:
            checks.append(_engine(target, backend.name, backend.version))
    return [*checks, _runner(target), _emulator(target)]


class _OnlyLooks(Cache):
    """The user's cache, of which nothing is made: what is not there raises LookupError."""

    def find_or_make(self, section: str, key: str, make: Callable[[Path], None]) -> tuple[Path, bool]:
        found = self.get(section, key)
        if found is None:
            raise LookupError(section)
        return found, True


def _is_cached(look: Callable[[Cache], object]) -> bool:
    try:
        look(_OnlyLooks(Cache.default().root))
    except (LookupError, EdgebuildError):
        return False
    return True


def without_compilers(found: Sequence[Check]) -> list[Check]:
    """The same checks; where the target's runner came with edgebuild, nothing that compiles runners is missing."""
    if not any(check.name == "runner" and check.found.startswith(READY_MADE) for check in found):
        return list(found)
    return [
        replace(check, state="absent") if check.needed_for == "runners" and check.state == "missing" else check
        for check in found
    ]


def fetch(target: TargetSpec, progress: Progress) -> None:
    """Fills the cache with what a build for ``target`` downloads and compiles: engine libraries, emulator and the runner.

    Raises:
        EdgebuildError: A download or the compiler failed.
    """
    from edgebuild.devices.emulator import find_emulator
    from edgebuild.devices.local import why_not_here
    from edgebuild.errors import IncompatibleError
    from edgebuild.native.engines import engine_pin, fetch_engine
    from edgebuild.native.runner import build_runner
    from edgebuild.quantization import judging_engine

    cache = Cache.default()
    for backend in target.runtime:
        if backend.name == "tensorrt":
            _fetch_tensorrt(target, cache, progress)
        if backend.name == "tensorrt" or backend.on_demand:
            continue
        progress.stage("engine", f"{backend.name} {backend.version} for {target.soc.arch}")
        try:
            pin = engine_pin(backend.name, backend.version, target.soc.arch)
        except IncompatibleError as error:
            if target.accelerator is None:
                raise
            progress.note(error.message)  # the board's own system brings it
            continue
        fetch_engine(pin, cache, progress)
        if target.quantization.get(backend.name):
            judging_engine(target, backend, cache)  # INT8 is searched with this machine's build of it
    if why_not_here(target.soc.arch, target.soc.features) is not None:
        progress.stage("emulator", target.soc.cpu)
        find_emulator(target.soc.arch, target.soc.cpu, target.os.glibc, cache, fetch=True, progress=progress)
    progress.stage("runner", target.toolchain.triple)
    build_runner(target, cache, progress)


def _fetch_tensorrt(target: TargetSpec, cache: Cache, progress: Progress) -> None:
    """Headers and plugin. That they can't be had is said, and the rest is fetched: a bundle has other variants."""
    from edgebuild.native.tensorrt import build_plugin, fetch_headers

    progress.stage("engine", f"headers of TensorRT {target.backend('tensorrt').version}")
    try:
        headers = fetch_headers(target, cache, progress)
    except ToolError as error:
        progress.note(f"no TensorRT variant: {error.message}{f' ({error.hint})' if error.hint else ''}")
        return
    build_plugin(target, headers, cache, progress)


def _package(name: str, what: str, extra: str) -> Check:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        install = f"'edgebuild[{extra}]'" if extra else "edgebuild"
        state: State = "absent" if name == "rich" else "missing"
        return Check(name=name, state=state, needed_for=what, found="", get=f"pip install {install}")
    return Check(name=name, state="ok", needed_for=what, found=version)


def _program(name: str, what: str, get: str) -> Check:
    beside = Path(sys.executable).parent / name
    path = str(beside) if beside.is_file() else shutil.which(name)
    if path is None:
        return Check(name=name, state="missing", needed_for=what, found="", get=get)
    return Check(name=name, state="ok", needed_for=what, found=f"{_version(path)} at {path}".strip())


def _version(path: str) -> str:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    words = done.stdout.split("\n", 1)[0].split()
    return next((word for word in words if word[:1].isdigit()), "").rstrip(",)")


def _headers() -> Check:
    from edgebuild.native.sources import find_sources

    name, what = "C++ headers", "runners"
    get = "configure the project once with CMake, which fetches them, or install a wheel, which carries them"
    try:
        folder = find_sources().third_party / "include"
    except EdgebuildError as error:
        return Check(name=name, state="missing", needed_for=what, found=error.message, get=error.hint or get)
    lacking = [header for header in _HEADERS if not (folder / header).is_file()]
    if lacking:
        return Check(name=name, state="missing", needed_for=what, found=f"no {', '.join(lacking)}", get=get)
    return Check(name=name, state="ok", needed_for=what, found=str(folder))


def _compiler() -> Check:
    for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        path = shutil.which(name) if name else None
        if path is not None:
            return Check(name="C++ compiler", state="ok", needed_for="development", found=f"{_version(path)} at {path}")
    return Check(
        name="C++ compiler",
        state="absent",
        needed_for="development",
        found="",
        get="apt install g++; bundles are compiled by ziglang, without it",
    )


def _engine_module() -> Check:
    from importlib.util import find_spec

    there = find_spec("edgebuild._runtime") is not None
    return Check(
        name="edgebuild.Runner",
        state="ok" if there else "absent",
        needed_for="Python",
        found="compiled module is there" if there else "",
        get="install edgebuild (a bare source folder has no compiled module)",
    )


def _cache() -> Check:

    def check(state: State, found: str, get: str = "") -> Check:
        return Check(name="cache", state=state, needed_for="build", found=found, get=get)

    try:
        root = Cache.default().root
    except EdgebuildError as error:
        return check("missing", error.message, error.hint or "correct the variable")
    return _folder(root, _CACHE_MIB, check, "point XDG_CACHE_HOME at another folder")


def _here() -> Check:
    def check(state: State, found: str, get: str = "") -> Check:
        return Check(name="this folder", state=state, needed_for="bundles", found=found, get=get)

    return _folder(Path.cwd(), 512, check, "say where with -o")


def _folder(folder: Path, wanted_mib: int, check: Callable[..., Check], get: str) -> Check:
    """Whether ``folder``, or the nearest one above it that exists, can be written and has space."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return check("missing", f"{folder} can't be written", get)
    free = shutil.disk_usage(there).free
    if free < wanted_mib * 2**20:
        return check(
            "missing", f"{folder}: {size_text(free)} free, {wanted_mib} MiB are wanted", f"free some, or {get}"
        )
    return check("ok", f"{folder}, {size_text(free)} free")


def _engine(target: TargetSpec, name: str, version: str) -> Check:
    from edgebuild.native.engine_layout import check_engine
    from edgebuild.native.engines import engine_pin, fetch_engine

    what = "bundles"
    try:
        pin = engine_pin(name, version, target.soc.arch)
    except EdgebuildError as error:
        if target.accelerator is not None and name == "tensorrt":
            return _tensorrt(target, version)
        return Check(name=f"{name} {version}", state="missing", needed_for=what, found="", get=error.message)
    try:
        check_engine(pin, target.os)
    except EdgebuildError as error:
        return Check(
            name=f"{name} {version}", state="missing", needed_for=what, found=error.message, get=error.hint or ""
        )
    if not pin.debian and target.soc.arch == machine_arch() and _installed_version(pin.distribution) == pin.version:
        return Check(name=f"{name} {version}", state="ok", needed_for=what, found="from the installed package")
    if _is_cached(lambda cache: fetch_engine(pin, cache)):
        return Check(name=f"{name} {version}", state="ok", needed_for=what, found=f"in the cache: {pin.origin}")
    get = f"{FIRST_BUILD} downloads it ({pin.origin})"
    return Check(name=f"{name} {version}", state="absent", needed_for=what, found="", get=get)


def _libtorch(target: TargetSpec, backend: BackendSpec) -> Check:
    """Whether LibTorch's plugin could be compiled: only models that can't be expressed in ONNX need it."""
    from edgebuild.native.libtorch import require_torch
    from edgebuild.native.plugin import find_compilers

    name, what = f"{backend.name} {backend.version}", "TorchScript"
    try:
        torch = require_torch(backend.version, target.soc.arch)
        compilers = find_compilers(target)
    except EdgebuildError as error:
        state: State = "absent" if backend.on_demand else "missing"
        return Check(name=name, state=state, needed_for=what, found=error.message, get=error.hint or "")
    found = f"torch {torch.version}; its plugin is compiled with {_version(str(compilers.cxx))} at {compilers.cxx}"
    return Check(name=name, state="ok", needed_for=what, found=found)


def _tensorrt(target: TargetSpec, version: str) -> Check:
    """The board's own system brings TensorRT; here only the headers are needed, against which its plugin is compiled."""
    from edgebuild.native.tensorrt import find_headers, get_command

    name = f"tensorrt {version}"
    headers = find_headers(target, Cache.default())
    if headers is not None:
        found = (
            f"headers of {headers.version[0]}.{headers.version[1]} in {headers.folder}; the board brings the libraries"
        )
        return Check(name=name, state="ok", needed_for="bundles", found=found)
    get = f"`{get_command(target)}` gets its public headers; without them a bundle has no TensorRT variant"
    return Check(name=name, state="absent", needed_for="bundles", found="", get=get)


def _installed_version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _runner(target: TargetSpec) -> Check:
    from edgebuild.native.runner import build_runner
    from edgebuild.report import SilentProgress

    look = _OnlyLooks(Cache.default().root)
    try:
        program = build_runner(target, look, SilentProgress())
    except (LookupError, EdgebuildError):
        get = f"{FIRST_BUILD} compiles it, which takes minutes"
        return Check(name="runner", state="absent", needed_for="bundles", found="", get=get)
    place = "in the cache" if program.is_relative_to(look.root) else READY_MADE
    return Check(name="runner", state="ok", needed_for="bundles", found=f"{place}, {target.toolchain.triple}")


def _emulator(target: TargetSpec) -> Check:
    from edgebuild.devices.emulator import UnknownCpuError, find_emulator
    from edgebuild.devices.local import why_not_here

    name, what = "emulator", "the proof"
    reason = why_not_here(target.soc.arch, target.soc.features)
    if reason is None:
        return Check(name=name, state="ok", needed_for=what, found=f"not needed: this is {machine_arch()}")
    try:
        cache = Cache.default()
        emulator = find_emulator(target.soc.arch, target.soc.cpu, target.os.glibc, cache)
    except EdgebuildError as error:
        return Check(
            name=name,
            state="missing" if isinstance(error, UnknownCpuError) else "absent",
            needed_for=what,
            found=error.message,
            get=error.hint or f"{FIRST_BUILD} downloads it (qemu-user, 68 MiB)",
        )
    cached = emulator.program.is_relative_to(cache.root)
    place = "from the cache" if cached else f"at {emulator.program}"
    return Check(name=name, state="ok", needed_for=what, found=f"{emulator}, {place}; {emulator.system}")
