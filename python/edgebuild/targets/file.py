"""Reads one target file and checks every key of it."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgebuild.errors import IncompatibleError, UsageError
from edgebuild.machine import this_machine
from edgebuild.targets.spec import (
    ARCHITECTURES,
    BACKENDS,
    FUSED_OPERATORS,
    INTEGER_TYPES,
    PRECISIONS,
    TOOLCHAIN_FAMILIES,
    Accelerator,
    BackendSpec,
    Limits,
    OperatingSystem,
    Precision,
    QuantizationScheme,
    Soc,
    TargetSpec,
    Toolchain,
)
from edgebuild.targets.toml_table import Table

SCHEMA_VERSION = 1

# A triple's first part, for each architecture.
_TRIPLE_PREFIXES = {"x86_64": ("x86_64",), "aarch64": ("aarch64",), "armv7l": ("arm", "armv7"), "riscv64": ("riscv64",)}
_NAME = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,99}")
_VERSION = re.compile(r"\d+(\.\d+)+")
_TRIPLE = re.compile(r"[a-z0-9_]+(-[a-z0-9_]+){2,3}")


def load_target_file(file: Path) -> TargetSpec:
    """Reads and checks one target file.

    Raises:
        UsageError: The file can't be read, is not TOML, or a key is unknown, missing or wrong; names file and key.
        IncompatibleError: The file is a host template and has no base for this machine's architecture.
    """
    if not _NAME.fullmatch(file.stem):
        msg = f"{file}: {file.stem!r} is no target name: letters, digits, '.', '_', '-' only, and not '-' first"
        raise UsageError(msg, hint="rename the file; its stem is the target's name")
    table = Table(read_toml(file), file=str(file))
    version = table.integer("schema_version", minimum=1)
    if version != SCHEMA_VERSION:
        msg = f"{file}: schema_version: expected {SCHEMA_VERSION}, got {version}"
        raise UsageError(msg, hint="the file was written for another version of edgebuild")
    spec = _host_target(file, table) if table.has("host") else _target(file, table)
    table.finish()
    return spec


def read_toml(file: Path) -> dict[str, Any]:
    """The file as nested values; UsageError if it can't be read or is no TOML."""
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except FileNotFoundError:
        msg = f"target file {file} does not exist"
        raise UsageError(msg, hint="`edgebuild targets` lists the targets that need no file") from None
    except OSError as error:
        msg = f"target file {file} can't be read: {error.strerror}"
        raise UsageError(msg) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{file}: not valid TOML: {error}"
        raise UsageError(msg) from None


def _beside(file: Path, section: Table, key: str) -> str | None:
    """A path of a target file; a relative one is meant from the file's folder."""
    return str((file.parent / section.string(key)).resolve()) if section.has(key) else None


def _target(file: Path, table: Table) -> TargetSpec:
    aliases = table.strings("aliases", default=())
    description = table.string("description")
    portable = table.boolean("portable", default=True)

    section = table.table("soc")
    soc = Soc(
        arch=section.choice("arch", ARCHITECTURES),
        cpu=section.string("cpu"),
        features=section.strings("features"),
        cores=section.integer("cores", minimum=1, default=None),
        memory_mib=section.integer("memory_mib", minimum=1, unit="MiB", default=None),
    )
    section.finish()

    section = table.table("os")
    system = OperatingSystem(
        glibc=section.string("glibc", pattern=_VERSION, form='a version such as "2.28"'),
        glibcxx=section.string("glibcxx", pattern=_VERSION, form='a version such as "3.4.25"'),
        libraries=section.strings("libraries"),
    )
    section.finish()

    section = table.table("toolchain")
    triple = section.string("triple", pattern=_TRIPLE, form='a GNU triple such as "aarch64-linux-gnu"')
    if triple.split("-")[0] not in _TRIPLE_PREFIXES[soc.arch]:
        wanted = " or ".join(f"{prefix}-…" for prefix in _TRIPLE_PREFIXES[soc.arch])
        section.fail("triple", f"{wanted} for soc.arch {soc.arch!r}", triple)
    toolchain = Toolchain(
        triple=triple,
        cpu_flags=section.strings("cpu_flags", default=()),
        family=section.choice("family", TOOLCHAIN_FAMILIES) if section.has("family") else "zig",
        sysroot=_beside(file, section, "sysroot"),
        file=_beside(file, section, "file"),
    )
    if toolchain.sysroot is not None and toolchain.family == "zig" and toolchain.file is None:
        section.fail("sysroot", 'family "gnu" or "clang" with it (zig brings its own)', toolchain.sysroot)
    for flag in toolchain.cpu_flags:
        if flag.endswith("=native"):  # a bundle would then depend on the machine that built it
            section.fail("cpu_flags", "flags that name the target's processor", flag)
    section.finish()

    runtime = tuple(_backend(entry) for entry in table.tables("runtime"))
    names = [backend.name for backend in runtime]
    if len(set(names)) != len(names):
        table.fail("runtime", "each backend once", ", ".join(names))

    section = table.table("precision")
    supported = section.strings("supported", choices=PRECISIONS)
    precision = Precision(supported=supported, default=section.choice("default", supported))
    section.finish()

    quantization = {}
    section = table.table("quantization", optional=True)
    for backend_name in section:
        if backend_name not in names:
            section.unknown(backend_name, names)
        quantization[backend_name] = tuple(_scheme(entry, backend_name) for entry in section.tables(backend_name))
    section.finish()
    if ("int8" in supported) != bool(quantization):
        got = f"{'no' if not quantization else 'a'} [quantization] with precision.supported = {list(supported)}"
        table.fail("quantization", "a scheme exactly if int8 is supported", got)

    section = table.table("limits", optional=True)
    limits = Limits(
        workspace_mib=section.integer("workspace_mib", minimum=1, unit="MiB", default=None),
        size_mib=section.integer("size_mib", minimum=1, unit="MiB", default=None),
    )
    section.finish()

    return TargetSpec(
        name=file.stem,
        aliases=aliases,
        description=description,
        soc=soc,
        os=system,
        toolchain=toolchain,
        runtime=runtime,
        accelerator=_accelerator(table),
        precision=precision,
        quantization=quantization,
        limits=limits,
        portable=portable,
        source=file,
    )


def _backend(table: Table) -> BackendSpec:
    name = table.choice("name", BACKENDS)
    spec = BackendSpec(
        name=name,
        version=table.string("version", pattern=_VERSION, form='a version such as "1.31.1"'),
        opset_max=None if name == "libtorch" else table.integer("opset_max", minimum=7),
        options=table.string_map("options"),
        fused_operators=table.strings("fused_operators", choices=FUSED_OPERATORS, default=()),
        on_demand=table.boolean("on_demand", default=False),
    )
    table.finish()
    return spec


def _accelerator(table: Table) -> Accelerator | None:
    if not table.has("accelerator"):
        return None
    section = table.table("accelerator")
    accelerator = Accelerator(
        kind=section.choice("kind", ("cuda",)),
        compute_capability=section.string("compute_capability", pattern=_VERSION, form='a version such as "8.7"'),
        cuda=section.string("cuda", pattern=_VERSION, form='a version such as "12.6"'),
        tensorrt=section.string("tensorrt", pattern=_VERSION, form='a version such as "10.3"', default=None),
    )
    section.finish()
    return accelerator


def _scheme(table: Table, backend: str) -> QuantizationScheme:
    scheme = QuantizationScheme(
        activation=table.choice("activation", INTEGER_TYPES),
        weight=table.choice("weight", INTEGER_TYPES),
        symmetric_activations=table.boolean("symmetric_activations"),
        per_channel=table.boolean("per_channel"),
        reduce_range=table.boolean("reduce_range", default=False),
        cpu_features=table.strings("cpu_features", default=()),
        placement="tensorrt" if backend == "tensorrt" else "operators",
    )
    if backend == "tensorrt" and not (scheme.activation == scheme.weight == "int8" and scheme.symmetric_activations):
        got = f"{'' if scheme.symmetric_activations else 'a'}symmetric {scheme.activation} and {scheme.weight}"
        table.fail("activation", "symmetric int8 activations and int8 weights, as TensorRT has no others", got)
    table.finish()
    return scheme


def _host_target(file: Path, table: Table) -> TargetSpec:
    """A template for this very machine: the target that ``[host]`` names for its architecture, with its own CPU."""
    description = table.string("description")
    aliases = table.strings("aliases", default=())
    section = table.table("host")
    bases = {arch: section.string(arch) for arch in section if arch in ARCHITECTURES}
    section.finish(known=ARCHITECTURES)
    machine = this_machine()
    if machine.arch not in bases:
        msg = f"target {file.stem}: this machine is {machine.arch}, and the target is for {', '.join(sorted(bases))}"
        raise IncompatibleError(msg, hint="name a board instead: `edgebuild targets` lists them")
    base = load_target_file(file.parent / f"{bases[machine.arch]}.toml")
    quantization = {
        # Only what this CPU runs, and the best of it first: nothing else will ever be asked of it.
        backend: tuple(s for s in schemes if set(s.cpu_features) <= set(machine.features))
        for backend, schemes in base.quantization.items()
    }
    return replace(
        base,
        name=file.stem,
        aliases=aliases,
        description=f"{description} ({machine.cpu_name})",
        soc=Soc(
            arch=machine.arch,
            cpu="host",
            features=machine.features,
            cores=machine.cores,
            memory_mib=machine.memory_mib,
        ),
        # Not the machine's own C library if it is newer: the runner is then the base target's, compiled once for both.
        os=replace(base.os, glibc=min(base.os.glibc, machine.glibc or base.os.glibc, key=_version_key)),
        quantization=quantization,
        portable=False,
        source=file,
    )


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
