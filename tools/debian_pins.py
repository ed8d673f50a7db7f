#!/usr/bin/env python3
"""Pins Debian packages: writes a set of python/edgebuild/native/debian.toml anew from a suite's signed package index.

    tools/debian_pins.py SET ARCH [--package NAME] [--suite trixie] [--closure]    one set, as it says
    tools/debian_pins.py --refresh                                                 every set of the table, as it is declared

A set is what belongs together for one purpose and architecture: a package, with --closure also all that it depends on. Needs
apt (its configured mirror is asked, and it checks the index's signature) and no root. Look at the difference, build, run
the tests, commit.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "python" / "edgebuild" / "native" / "debian.toml"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
APT_HELPER = "/usr/lib/apt/apt-helper"
HEADER = """\
# Debian packages that edgebuild downloads for boards and for emulators, each pinned by version and SHA-256.
# Written by tools/debian_pins.py; `tools/debian_pins.py --refresh` takes the suites' present versions.
"""
Index = dict[str, dict[str, str]]


def main() -> None:
    """Reads the arguments and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", nargs="?", help="name of the set")
    parser.add_argument("arch", nargs="?", help="Debian's name of the architecture: amd64, arm64, armhf, riscv64")
    parser.add_argument("--package", help="the package that the set is for (default: the set's name)")
    parser.add_argument("--suite", default="trixie")
    parser.add_argument("--closure", action="store_true", help="also all that the package depends on")
    parser.add_argument("--refresh", action="store_true", help="every set of the table")
    parser.add_argument("--table", type=Path, default=TABLE)
    arguments = parser.parse_args()
    if arguments.refresh == bool(arguments.set and arguments.arch):
        parser.error("name a set and an architecture, or give --refresh")
    table: dict[str, Any] = (
        tomllib.loads(arguments.table.read_text(encoding="utf-8")) if arguments.table.is_file() else {}
    )
    if arguments.refresh:
        wanted = [(name, arch, entry) for name, arches in table.items() for arch, entry in arches.items()]
    else:
        entry = {
            "package": arguments.package or arguments.set,
            "suite": arguments.suite,
            "closure": arguments.closure,
            **table.get(arguments.set, {}).get(arguments.arch, {}),
        }
        wanted = [(arguments.set, arguments.arch, entry)]
    indexes: dict[tuple[str, str], Index] = {}
    for name, arch, entry in wanted:
        key = (entry["suite"], arch)
        if key not in indexes:
            indexes[key] = read_index(*key)
        packages = pins(indexes[key], entry["package"], closure=entry["closure"])
        if packages != entry.get("packages"):
            entry = {**entry, "snapshot": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()), "packages": packages}
        table.setdefault(name, {})[arch] = entry
    arguments.table.write_text(as_toml(table), encoding="utf-8")


def read_index(suite: str, arch: str) -> Index:
    """The suite's packages for an architecture, by name; what is only provided points at the package that does."""
    sys.path.insert(0, str(ROOT / "python"))
    from edgebuild.native.debian_mirror import configured_mirrors

    mirrors = configured_mirrors()
    if isinstance(mirrors, Path):
        sys.exit("debian_pins.py: EDGEBUILD_DEBIAN_MIRROR is a folder; an index needs a mirror")
    with tempfile.TemporaryDirectory(prefix="debian-pins-") as name:
        work = Path(name)
        for folder in ("lists/partial", "cache/archives/partial"):
            (work / folder).mkdir(parents=True)
        (work / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirrors[0].uri} {suite} main\n")
        options = {
            "Dir::Etc::sourcelist": work / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::Lists": work / "lists",
            "Dir::Cache": work / "cache",
            "APT::Sandbox::User": "root",
            "APT::Architecture": arch,
            "APT::Architectures": arch,
        }
        apt = ["apt-get", "-qq", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]
        if subprocess.run([*apt, "update"], check=False).returncode != 0:
            sys.exit(
                f"debian_pins.py: {mirrors[0].uri} gave no sound index of {suite} for {arch}; apt's own words are above"
            )
        found = run([*apt, "indextargets", "--format", "$(FILENAME)", "Created-By: Packages"]).split()
        text = run([APT_HELPER, "cat-file", *found])
    index: Index = {}
    stanzas = [dict(re.findall(r"^([A-Za-z0-9-]+): *(.*)$", s, re.MULTILINE)) for s in text.split("\n\n") if s.strip()]
    for stanza in stanzas:
        index[stanza["Package"]] = stanza
    for stanza in stanzas:
        for provided in re.findall(r"(?:^|,)\s*([a-z0-9][a-z0-9+.-]*)", stanza.get("Provides", "")):
            index.setdefault(provided, stanza)
    return index


def run(command: list[str]) -> str:
    """A command's output."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def pins(index: Index, package: str, *, closure: bool) -> list[dict[str, object]]:
    """The pins of a package; with its closure, in the order in which they are met, itself first."""
    found: dict[str, dict[str, str]] = {}
    queue = [package]
    while queue:
        name = queue.pop(0)
        if name not in index:
            sys.exit(f"debian_pins.py: the suite has no package {name}")
        stanza = index[name]
        if stanza["Package"] in found:
            continue
        found[stanza["Package"]] = stanza
        if closure:
            clauses = [c for key in ("Pre-Depends", "Depends") for c in stanza.get(key, "").split(",") if c.strip()]
            for clause in clauses:
                choices = [re.split(r"[\s(:]", choice.strip())[0] for choice in clause.split("|")]
                queue.append(next((choice for choice in choices if choice in index), choices[0]))
    return [
        {
            "name": stanza["Package"],
            "version": stanza["Version"],
            "arch": stanza["Architecture"],
            "path": stanza["Filename"],
            "size": int(stanza["Size"]),
            "sha256": stanza["SHA256"],
        }
        for stanza in found.values()
    ]


def as_toml(table: dict[str, Any]) -> str:
    """The table's text; all its values are plain words, numbers and booleans."""

    def line(key: str, value: object) -> str:
        text = str(value).lower() if isinstance(value, bool) else value if isinstance(value, int) else f'"{value}"'
        return f"{key} = {text}"

    parts = [HEADER]
    for name, arches in sorted(table.items()):
        for arch, entry in sorted(arches.items()):
            quoted = name if re.fullmatch("[A-Za-z0-9_-]+", name) else f'"{name}"'
            head = [line(key, entry[key]) for key in ("package", "suite", "closure", "snapshot")]
            parts.append("\n".join([f"[{quoted}.{arch}]", *head]) + "\n")
            for package in entry["packages"]:
                lines = [line(key, value) for key, value in package.items()]
                parts.append("\n".join([f"[[{quoted}.{arch}.packages]]", *lines]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    main()
