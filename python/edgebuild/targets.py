"""Targets: what edgebuild knows about a board, read from one TOML file each (docs/targets.md).

A board is data. The files of this project lie in ``targets/``; a user adds a board by writing a file and passing its
path. Every key is checked: an unknown one, a wrong type, unit or choice is an error that names the file and the key.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edgebuild import _host, _toml
from edgebuild.errors import IncompatibleError, UsageError

SCHEMA_VERSION = 1

ARCHITECTURES = ("x86_64", "aarch64", "armv7l", "riscv64")
BACKENDS = ("onnxruntime", "libtorch", "tensorrt", "reference")
PRECISIONS = ("float32", "float16", "bfloat16", "int8")
INTEGER_TYPES = ("int8", "uint8", "int16", "uint16")

# A triple's first part, for each architecture.
_TRIPLE_PREFIXES = {"x86_64": ("x86_64",), "aarch64": ("aarch64",), "armv7l": ("arm", "armv7"), "riscv64": ("riscv64",)}
_NAME = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,99}")
_VERSION = re.compile(r"\d+(\.\d+)+")
_TRIPLE = re.compile(r"[a-z0-9_]+(-[a-z0-9_]+){2,3}")


@dataclass(frozen=True, kw_only=True)
class Soc:
    """The processor.

    Args:
        arch: One of ``ARCHITECTURES``, as ``uname -m`` says it.
        cpu: Model that stands for it under the emulator (``qemu -cpu``).
        features: CPU features that every such board has, named as in /proc/cpuinfo.
        cores: Cores of the smallest board that is meant; None: not known.
        memory_mib: Memory of the smallest board that is meant, in MiB; None: not known.
    """

    arch: str
    cpu: str
    features: tuple[str, ...]
    cores: int | None
    memory_mib: int | None


@dataclass(frozen=True, kw_only=True)
class OperatingSystem:
    """What the board's system provides.

    Args:
        glibc: Oldest C library that a board may have, e.g. "2.28".
        glibcxx: Newest GLIBCXX symbol version of the oldest libstdc++, e.g. "3.4.25".
        libraries: SONAMEs that are there and need not be bundled.
    """

    glibc: str
    glibcxx: str
    libraries: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """How native code is compiled: the GNU triple, and flags in GCC's spelling that choose the processor."""

    triple: str
    cpu_flags: tuple[str, ...]

    @property
    def zig_cpu_flags(self) -> tuple[str, ...]:
        """The same flags as zig's compiler takes them: it knows ``-mcpu`` alone, and writes names with underscores."""
        flags = []
        for flag in self.cpu_flags:
            option, _, value = flag.partition("=")
            if option == "-march" and value.startswith("rv64"):
                # zig's name for the general-purpose set rv64gc, which is all that a target may ask of it.
                flags.append("-mcpu=baseline_rv64")
            elif option in ("-mcpu", "-march"):
                flags.append(f"-mcpu={value.replace('-', '_')}")
            else:
                flags.append(flag)
        return tuple(flags)


@dataclass(frozen=True, kw_only=True)
class BackendSpec:
    """One engine of a target.

    Args:
        name: One of ``BACKENDS``.
        version: The pinned version of the engine.
        opset_max: Highest ONNX opset that this version loads; a ceiling, not the opset to write.
        options: Options of every variant of this backend.
    """

    name: str
    version: str
    opset_max: int
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """A device beside the CPU. Versions are those that the board's system brings."""

    kind: str
    compute_capability: str
    cuda: str
    tensorrt: str | None


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Float and integer precisions that pay on this board, and the one that is used without any flag."""

    supported: tuple[str, ...]
    default: str


@dataclass(frozen=True, kw_only=True)
class QuantizationScheme:
    """One way to write Q/DQ that a backend runs fast and without saturating.

    Args:
        activation: Integer type of activations.
        weight: Integer type of weights.
        symmetric_activations: Whether activations have zero point 0. Weights always do.
        per_channel: Whether weights have a scale for each output channel.
        reduce_range: Whether weights use 7 bits, so that pairs of products fit 16 bits.
        cpu_features: What a CPU must have for this scheme, beyond the target's own features.
    """

    activation: str
    weight: str
    symmetric_activations: bool
    per_channel: bool
    reduce_range: bool
    cpu_features: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Scratch memory that an engine may take, and the size of a bundle, both in MiB; None: no limit."""

    workspace_mib: int | None
    size_mib: int | None


@dataclass(frozen=True, kw_only=True)
class TargetSpec:
    """A board.

    Args:
        name: The file's stem; part of a bundle's name.
        aliases: Other names that ``--target`` takes.
        runtime: Engines in the order in which they are preferred.
        accelerator: None: the CPU alone.
        quantization: For each backend its schemes, best first; a variant is made of each that a CPU may lack.
        portable: False: made for one machine; its bundles are not promised to run anywhere else.
        source: The file.
    """

    name: str
    aliases: tuple[str, ...]
    description: str
    soc: Soc
    os: OperatingSystem
    toolchain: Toolchain
    runtime: tuple[BackendSpec, ...]
    accelerator: Accelerator | None
    precision: Precision
    quantization: Mapping[str, tuple[QuantizationScheme, ...]]
    limits: Limits
    portable: bool
    source: Path

    @property
    def opset_max(self) -> int:
        """Highest ONNX opset that every backend of the target loads."""
        return min(backend.opset_max for backend in self.runtime)

    @property
    def zig_target(self) -> str:
        """What zig's compiler takes as ``-target``: the triple and the oldest C library, e.g. aarch64-linux-gnu.2.28."""
        return f"{self.toolchain.triple}.{self.os.glibc}"

    def backend(self, name: str) -> BackendSpec:
        """The backend of that name.

        Raises:
            UsageError: The target has none; names those that it has.
        """
        for backend in self.runtime:
            if backend.name == name:
                return backend
        have = [backend.name for backend in self.runtime]
        msg = f"target {self.name} has no backend {name!r}; it has {', '.join(have)}"
        raise UsageError(msg, hint=_toml.did_you_mean(name, have))

    def to_json(self) -> dict[str, Any]:
        """One JSON object, as ``edgebuild targets T --json`` prints it. The source's folder stays out of it."""
        data = asdict(self)
        data["source"] = self.source.name
        data["opset_max"] = self.opset_max
        return data


def targets_folder() -> Path:
    """The folder with the project's own target files, in the source tree or in the installed package.

    Raises:
        UsageError: Neither is there: the installation is broken.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "_data" / "targets", package.parent.parent / "targets"):
        if folder.is_dir():
            return folder
    msg = f"no target files beside {package.name}: the installation is incomplete"
    raise UsageError(msg, hint="install edgebuild again")


def list_targets() -> tuple[TargetSpec, ...]:
    """All targets of the project, by name; ``host`` as this machine fills it in, left out where it can't be."""
    targets = []
    for file in sorted(targets_folder().glob("*.toml")):
        try:
            targets.append(load_target_file(file))
        except IncompatibleError:
            continue
    return tuple(targets)


def load_target(name: str) -> TargetSpec:
    """The target of that name or alias, or the one in that file.

    Args:
        name: ``raspberrypi4``, ``jetson``, or a path (with a ``/`` or the suffix ``.toml``).

    Raises:
        UsageError: There is none (with the nearest name), or its file is wrong.
        IncompatibleError: ``host`` on a machine of an architecture that has no base.
    """
    if "/" in name or name.endswith(".toml"):
        return load_target_file(Path(name))
    folder = targets_folder()
    names: dict[str, Path] = {file.stem: file for file in sorted(folder.glob("*.toml"))}
    if name in names:
        return load_target_file(names[name])
    for file in list(names.values()):
        for alias in _read(file).get("aliases", ()):
            names.setdefault(alias, file)
    if name in names:
        return load_target_file(names[name])
    # A user types "Pi4" or "rpi-4" as readily as the name; compare without case and punctuation too.
    plain = {re.sub(r"[^a-z0-9]", "", known.lower()): known for known in names}
    near = get_close_matches(name.lower(), list(names), n=1, cutoff=0.5)
    near = near or [plain[p] for p in get_close_matches(re.sub(r"[^a-z0-9]", "", name.lower()), list(plain), n=1)]
    hint = f"did you mean {near[0]}? " if near else ""
    msg = f"unknown target {name!r}"
    raise UsageError(msg, hint=f"{hint}`edgebuild targets` lists them; a file of your own is passed by its path")


def load_target_file(file: Path) -> TargetSpec:
    """Reads and checks one target file.

    Raises:
        UsageError: The file can't be read, is not TOML, or a key is unknown, missing or wrong; names file and key.
        IncompatibleError: The file is a host template and has no base for this machine's architecture.
    """
    if not _NAME.fullmatch(file.stem):
        msg = f"{file}: {file.stem!r} is no target name: letters, digits, '.', '_', '-' only, and not '-' first"
        raise UsageError(msg, hint="rename the file; its stem is the target's name")
    table = _toml.Table(_read(file), file=str(file))
    version = table.integer("schema_version", minimum=1)
    if version != SCHEMA_VERSION:
        msg = f"{file}: schema_version: expected {SCHEMA_VERSION}, got {version}"
        raise UsageError(msg, hint="the file was written for another version of edgebuild")
    spec = _host_target(file, table) if table.has("host") else _target(file, table)
    table.finish()
    return spec


def _read(file: Path) -> dict[str, Any]:
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


def _target(file: Path, table: _toml.Table) -> TargetSpec:
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
    toolchain = Toolchain(triple=triple, cpu_flags=section.strings("cpu_flags", default=()))
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
        quantization[backend_name] = tuple(_scheme(entry) for entry in section.tables(backend_name))
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


def _backend(table: _toml.Table) -> BackendSpec:
    spec = BackendSpec(
        name=table.choice("name", BACKENDS),
        version=table.string("version", pattern=_VERSION, form='a version such as "1.31.1"'),
        opset_max=table.integer("opset_max", minimum=7),
        options=table.string_map("options"),
    )
    table.finish()
    return spec


def _accelerator(table: _toml.Table) -> Accelerator | None:
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


def _scheme(table: _toml.Table) -> QuantizationScheme:
    scheme = QuantizationScheme(
        activation=table.choice("activation", INTEGER_TYPES),
        weight=table.choice("weight", INTEGER_TYPES),
        symmetric_activations=table.boolean("symmetric_activations"),
        per_channel=table.boolean("per_channel"),
        reduce_range=table.boolean("reduce_range", default=False),
        cpu_features=table.strings("cpu_features", default=()),
    )
    table.finish()
    return scheme


def _host_target(file: Path, table: _toml.Table) -> TargetSpec:
    """A template for this very machine: the target that ``[host]`` names for its architecture, with its own CPU."""
    description = table.string("description")
    aliases = table.strings("aliases", default=())
    section = table.table("host")
    bases = {arch: section.string(arch) for arch in section if arch in ARCHITECTURES}
    section.finish(known=ARCHITECTURES)
    machine = _host.this_machine()
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
        os=replace(base.os, glibc=machine.glibc or base.os.glibc),
        quantization=quantization,
        portable=False,
        source=file,
    )
