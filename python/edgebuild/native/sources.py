"""Where the C++ sources, toolchain files and headers lie: in the wheel, or in the checkout one works in."""

from dataclasses import dataclass
from pathlib import Path

from edgebuild.cache import file_sha256
from edgebuild.errors import InternalError

_PARTS = ("CMakeLists.txt", "cmake", "cpp", "toolchains")
_NOT_NEEDED = (
    *("cpp/bindings/", "cpp/tests/", "cpp/lib/", "cpp/src/statistics/"),
    *("cpp/backends/libtorch/", "cmake/FindLibTorch.cmake"),  # a plugin, never part of the runner
    *("cpp/backends/tensorrt/", "cmake/FindTensorRT.cmake", "cmake/TensorRTHeaders.cmake"),  # likewise
)
_PLUGIN_PARTS = (
    *("CMakeLists.txt", "cmake", "cpp/CMakeLists.txt", "cpp/backends/CMakeLists.txt", "cpp/backends/libtorch"),
    *("cpp/backends/common", "cpp/include/edgebuild/backend_plugin.h"),
)


@dataclass(frozen=True, kw_only=True)
class NativeSources:
    """Root of the C++ sources, the folder with the third-party headers under ``include/``, and one with ready-made runners."""

    root: Path
    third_party: Path
    prebuilt: Path | None = None

    def plugin_digest(self) -> dict[str, str]:
        """SHA-256 of every file that the LibTorch plugin is compiled from, by its path."""
        tops = [self.root / part for part in _PLUGIN_PARTS]
        paths = [
            path for top in tops for path in ([top] if top.is_file() else sorted(top.rglob("*"))) if path.is_file()
        ]
        return {path.relative_to(self.root).as_posix(): file_sha256(path) for path in paths}

    def digest(self, *, also: tuple[str, ...] = ()) -> dict[str, str]:
        """SHA-256 of every file that a runner is compiled from, by its path; what a runner's cache key is made of.

        Args:
            also: What a plugin is compiled from beside them: folders (with a slash at the end) and files.
        """
        files: dict[str, str] = {}
        for part in _PARTS:
            top = self.root / part
            for path in [top] if top.is_file() else sorted(top.rglob("*")):
                name = path.relative_to(self.root).as_posix()
                if path.is_file() and (name.startswith(also) or not name.startswith(_NOT_NEEDED)):
                    files[name] = file_sha256(path)
        return files


def find_sources() -> NativeSources:
    """The checkout's sources if the package runs from one, else those in the wheel.

    Raises:
        InternalError: Neither is there.
    """
    package = Path(__file__).resolve().parent.parent
    checkout = package.parent.parent
    if (checkout / "CMakeLists.txt").is_file() and (checkout / "cpp").is_dir():
        return NativeSources(root=checkout, third_party=checkout / "build" / "third_party")
    data = package / "_data"
    if (data / "CMakeLists.txt").is_file():
        return NativeSources(root=data, third_party=data / "third_party", prebuilt=data / "prebuilt")
    msg = f"the C++ sources are neither in {checkout} nor in {data}"
    raise InternalError(msg, hint="reinstall edgebuild")
