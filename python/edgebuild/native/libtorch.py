"""LibTorch as the installed torch package carries it: found without importing it, its libraries checked, stripped and kept."""

import base64
import re
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from edgebuild.cache import Cache, content_key, file_sha256
from edgebuild.errors import IncompatibleError, ToolError
from edgebuild.installed_torch import InstalledTorch, find_torch
from edgebuild.native.elf import read_elf
from edgebuild.native.elf_strip import copy_stripped
from edgebuild.native.engines import EngineFiles, EnginePin
from edgebuild.report import Progress

_LICENCES = "LICENSES.txt"
_ACCELERATED = re.compile(r"lib(cuda|cudart|cublas|cudnn|cupti|nvrtc|amdhip|hip|rocm|ze_|sycl)")


def recorded_hashes() -> dict[str, str]:
    """SHA-256 of torch's files by their path below its folder, from the RECORD of its wheel; empty: it came by other means."""
    try:
        record = metadata.distribution("torch").read_text("RECORD") or ""
    except metadata.PackageNotFoundError:
        return {}
    hashes = {}
    for line in record.splitlines():
        path, _, rest = line.rpartition(",")[0].rpartition(",")
        if path.startswith("torch/") and rest.startswith("sha256="):
            digest = base64.urlsafe_b64decode(rest.removeprefix("sha256=") + "=")
            hashes[path.removeprefix("torch/")] = digest.hex()
    return hashes


def identity(torch: InstalledTorch) -> str:
    """A hash of what a plugin is compiled and linked with: headers and libraries."""
    hashes = {
        p: h for p, h in recorded_hashes().items() if p.startswith(("include/", "lib/libtorch_cpu", "lib/libc10"))
    }
    if not hashes:
        paths = [torch.library_folder / name for name in ("libtorch_cpu.so", "libc10.so")]
        hashes = {path.name: file_sha256(path) for path in paths}
    return content_key(torch.version, hashes)


def require_torch(version: str, arch: str) -> InstalledTorch:
    """The installed torch, of this very version and for this architecture.

    Raises:
        ToolError: None is installed, or it has no libraries for C++ programs.
        IncompatibleError: It is another version; names both.
    """
    torch = find_torch()
    if torch is None:
        msg = f"LibTorch {version} comes from the torch package, which is not installed"
        raise ToolError(msg, hint="pip install 'edgebuild[build]'")
    if torch.release != version:
        msg = f"the target pins LibTorch {version}, the installed torch is {torch.version}"
        raise IncompatibleError(
            msg, hint=f"pip install torch=={version}, or pin {torch.release} in a target file of your own"
        )
    for name in ("lib/libtorch_cpu.so", "lib/libc10.so", "include/torch/script.h"):
        if not (torch.root / name).is_file():
            msg = f"the installed torch {torch.version} has no {name}"
            raise ToolError(msg, hint="install it from its wheel")
    needed = read_elf(torch.library_folder / "libtorch_cpu.so")
    accelerated = [name for name in needed.needed if _ACCELERATED.match(name)]
    if accelerated:
        msg = f"the installed torch {torch.version} is built for an accelerator: its CPU library needs {', '.join(accelerated)}"
        raise ToolError(msg, hint="install the CPU-only build of the same version")
    return torch


def libtorch_files(pin: EnginePin, cache: Cache, progress: Progress | None = None) -> EngineFiles:
    """LibTorch's libraries, stripped, with all their licences in one file.

    Raises:
        ToolError: torch is not installed, is built for an accelerator, or a library is not what its package says.
        IncompatibleError: It is another version.
    """
    torch = require_torch(pin.version, pin.arch)
    recorded = recorded_hashes()
    names = (*pin.needed, pin.soname)
    wanted = {name: recorded.get(f"lib/{name}") or file_sha256(torch.library_folder / name) for name in names}
    licences = sorted(path for path in _licence_files(torch) if path.is_file())

    def make(folder: Path) -> None:
        if progress:
            progress.note(f"taking LibTorch {torch.version} from the installed torch package")
        for name in names:
            source = torch.library_folder / name
            found = file_sha256(source)
            if found != wanted[name]:
                msg = f"{source} has SHA-256 {found}, its package says {wanted[name]}"
                raise ToolError(msg, hint="install torch again")
            copy_stripped(source, folder / name)
        with (folder / _LICENCES).open("w", encoding="utf-8") as sink:
            for path in licences:
                top = next(index for index, part in enumerate(path.parts) if part.endswith(".dist-info")) + 2
                inside = Path(*path.parts[top:])
                text = path.read_text(encoding="utf-8", errors="replace").rstrip()
                sink.write(f"{'=' * 80}\n{inside.as_posix()}\n{'=' * 80}\n{text}\n\n")

    key = content_key("libtorch", "stripped 1", wanted, [file_sha256(path) for path in licences])
    folder = cache.get_or_make("engines", key, make)
    return EngineFiles(
        pin=replace(pin, sha256=wanted[pin.soname]),
        library=folder / pin.soname,
        licences={f"{pin.engine}-{_LICENCES}": folder / _LICENCES},
        needed={name: folder / name for name in pin.needed},
    )


def _licence_files(torch: InstalledTorch) -> list[Path]:
    try:
        files = metadata.distribution("torch").files or []
    except metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())) for file in files if ".dist-info/licenses/" in file.as_posix()]
