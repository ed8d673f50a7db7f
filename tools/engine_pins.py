#!/usr/bin/env python3
"""Prints the table of native/engines.toml for an engine that comes as Debian packages, from their pins in debian.toml.

    tools/engine_pins.py SET ARCH LIBRARY      e.g. onnxruntime armhf libonnxruntime.so.1.21

Downloads the set's packages, follows what the library needs, and orders it so that nothing comes before what it needs itself.
Run it after tools/debian_pins.py has changed a set. Needs readelf (binutils).
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SYSTEM = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1")
sys.path.insert(0, str(ROOT / "python"))


def main() -> None:
    """Prints the keys that hang on the packages."""
    from edgebuild.cache import Cache, file_sha256
    from edgebuild.native.debian import fetch_package, pinned_packages

    if len(sys.argv) != 4:
        sys.exit(__doc__)
    name, arch, library = sys.argv[1:]
    where: dict[str, tuple[str, Path]] = {}
    for package in pinned_packages(name, arch):
        folder = fetch_package(package, Cache.default())
        for path in sorted(folder.glob("usr/lib/*/*.so*")):
            if path.is_file():
                where.setdefault(path.name, (package.name, path))
    order: list[str] = []
    versions: dict[str, tuple[int, ...]] = {"GLIBC": (0,), "GLIBCXX": (0,)}

    def visit(soname: str) -> None:
        if soname in order or soname.startswith("ld-linux"):
            return
        if soname not in where:
            sys.exit(f"engine_pins.py: no package of {name} for {arch} has {soname}")
        dynamic, needed = _read(where[soname][1])
        for one in needed:
            visit(one)
        order.append(soname)
        if soname not in SYSTEM:
            for kind in versions:
                found = re.findall(rf"\b{kind}_([0-9.]+)", dynamic)
                versions[kind] = max(versions[kind], *(tuple(map(int, v.split("."))) for v in found), (0,))

    visit(library)
    loader = next(path.name for _, path in where.values() if path.name.startswith("ld-linux"))
    folder = where[library][1].parent
    order.remove(library)
    print(f'folder = "usr/lib/{folder.name}"')
    print(f'soname = "{library}"')
    print(f'sha256 = "{file_sha256(where[library][1])}"')
    for kind, version in versions.items():
        print(f'{kind.lower()} = "{".".join(map(str, version))}"')
    print(f'loader = "{loader}"')
    print("system = [" + ", ".join(f'"{one}"' for one in SYSTEM) + "]")
    print("libraries = [")
    for soname in order:
        if soname not in SYSTEM:
            print(f'    "{where[soname][0]}/{soname}",')
    print("]")


def _read(path: Path) -> tuple[str, list[str]]:
    """What readelf says of the versions that a library needs, and the libraries that it needs."""
    command = ["readelf", "--dynamic", "--version-info", "--wide", path]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    needs = text.partition("Version needs section")[2]
    return needs, re.findall(r"\(NEEDED\).*\[(.*)\]", text)


if __name__ == "__main__":
    main()
