"""TargetSpec and its parts: what edgebuild knows about a board, as frozen values."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgebuild.errors import UsageError
from edgebuild.targets.toml_table import did_you_mean

TOOLCHAIN_FAMILIES = ("zig", "gnu", "clang")
ARCHITECTURES = ("x86_64", "aarch64", "armv7l", "riscv64")
BACKENDS = ("onnxruntime", "libtorch", "tensorrt", "reference")
PRECISIONS = ("float32", "float16", "bfloat16", "int8")
INTEGER_TYPES = ("int8", "uint8", "int16", "uint16")
FUSED_OPERATORS = (
    "ai.onnx.SimplifiedLayerNormalization",
    "com.microsoft.DynamicQuantizeLSTM",
    "com.microsoft.DynamicQuantizeMatMul",
    "com.microsoft.FastGelu",
    "com.microsoft.Gelu",
    "com.microsoft.MatMulIntegerToFloat",
    "com.microsoft.MatMulNBits",
    "com.microsoft.MultiHeadAttention",
    "edgebuild.QuantizeRows",
    "edgebuild.RescaleRows",
)
"""Operators outside the ONNX standard that graph passes and quantisation can write, as domain and name."""


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
    """How native code is compiled.

    Args:
        triple: The GNU triple.
        cpu_flags: Flags that choose the processor, as the family's compiler spells them.
        family: One of ``TOOLCHAIN_FAMILIES``.
        sysroot: Folder with the board's headers and libraries, for "gnu" and "clang"; None: the compiler's own.
        file: A CMake toolchain file in place of the family's own; None: that one.
    """

    triple: str
    cpu_flags: tuple[str, ...]
    family: str = "zig"
    sysroot: str | None = None
    file: str | None = None


@dataclass(frozen=True, kw_only=True)
class BackendSpec:
    """One engine of a target.

    Args:
        name: One of ``BACKENDS``.
        version: The pinned version of the engine.
        opset_max: Highest ONNX opset that this version loads; a ceiling, not the opset to write. None: it loads no ONNX.
        options: Options of every variant of this backend.
        fused_operators: Operators outside the ONNX standard for which this version has kernels, of ``FUSED_OPERATORS``.
        on_demand: Whether bundles have it only where ``--backend`` asks for it, or where no other backend can take the model.
    """

    name: str
    version: str
    opset_max: int | None
    options: Mapping[str, str] = field(default_factory=dict)
    fused_operators: tuple[str, ...] = ()
    on_demand: bool = False


NEWEST_OPSET = 26
"""Where no backend of a target loads ONNX, and so none sets a limit."""


def lowest_opset(backends: Iterable[BackendSpec]) -> int:
    """The highest ONNX opset that all of these backends load, of those that load ONNX."""
    return min((spec.opset_max for spec in backends if spec.opset_max is not None), default=NEWEST_OPSET)


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
        placement: Whose rules say where Q/DQ lie: "operators", around each operator with an integer kernel, or "tensorrt".
    """

    activation: str
    weight: str
    symmetric_activations: bool
    per_channel: bool
    reduce_range: bool
    cpu_features: tuple[str, ...] = ()
    placement: str = "operators"


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
        """Highest ONNX opset that every backend of the target loads that loads ONNX at all."""
        return lowest_opset(self.runtime)

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
        raise UsageError(msg, hint=did_you_mean(name, have))

    def to_json(self) -> dict[str, Any]:
        """One JSON object, as ``edgebuild targets T --json`` prints it. The source's folder stays out of it."""
        data = asdict(self)
        data["source"] = self.source.name
        data["opset_max"] = self.opset_max
        return data
