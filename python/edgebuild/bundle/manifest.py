"""The manifest of a bundle as frozen values. docs/bundle-format.md is the specification.

``Manifest.from_bytes`` checks everything that can be checked without the files; ``Manifest.to_bytes`` gives the canonical bytes.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgebuild.bundle import strict_json
from edgebuild.model.signature import Signature

FORMAT_MAJOR = 1
KEEPS_STATE = "state"
"""The model keeps state from run to run, and the goldens are a sequence of steps."""

KNOWN_FEATURES = frozenset({KEEPS_STATE})
"""Names in ``required_features`` that this reader understands."""

Speed = Literal["measured", "unproved"]
Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A listed file: size in bytes, SHA-256 in lower-case hex, and whether it is executable (mode 0755, else 0644)."""

    size: int
    sha256: str
    executable: bool = False

    @property
    def mode(self) -> str:
        return "0755" if self.executable else "0644"

    def to_json(self) -> dict[str, Any]:
        return {"size": self.size, "sha256": self.sha256, "mode": self.mode}

    @classmethod
    def from_json(cls, data: Json) -> "FileEntry":
        return cls(size=data["size"], sha256=data["sha256"], executable=data["mode"] == "0755")


@dataclass(frozen=True, kw_only=True)
class Loader:
    """A C library that the bundle brings: its program loader and its libraries, as paths of the bundle, and its version."""

    program: str
    libraries: tuple[str, ...]
    glibc: str

    def to_json(self) -> dict[str, Any]:
        return {"program": self.program, "libraries": list(self.libraries), "glibc": self.glibc}

    @classmethod
    def from_json(cls, data: Json) -> "Loader":
        return cls(program=data["program"], libraries=tuple(data["libraries"]), glibc=data["glibc"])


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the bundle was built for: the board's name, its architecture and the runner's triple.

    ``loader`` is there where the board's own C library is too old for the engine.
    """

    name: str
    arch: str
    triple: str
    loader: Loader | None = None

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"name": self.name, "arch": self.arch, "triple": self.triple}
        return data if self.loader is None else {**data, "loader": self.loader.to_json()}

    @classmethod
    def from_json(cls, data: Json) -> "Target":
        loader = Loader.from_json(data["loader"]) if "loader" in data else None
        return cls(name=data["name"], arch=data["arch"], triple=data["triple"], loader=loader)


@dataclass(frozen=True, kw_only=True)
class ExternalLibrary:
    """An engine library outside the bundle, found by name in EDGEBUILD_RUNTIME_PATH and held to its size and hash."""

    file: str
    size: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return {"file": self.file, "size": self.size, "sha256": self.sha256}


Library = str | ExternalLibrary
"""A library as a path of the bundle, or outside of it."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """The engine of a variant.

    ``library`` and ``needed``, what it needs that not every system has, are all bundled or all external; each of ``needed`` comes after
    what it needs itself.
    """

    name: str
    version: str
    library: Library
    needed: tuple[Library, ...] = ()

    def to_json(self) -> dict[str, Any]:
        def place(library: Library) -> Any:
            return library.to_json() if isinstance(library, ExternalLibrary) else library

        data = {
            "name": self.name,
            "version": self.version,
            "linkage": "external" if isinstance(self.library, ExternalLibrary) else "bundled",
            "library": place(self.library),
        }
        return {**data, "needed": [place(one) for one in self.needed]} if self.needed else data

    @classmethod
    def from_json(cls, data: Json) -> "Engine":
        def place(library: Any) -> Library:
            if data["linkage"] == "bundled":
                return str(library)
            return ExternalLibrary(file=library["file"], size=library["size"], sha256=library["sha256"])

        return cls(
            name=data["name"],
            version=data["version"],
            library=place(data["library"]),
            needed=tuple(place(one) for one in data.get("needed", ())),
        )


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """What a machine must have to run a variant; what is None (or empty) is not asked for."""

    cpu_features: tuple[str, ...] = ()
    glibc: str | None = None
    memory_bytes: int | None = None
    compute_capability: str | None = None

    def to_json(self) -> dict[str, Any]:
        everything = {
            "cpu_features": list(self.cpu_features) or None,
            "glibc": self.glibc,
            "memory_bytes": self.memory_bytes,
            "compute_capability": self.compute_capability,
        }
        return {key: value for key, value in everything.items() if value is not None}

    @classmethod
    def from_json(cls, data: Json) -> "Requirements":
        return cls(
            cpu_features=tuple(data.get("cpu_features", ())),
            glibc=data.get("glibc"),
            memory_bytes=data.get("memory_bytes"),
            compute_capability=data.get("compute_capability"),
        )


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """An element agrees if ``|got - golden| <= atol + rtol * |golden|``."""

    atol: float = 0.0
    rtol: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {"atol": float(self.atol), "rtol": float(self.rtol)}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to run the model: a backend, its files, and what it needs. See the table in docs/bundle-format.md."""

    name: str
    backend: str
    precision: str
    model: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    tolerances: Mapping[str, Tolerance]
    data: tuple[str, ...] = ()
    engine: Engine | None = None
    plugin: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    requires: Requirements = Requirements()
    speed: Speed = "unproved"
    numerics: Json | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "backend": self.backend,
            "precision": self.precision,
            "model": self.model,
            "data": list(self.data),
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "engine": None if self.engine is None else self.engine.to_json(),
            "plugin": self.plugin,
            "options": dict(self.options),
            "requires": self.requires.to_json(),
            "speed": self.speed,
            "tolerances": {name: tolerance.to_json() for name, tolerance in self.tolerances.items()},
            "numerics": self.numerics,
        }

    @classmethod
    def from_json(cls, data: Json) -> "Variant":
        return cls(
            name=data["name"],
            backend=data["backend"],
            precision=data["precision"],
            model=data["model"],
            data=tuple(data["data"]),
            inputs=tuple(data["inputs"]),
            outputs=tuple(data["outputs"]),
            engine=None if data["engine"] is None else Engine.from_json(data["engine"]),
            plugin=data["plugin"],
            options=dict(data["options"]),
            requires=Requirements.from_json(data["requires"]),
            speed=data["speed"],
            tolerances={
                name: Tolerance(atol=float(entry["atol"]), rtol=float(entry["rtol"]))
                for name, entry in data["tolerances"].items()
            },
            numerics=data["numerics"],
        )


@dataclass(frozen=True, kw_only=True)
class GoldenTensor:
    """A tensor kept in a file of the bundle."""

    dtype: str
    shape: tuple[int, ...]
    file: str

    def to_json(self) -> dict[str, Any]:
        return {"kind": "tensor", "dtype": self.dtype, "shape": list(self.shape), "file": self.file}


@dataclass(frozen=True, kw_only=True)
class GoldenSequence:
    """A sequence of values."""

    items: tuple["GoldenValue", ...]

    def to_json(self) -> dict[str, Any]:
        return {"kind": "sequence", "items": [item.to_json() for item in self.items]}


@dataclass(frozen=True, kw_only=True)
class GoldenNone:
    """An optional that holds nothing."""

    def to_json(self) -> dict[str, Any]:
        return {"kind": "none"}


GoldenValue = GoldenTensor | GoldenSequence | GoldenNone


def golden_value_from_json(data: Json) -> GoldenValue:
    """The inverse of ``to_json``; ``data`` has been validated."""
    if data["kind"] == "tensor":
        return GoldenTensor(dtype=data["dtype"], shape=tuple(data["shape"]), file=data["file"])
    if data["kind"] == "sequence":
        return GoldenSequence(items=tuple(golden_value_from_json(item) for item in data["items"]))
    return GoldenNone()


def golden_tensors(value: GoldenValue) -> Iterator[GoldenTensor]:
    """Every tensor inside a value."""
    if isinstance(value, GoldenTensor):
        yield value
    elif isinstance(value, GoldenSequence):
        for item in value.items:
            yield from golden_tensors(item)


@dataclass(frozen=True, kw_only=True)
class Golden:
    """One run of the original model: a value for every input and output, by the signature's names."""

    inputs: Mapping[str, GoldenValue]
    outputs: Mapping[str, GoldenValue]

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": {name: value.to_json() for name, value in self.inputs.items()},
            "outputs": {name: value.to_json() for name, value in self.outputs.items()},
        }

    @classmethod
    def from_json(cls, data: Json) -> "Golden":
        return cls(
            inputs={name: golden_value_from_json(value) for name, value in data["inputs"].items()},
            outputs={name: golden_value_from_json(value) for name, value in data["outputs"].items()},
        )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A whole manifest. ``minor`` is that of the file; keys of a newer minor are dropped.

    A new manifest gets the lowest minor that has all its keys.
    """

    name: str
    target: Target
    signature: Signature
    variants: tuple[Variant, ...]
    files: Mapping[str, FileEntry]
    goldens: tuple[Golden, ...] = ()
    producer: Mapping[str, str] = field(default_factory=dict)
    required_features: tuple[str, ...] = ()
    optional_features: tuple[str, ...] = ()
    preprocessing: Json | None = None
    quantization: Json | None = None
    placement: Json | None = None
    minor: int = 0

    @property
    def top(self) -> str:
        """The archive's top folder."""
        return f"{self.name}.{self.target.name}"

    def to_json(self) -> dict[str, Any]:
        return {
            "format": {"major": FORMAT_MAJOR, "minor": max(self.minor, self._least_minor())},
            "name": self.name,
            "producer": dict(self.producer),
            "target": self.target.to_json(),
            "required_features": list(self.required_features),
            "optional_features": list(self.optional_features),
            "signature": self.signature.to_json(),
            "variants": [variant.to_json() for variant in self.variants],
            "goldens": [golden.to_json() for golden in self.goldens],
            "preprocessing": self.preprocessing,
            "quantization": self.quantization,
            "placement": self.placement,
            "files": {path: entry.to_json() for path, entry in self.files.items()},
        }

    def _least_minor(self) -> int:
        """1 brought the ``step`` of a symbol, 2 an engine's ``needed`` and a target's ``loader``."""
        if self.target.loader or any(variant.engine and variant.engine.needed for variant in self.variants):
            return 2
        return 1 if any(symbol.step > 1 for symbol in self.signature.symbols.values()) else 0

    def to_bytes(self) -> bytes:
        """The canonical bytes; the same for equal manifests, whatever the order of their mappings."""
        return strict_json.canonical(self.to_json())

    @classmethod
    def from_json(cls, data: Any) -> "Manifest":
        """Check parsed JSON against every rule, then convert it.

        Raises:
            BundleError: A rule is broken; the message names the key, what was expected and what came.
            IncompatibleError: Another major version, or a required feature that this reader does not know.
        """
        from edgebuild.bundle.validate import check_manifest

        check_manifest(data)
        return cls(
            name=data["name"],
            target=Target.from_json(data["target"]),
            signature=Signature.from_json(data["signature"]),
            variants=tuple(Variant.from_json(variant) for variant in data["variants"]),
            files={path: FileEntry.from_json(entry) for path, entry in data["files"].items()},
            goldens=tuple(Golden.from_json(golden) for golden in data["goldens"]),
            producer=dict(data["producer"]),
            required_features=tuple(data["required_features"]),
            optional_features=tuple(data["optional_features"]),
            preprocessing=data["preprocessing"],
            quantization=data["quantization"],
            placement=data["placement"],
            minor=data["format"]["minor"],
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Manifest":
        """Parse and check the bytes of a ``manifest.json``. Raises as ``from_json``."""
        return cls.from_json(strict_json.parse(data))


VERSION_PATTERN = r"[0-9]{1,4}\.[0-9]{1,4}"
"""Of ``glibc`` and ``compute_capability``."""

VERSION = re.compile(VERSION_PATTERN)
