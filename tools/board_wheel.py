#!/usr/bin/env python3
"""Makes a board's wheel out of this machine's and a cross-compiled module: ``tools/board_wheel.py WHEEL MODULE [FOLDER]``.

Everything in a wheel of edgebuild but the extension module is the same for every machine. What the board's is called follows from the
module: its Python from its name, the architecture and the oldest C library from the file.
"""

import base64
import hashlib
import re
import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))

MACHINES = {62: "x86_64", 183: "aarch64", 40: "armv7l", 243: "riscv64"}
"""``e_machine`` by what Python calls the architecture."""

_MODULE = re.compile(r"_runtime\.cpython-3(\d+)-[^.]+\.so")
_PROGRAMS = "edgebuild/_data/prebuilt/"
_DATE = (1980, 1, 1, 0, 0, 0)


def tag_of(module: Path) -> str:
    """E.g. ``cp311-cp311-manylinux_2_28_aarch64``; exits with the reason where the file is no such module."""
    from edgebuild.native.elf import ElfError, read_elf

    name = _MODULE.fullmatch(module.name)
    if name is None:
        sys.exit(f"{module}: expected a file called _runtime.cpython-3XX-ARCH-linux-gnu.so")
    try:
        elf = read_elf(module)
    except (ElfError, OSError) as error:
        sys.exit(f"{module}: not a library: {error}")
    if elf.machine not in MACHINES:
        sys.exit(f"{module}: expected one of {', '.join(MACHINES.values())}, got ELF machine {elf.machine}")
    versions = [
        need.version.removeprefix("GLIBC_") for need in elf.version_needs if need.version.startswith("GLIBC_2.")
    ]
    minor = max((int(version.split(".")[1]) for version in versions), default=17)
    python = f"cp3{name[1]}"
    return f"{python}-{python}-manylinux_2_{minor}_{MACHINES[elf.machine]}"


def repack(wheel: Path, module: Path, folder: Path) -> Path:
    """Writes the board's wheel into ``folder``: the same bytes for the same wheel and module. Runners for boards stay out: it is one."""
    tag = tag_of(module)
    stem = "-".join(wheel.name.split("-")[:2])
    target = folder / f"{stem}-{tag}.whl"
    folder.mkdir(parents=True, exist_ok=True)
    records: list[str] = []
    with zipfile.ZipFile(wheel) as given, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made:

        def add(name: str, data: bytes, mode: int) -> None:
            info = zipfile.ZipInfo(name, _DATE)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            made.writestr(info, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            records.append(f"{name},sha256={digest},{len(data)}")

        about = f"{stem}.dist-info"
        for info in sorted(given.infolist(), key=lambda entry: entry.filename):
            name, data = info.filename, given.read(info)
            if info.is_dir() or name == f"{about}/RECORD" or name.startswith(_PROGRAMS):
                continue
            if re.fullmatch(r"edgebuild/_runtime\.[^/]*\.so", name):
                continue
            if name == f"{about}/WHEEL":
                lines = [line for line in data.decode().splitlines() if line and not line.startswith("Tag:")]
                data = ("\n".join([*lines, f"Tag: {tag}"]) + "\n").encode()
            add(name, data, (info.external_attr >> 16) or 0o100644)
        add(f"edgebuild/{module.name}", module.read_bytes(), 0o100755)
        records.append(f"{about}/RECORD,,")
        made.writestr(zipfile.ZipInfo(f"{about}/RECORD", _DATE), "\n".join(records) + "\n")
    return target


def main() -> None:
    """Prints the wheel's path."""
    if not 3 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    print(repack(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3] if len(sys.argv) > 3 else ".")))


if __name__ == "__main__":
    main()
