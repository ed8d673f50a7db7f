"""What a file is, found out by looking inside it. Executes nothing, imports neither torch nor onnx; the suffix never decides."""

import zipfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from edgebuild.errors import ModelError, UsageError
from edgebuild.model import pickles, wire

_SUPPORTED = "give a TorchScript .pt, a torch.export .pt2, an ONNX file, a pickled nn.Module or a state_dict"
_SUFFIX_TEXT = 4096


class FileKind(Enum):
    """Kinds of files that can be loaded."""

    TORCHSCRIPT = "TorchScript"
    TORCH_EXPORT = "torch.export program"
    ONNX = "ONNX"
    STATE_DICT = "state_dict"
    PICKLE = "pickle"


@dataclass(frozen=True, kw_only=True)
class FileIdentity:
    """What a file is.

    Args:
        kind: How it is loaded.
        description: What was found, in words.
        hint: What to do, if something is needed.
        classes: For pickles: ``module.name`` of what loading would import.
    """

    kind: FileKind
    description: str
    hint: str = ""
    classes: tuple[str, ...] = ()


# First bytes -> (what it is, what to do). Longer ones first where one begins another.
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xd8\xff", "a JPEG image", _SUPPORTED),
    (b"\x89PNG\r\n\x1a\n", "a PNG image", _SUPPORTED),
    (b"GIF8", "a GIF image", _SUPPORTED),
    (b"%PDF", "a PDF document", _SUPPORTED),
    (
        b"\x89HDF\r\n\x1a\n",
        "an HDF5 file (Keras .h5 or plain data)",
        "edgebuild takes PyTorch and ONNX; convert Keras models to ONNX with tf2onnx",
    ),
    (b"GGUF", "a GGUF file (llama.cpp weights)", "give the original PyTorch model or an ONNX export"),
    (b"ggml", "a GGML file (llama.cpp weights)", "give the original PyTorch model or an ONNX export"),
    (
        b"ftrt",
        "a TensorRT plan",
        "plans are bound to one GPU and can't be converted back; give the ONNX file it was built from",
    ),
    (
        b"ptrt",
        "a TensorRT plan",
        "plans are bound to one GPU and can't be converted back; give the ONNX file it was built from",
    ),
    (b"\x7fELF", "an ELF program or library", _SUPPORTED),
    (b"MZ", "a Windows program", _SUPPORTED),
    (b"\x1f\x8b", "a gzip archive", "unpack it and give the model inside"),
    (b"BZh", "a bzip2 archive", "unpack it and give the model inside"),
    (b"\xfd7zXZ\x00", "an xz archive", "unpack it and give the model inside"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it and give the model inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it and give the model inside"),
    (b"Rar!", "a rar archive", "unpack it and give the model inside"),
    (b"\x93NUMPY", "a numpy array (.npy)", "arrays are no model; give input sets with --sample as .npz"),
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself", "fetch the file: git lfs pull"),
)


def identify(path: Path) -> FileIdentity:
    """Finds out what ``path`` is.

    Raises:
        UsageError: It does not exist, or is a folder.
        ModelError: It is empty, damaged, or of a kind that can't be loaded; says what was found and what to do.
    """
    if not path.exists():
        msg = f"{path}: no such file"
        raise UsageError(msg, hint="check the path of the model file")
    if path.is_dir():
        what = _folder(path)
        msg = f"{path}: {what}, expected a file"
        raise UsageError(msg, hint="give one model file")
    if not path.is_file():
        msg = f"{path}: not a regular file"
        raise UsageError(msg, hint="give one model file")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_SUFFIX_TEXT)
    except OSError as error:
        msg = f"{path}: can't be read: {error.strerror}"
        raise UsageError(msg, hint="check the permissions") from None
    if size == 0:
        msg = f"{path}: the file is empty"
        raise ModelError(msg, hint="save or download it again")
    return _by_content(path, head, size)


def _folder(path: Path) -> str:
    if (path / "manifest.json").exists():
        return "an edgebuild bundle (unpacked)"
    if (path / "saved_model.pb").exists():
        return "a TensorFlow SavedModel folder"
    if (path / "config.json").exists():
        return "a folder with a config.json (Hugging Face checkpoint?)"
    return "a folder"


def _by_content(path: Path, head: bytes, size: int) -> FileIdentity:
    for magic, what, hint in _MAGIC:
        if head.startswith(magic):
            raise _wrong(path, what, hint)
    if head[:4] == b"RIFF":
        raise _wrong(path, "a RIFF file (WAV, AVI or WebP)", _SUPPORTED)
    if head[4:8] == b"TFL3":
        raise _wrong(
            path, "a TensorFlow Lite model", "edgebuild takes PyTorch and ONNX; give the model it was converted from"
        )
    if head[4:8] in (b"ET12", b"ET13"):
        raise _wrong(path, "an ExecuTorch program", "give the PyTorch model it was made from")
    if head[4:8] == b"ORTM":
        raise _wrong(path, "an ONNX Runtime .ort model", "give the .onnx file it was made from")
    if head[257:262] == b"ustar":
        return _tar(path, head, size)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip(path)
    if _is_zero(head):
        raise _wrong(
            path, "a file that begins with zeros only (damaged or half downloaded)", "save or download it again"
        )
    safetensors = _safetensors(head, size)
    if safetensors:
        raise _wrong(path, "a safetensors file, weights without a model", _CONVERT)
    pickle = pickles.scan_legacy(path) if head[:1] in (b"\x80", b"(", b"]", b"}", b"c") else None
    if pickle is not None:
        return _pickle(path, pickle)
    text = _text(head)
    if text:
        raise _wrong(path, text, _SUPPORTED)
    onnx = wire.scan_onnx(path)
    if onnx.is_model:
        if onnx.problem:
            msg = f"{path}: an ONNX model that is damaged: {onnx.problem}"
            raise ModelError(msg, hint="save or download it again")
        return FileIdentity(kind=FileKind.ONNX, description=f"an ONNX model (IR version {onnx.ir_version})")
    raise _wrong(path, f"of a kind that is not known (it begins with {head[:8].hex(' ')})", _SUPPORTED)


_CONVERT = (
    "load it into the module in Python and save that: torch.save(safetensors.torch.load_file(f), 'weights.pt'), "
    "then edgebuild weights.pt --model package.module:factory"
)


def _wrong(path: Path, what: str, hint: str) -> ModelError:
    verb = "" if what.startswith(("of a kind",)) else "this is "
    return ModelError(f"{path}: {verb}{what}; no model was found in it", hint=hint)


def _is_zero(head: bytes) -> bool:
    return len(head) >= 64 and not any(head)


def _safetensors(head: bytes, size: int) -> bool:
    length = int.from_bytes(head[:8], "little") if len(head) > 9 else 0
    return 2 <= length <= size - 8 and head[8:9] == b"{" and (b'"dtype"' in head or b"__metadata__" in head)


def _text(head: bytes) -> str | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:256].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<script")):
        return "an HTML page (a download that led to a web page?)"
    if start.startswith(b"<?xml"):
        return "an XML file (OpenVINO IR?)" if b"<net" in head else "an XML file"
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return None
        text = head[: error.start].decode("utf-8")
    if any(ord(c) < 32 and c not in "\t\r\n\f\x1b" for c in text):
        return None
    if text.lstrip().startswith(("{", "[")):
        return "a JSON file"
    if any(line.startswith(("import ", "from ", "def ", "class ")) for line in text.splitlines()):
        return "Python source (for a model made by code say --model package.module:factory)"
    if any(key in text for key in ("ir_version:", "opset_import")):
        return "an ONNX model as text"
    return "a text file"


def _zip(path: Path) -> FileIdentity:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            return _zip_members(path, archive, names)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        msg = f"{path}: a zip archive (PyTorch's format) that is truncated or damaged: {error}"
        raise ModelError(msg, hint="save or download it again") from None


def _zip_members(path: Path, archive: zipfile.ZipFile, names: list[str]) -> FileIdentity:
    if not names:
        raise _wrong(path, "an empty zip archive", _SUPPORTED)
    tops = {name.partition("/")[0] for name in names}
    inner = {name.partition("/")[2] for name in names}
    if "serialized_exported_program.json" in names or "archive_format" in inner or "models/model.json" in inner:
        return _exported(path, archive, names, inner)
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        if len(tops) == 1 and "data.pkl" not in inner:
            msg = f"{path}: TorchScript whose data.pkl is missing"
            raise ModelError(msg, hint="save or download it again")
        if "bytecode.pkl" in inner and not any(name.endswith(".py") for name in inner):
            raise _wrong(path, "a PyTorch Lite (mobile) model without code", "give the file from torch.jit.save")
        return FileIdentity(kind=FileKind.TORCHSCRIPT, description="TorchScript")
    if "data.pkl" in inner:
        member = next(name for name in names if name.partition("/")[2] == "data.pkl")
        return _pickle(path, pickles.scan(archive.read(member)))
    if "model.json" in names and "weights" in " ".join(names):
        raise _wrong(path, "a zip archive with a TensorFlow.js model", _SUPPORTED)
    if "config.json" in names and any(name.endswith("weights.h5") for name in names):
        raise _wrong(path, "a Keras 3 model", "edgebuild takes PyTorch and ONNX; convert it to ONNX with tf2onnx")
    if all(name.endswith(".npy") for name in names):
        raise _wrong(path, "numpy arrays (.npz)", "arrays are no model; give input sets with --sample")
    if any(name.endswith("MANIFEST.MF") for name in names):
        raise _wrong(path, "a Java archive (.jar, .mar)", "unpack it and give the model inside")
    if any(name.startswith("coremldata") or name.endswith(".mlmodel") for name in names):
        raise _wrong(path, "a Core ML model", "give the PyTorch model it was converted from")
    models = [name for name in names if name.endswith((".pt", ".pth", ".onnx", ".pt2"))]
    if models:
        raise _wrong(path, f"a zip archive that holds {models[0]}", "unpack it and give the model inside")
    raise _wrong(path, f"a zip archive with {names[0]} and {len(names) - 1} more", _SUPPORTED)


def _exported(path: Path, archive: zipfile.ZipFile, names: list[str], inner: set[str]) -> FileIdentity:
    if "serialized_exported_program.json" in names:
        return FileIdentity(
            kind=FileKind.TORCH_EXPORT, description="a torch.export program (format of PyTorch 2.1 to 2.8)"
        )
    if not any(name.startswith("models/") and name.endswith(".json") for name in inner):
        if any(name.startswith("data/aotinductor/") for name in inner):
            raise _wrong(
                path, "an AOTInductor package (.pt2 with compiled code only)", "give the file from torch.export.save"
            )
        msg = f"{path}: a .pt2 archive without a program"
        raise ModelError(msg, hint="save it with torch.export.save")
    bad = archive.testzip() if sum(i.file_size for i in archive.infolist()) < 1 << 24 else None
    if bad is not None:
        msg = f"{path}: a .pt2 archive that is damaged at {bad}"
        raise ModelError(msg, hint="save or download it again")
    return FileIdentity(kind=FileKind.TORCH_EXPORT, description="a torch.export program")


def _tar(path: Path, head: bytes, size: int) -> FileIdentity:
    import tarfile

    name = head[:100].split(b"\0")[0].decode("utf-8", "replace")
    try:
        with tarfile.open(path, "r:") as archive:
            members = archive.getnames()
    except (tarfile.TarError, EOFError, OSError, ValueError):
        msg = f"{path}: a tar archive that is truncated or damaged ({size} bytes)"
        raise ModelError(msg, hint="save or download it again") from None
    if any(member.endswith("manifest.sha256") for member in members):
        raise _wrong(
            path, "an edgebuild bundle", "run it with: edgebuild run BUNDLE; to build, give the model it was made from"
        )
    if {"storages", "tensors", "pickle"} <= set(members):
        raise _wrong(path, "a file of PyTorch before 0.2 (tar)", "load it with an old PyTorch and save it again")
    raise _wrong(path, f"a tar archive with {name}", "unpack it and give the model inside")


def _pickle(path: Path, found: pickles.Scan) -> FileIdentity:
    if found.problem is not None:
        msg = f"{path}: a pickle that is truncated or damaged: {found.problem}"
        raise ModelError(msg, hint="save or download it again")
    if found.is_state_dict:
        return FileIdentity(
            kind=FileKind.STATE_DICT,
            description="a state_dict (weights without a model)",
            hint="say which model they belong to: --model package.module:factory",
            classes=found.classes,
        )
    what = "a pickled object"
    if found.root is not None:
        what = f"a pickled {found.root}"
    return FileIdentity(
        kind=FileKind.PICKLE,
        description=what,
        hint="loading a pickle can run anything; if you trust it: --trust-model",
        classes=found.classes,
    )
