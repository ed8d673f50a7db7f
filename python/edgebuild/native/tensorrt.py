"""TensorRT's plugin for a target: its public headers, found or fetched, and the compiled library. No GPU or library of TensorRT is needed."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgebuild.cache import Cache, content_key, file_sha256
from edgebuild.errors import ToolError
from edgebuild.native.process import run_tool
from edgebuild.native.runner import compile_native
from edgebuild.native.sources import find_sources
from edgebuild.native.toolchain import choose_toolchain, find_cross_tools, runner_glibc
from edgebuild.report import Progress
from edgebuild.targets import TargetSpec, target_argument

LIBRARY = "libedgebuild_tensorrt.so"
"""The plugin's file name."""

MAJORS = (10, 11)
"""Versions of TensorRT that the plugin can be compiled for."""

_SYSTEM = ("/usr/include/aarch64-linux-gnu", "/usr/include/x86_64-linux-gnu", "/usr/include", "/usr/local/include")
_NEEDED = ("NvInfer.h", "NvInferVersion.h", "NvOnnxParser.h")
_SOURCES = ("cpp/backends/tensorrt/", "cmake/FindTensorRT.cmake", "cmake/TensorRTHeaders.cmake")


@dataclass(frozen=True, kw_only=True)
class Headers:
    """TensorRT's headers.

    Args:
        folder: Holds ``NvInfer.h``.
        version: E.g. (10, 3).
        licence: Their licence text; None: there is none beside them.
    """

    folder: Path
    version: tuple[int, int]
    licence: Path | None

    @property
    def digest(self) -> Mapping[str, str]:
        """SHA-256 of each."""
        files = [*self.folder.glob("NvInfer*.h"), *self.folder.glob("NvOnnx*.h")]
        return {path.name: file_sha256(path) for path in sorted(files)}


def find_headers(target: TargetSpec, cache: Cache) -> Headers | None:
    """Headers of the target's TensorRT: in ``TENSORRT_ROOT``, the system's, or those that were fetched; None: none that fit.

    A plugin runs with the TensorRT that it was compiled for and later ones of that major, so headers that are newer than the
    target's don't fit.
    """
    wanted = _wanted(target)
    root = os.environ.get("TENSORRT_ROOT")
    folders = [Path(root, "include"), Path(root)] if root else [Path(folder) for folder in _SYSTEM]
    fetched = cache.get("native", _fetch_key(wanted[0]))
    for folder in (*folders, *([fetched / "include"] if fetched is not None else [])):
        if not all((folder / name).is_file() for name in _NEEDED):
            continue
        version = _version(folder / "NvInferVersion.h")
        if version is not None and version[0] == wanted[0] and version <= wanted:
            licence = folder.parent / "LICENSE"
            return Headers(folder=folder, version=version, licence=licence if licence.is_file() else None)
    return None


def why_without_headers(target: TargetSpec) -> str:
    """Why ``find_headers`` found none; tells what a folder that the user named holds instead."""
    text = f"the public headers of TensorRT {target_version(target)} are not here, against which its plugin is compiled"
    root = os.environ.get("TENSORRT_ROOT")
    if not root:
        return text
    for folder in (Path(root, "include"), Path(root)):
        version = _version(folder / "NvInferVersion.h") if (folder / "NvInferVersion.h").is_file() else None
        if version is not None:
            major, minor = _wanted(target)
            return f"{text} (TENSORRT_ROOT holds those of {version[0]}.{version[1]}; {major}.0 to {major}.{minor} fit)"
    return f"{text} (TENSORRT_ROOT={root} holds none)"


def fetch_headers(target: TargetSpec, cache: Cache, progress: Progress) -> Headers:
    """The public headers (Apache-2.0), each pinned by its SHA-256, from the release that ``cmake/TensorRTHeaders.cmake`` names.

    Raises:
        ToolError: They can't be downloaded, or are not those that were pinned.
    """
    there = find_headers(target, cache)
    if there is not None:
        return there
    major = _wanted(target)[0]
    script = find_sources().root / "cmake" / "TensorRTHeaders.cmake"

    def make(folder: Path) -> None:
        progress.note(f"downloading the public headers of TensorRT {major}")
        command = [str(find_cross_tools().cmake), f"-DEDGEBUILD_TENSORRT_MAJOR={major}"]
        command.append(f"-DEDGEBUILD_TENSORRT_HEADERS={folder}")
        mirror = os.environ.get("EDGEBUILD_TENSORRT_HEADERS_URL")
        if mirror:
            command.append(f"-DEDGEBUILD_TENSORRT_HEADERS_URL={mirror}")
        names = ("PATH", "HOME", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE")
        environment = {name: os.environ[name] for name in names if name in os.environ}
        run_tool([*command, "-P", str(script)], environment, "download TensorRT's headers")

    cache.find_or_make("native", _fetch_key(major), make)
    found = find_headers(target, cache)
    if found is None:
        msg = (
            f"the public headers that edgebuild knows are newer than TensorRT {target_version(target)} of {target.name}"
        )
        raise ToolError(msg, hint="set TENSORRT_ROOT to a folder with those of that version")
    return found


def get_command(target: TargetSpec) -> str:
    """The one command that gets the headers."""
    return f"edgebuild doctor --target {target_argument(target)} --fetch"


def build_plugin(target: TargetSpec, headers: Headers, cache: Cache, progress: Progress) -> Path:
    """The stripped plugin for a target's triple, glibc and CPU: from the cache, or compiled now.

    Raises:
        ToolError: A tool is missing or the compiler failed.
        IncompatibleError: The compiled library does not fit the target.
    """
    sources = find_sources()
    toolchain = choose_toolchain(target, sources.root)
    settings = [target.toolchain.triple, runner_glibc(target), list(target.toolchain.cpu_flags)]
    key = content_key(
        "tensorrt-plugin", sources.digest(also=_SOURCES), toolchain.identity, settings, dict(headers.digest)
    )

    def make(folder: Path) -> None:
        progress.note(f"compiling the TensorRT plugin for {target.toolchain.triple} (once)")
        compile_native(
            target,
            sources,
            cache,
            folder,
            progress,
            cmake_target="edgebuild_backend_tensorrt_plugin",
            product=LIBRARY,
            bundle_path=f"lib/{LIBRARY}",
            definitions=[f"-DTENSORRT_ROOT={headers.folder}"],
        )

    return cache.get_or_make("native", key, make) / LIBRARY


def target_version(target: TargetSpec) -> str:
    """The target's TensorRT, e.g. "10.3"."""
    return target.backend("tensorrt").version


def _wanted(target: TargetSpec) -> tuple[int, int]:
    major, _, rest = target_version(target).partition(".")
    return int(major), int(rest.partition(".")[0] or 0)


def _fetch_key(major: int) -> str:
    return content_key("tensorrt-headers", major, file_sha256(find_sources().root / "cmake" / "TensorRTHeaders.cmake"))


def _version(header: Path) -> tuple[int, int] | None:
    """Of NvInferVersion.h: plain numbers, or names that are defined as numbers above."""
    text = header.read_text(encoding="utf-8", errors="replace")
    numbers = []
    for part in ("MAJOR", "MINOR"):
        match = re.search(rf"define (?:NV_TENSORRT_{part}|TRT_{part}_ENTERPRISE) (\d+)", text)
        if match is None:
            return None
        numbers.append(int(match[1]))
    return numbers[0], numbers[1]
