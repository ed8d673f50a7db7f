"""What this very machine is: architecture, CPU features, memory, C library."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

# What uname calls them, and what manifests and targets do.
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64", "armv7": "armv7l", "armv8l": "armv7l"}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """This machine. ``features`` are those that every core has, sorted; ``glibc`` None: another C library."""

    arch: str
    cpu_name: str
    features: tuple[str, ...]
    cores: int
    memory_mib: int
    glibc: str | None


def machine_arch() -> str:
    """Architecture of this machine as manifests name it."""
    machine = platform.machine().lower()
    return _ARCHITECTURES.get(machine, machine)


def riscv_extensions(isa: str) -> set[str]:
    """Extensions of a RISC-V ISA string such as "rv64imafdcv_zba": lower case, no versions; "g" is i, m, a, f and d.

    The runner on the board splits it the same way (cpp/src/runner/cpu_features.cpp).
    """
    prefix = re.match(r"rv[0-9]+", isa.lower())
    if prefix is None:
        return set()
    extensions: set[str] = set()
    for name in re.findall(r"([sxz][a-z0-9]+|[a-z])(?:[0-9]+(?:p[0-9]+)?)?", isa.lower()[prefix.end() :]):
        extensions |= set("imafd") if name == "g" else {re.sub(r"[0-9]+p[0-9]+$", "", name)}
    return extensions


def parse_cpuinfo(text: str) -> tuple[str, tuple[str, ...]]:
    """CPU name and the features that all cores share, from the text of /proc/cpuinfo.

    x86 says "flags", ARM "Features", RISC-V "isa" (its letters and extensions are the features).
    """
    name = ""
    cores: list[set[str]] = []
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if not separator:
            continue
        key, value = key.strip(), value.strip()
        if key in ("model name", "Model", "uarch") and not name:
            name = value
        elif key in ("flags", "Features"):
            cores.append(set(value.split()))
        elif key == "isa":
            cores.append(riscv_extensions(value))
    return name, tuple(sorted(set.intersection(*cores))) if cores else ()


def this_machine() -> Machine:
    """Reads what the system says about itself."""
    try:
        name, features = parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        name, features = "", ()
    library, version = platform.libc_ver()
    return Machine(
        arch=machine_arch(),
        cpu_name=name or platform.processor() or machine_arch(),
        features=features,
        cores=len(os.sched_getaffinity(0)),
        memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        glibc=version if library == "glibc" else None,
    )
