"""TorchScript archives with the same bytes for the same module, without traces of the machine that wrote them."""

import re
import shutil
import zipfile
from pathlib import Path

TOP = "model"
"""The archive's one folder; torch would take the file's stem."""

_MANGLED = re.compile(rb"___torch_mangle_(\d+)")
_GLOBAL = re.compile(rb"c(__torch__[^\n]*)\n")
"""A class in a pickle: a module path up to the end of the line. Only there may a name change its length."""


def rewrite_archive(source: Path, target: Path) -> None:
    """Copies an archive that ``torch.jit.save`` wrote, as it would be written anywhere.

    Debug files (they hold source paths) and the writer's own hash are left out; nothing is compressed; dates are fixed; the numbers that
    torch gives to classes, which count what the process compiled before, start from 0.
    """
    numbers: dict[bytes, bytes] = {}

    def number(match: re.Match[bytes]) -> bytes:
        return numbers.setdefault(match.group(0), b"___torch_mangle_%d" % len(numbers))

    with (
        zipfile.ZipFile(source) as archive,
        zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as output,
    ):
        for info in archive.infolist():
            name = info.filename.partition("/")[2]
            if name.endswith(".debug_pkl") or name.startswith(".data/"):
                continue
            renamed = _MANGLED.sub(number, name.encode()).decode()
            entry = zipfile.ZipInfo(f"{TOP}/{renamed}")
            if name.endswith((".py", ".pkl")):
                data = archive.read(info)
                if name.endswith(".py"):
                    data = _MANGLED.sub(number, data)
                else:
                    data = _GLOBAL.sub(lambda match: _MANGLED.sub(number, match.group(0)), data)
                output.writestr(entry, data)
                continue
            entry.file_size = info.file_size
            with archive.open(info) as stream, output.open(entry, "w") as sink:
                shutil.copyfileobj(stream, sink, 1 << 20)
