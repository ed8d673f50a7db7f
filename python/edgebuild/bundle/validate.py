"""Every rule of a manifest that goes beyond JSON. Messages name the key's path, what was expected and what came.

The order of checks is part of the format: the major version, then the required features, then the rest, so that a reader
says "too new" rather than "corrupt" about what it can't know.
"""

import math
import re
from collections.abc import Callable, Collection
from typing import Any, NoReturn

from edgebuild.bundle.manifest import FORMAT_MAJOR, KNOWN_FEATURES, VERSION
from edgebuild.bundle.paths import RESERVED, find_conflict, is_path, is_segment
from edgebuild.bundle.preprocessing import find_problem
from edgebuild.errors import BundleError, IncompatibleError
from edgebuild.model.signature import DTYPES

MAX_FILES = 10_000
MAX_VARIANTS = 64
MAX_VALUES = 1_024
MAX_GOLDENS = 256
MAX_NAME_BYTES = 1_024
MAX_RANK = 16
MAX_BITS = 2**63 - 1
FREE_FOLDERS = ("bin/", "lib/", "licenses/")
"""Where a file needs no reference."""

STRUCTURES = ("tensor", "tuple", "list", "dict", "constant")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MISSING = object()

Check = Callable[[str, Any], object]


def check_manifest(data: Any) -> None:
    """Check a parsed manifest.

    Raises:
        BundleError: A rule is broken.
        IncompatibleError: Another major version, or a required feature that this reader does not know.
    """
    _object("", data)
    form = _object("format", _get("", data, "format"))
    major = _size("format.major", _get("format", form, "major"))
    _size("format.minor", _get("format", form, "minor"))
    if major != FORMAT_MAJOR:
        message = f"manifest.json: format.major: this reader knows version {FORMAT_MAJOR}, the bundle has {major}"
        raise IncompatibleError(message, hint="use the edgebuild or edgerun that comes with the bundle, or a newer one")
    for feature in _strings("required_features", _get("", data, "required_features")):
        if feature not in KNOWN_FEATURES:
            message = f"manifest.json: required_features: this reader does not know {feature!r}"
            raise IncompatibleError(message, hint="use a newer edgebuild or edgerun")
    _check_head(data)
    signature = _object("signature", _get("", data, "signature"))
    inputs, outputs = _check_signature(signature)
    types = {spec["name"]: spec["type"] for spec in signature["inputs"]}
    problem = find_problem(_get("", data, "preprocessing"), types)
    if problem is not None:
        _refuse(*problem)
    files = _check_files(_get("", data, "files"))
    used = _check_variants(_list("variants", _get("", data, "variants"), MAX_VARIANTS), inputs, outputs, files)
    for index, golden in enumerate(_list("goldens", _get("", data, "goldens"), MAX_GOLDENS)):
        where = f"goldens[{index}]"
        _object(where, golden)
        for key, names in (("inputs", inputs), ("outputs", outputs)):
            values = _object(f"{where}.{key}", _get(where, golden, key))
            _check_names(f"{where}.{key}", values, names)
            for name, value in values.items():
                _check_golden_value(f"{where}.{key}[{name!r}]", value, files, used)
    for path in sorted(files):
        if path not in used and not path.startswith(FREE_FOLDERS):
            _refuse(
                f"files[{path!r}]",
                "a file that a variant or a golden refers to, or one in bin/, lib/ or licenses/",
                path,
            )


def _check_head(data: dict[str, Any]) -> None:
    name = _segment("name", _get("", data, "name"))
    _map("producer", _get("", data, "producer"), _string)
    target = _object("target", _get("", data, "target"))
    target_name = _segment("target.name", _get("target", target, "name"))
    _segment("target.arch", _get("target", target, "arch"))
    _string("target.triple", _get("target", target, "triple"))
    if not is_segment(f"{name}.{target_name}"):
        _refuse("name", "at most 100 characters for NAME.TARGET", f"{name}.{target_name}")
    _strings("optional_features", _get("", data, "optional_features"))
    for key in ("quantization", "placement"):
        _optional(key, _get("", data, key), _object)


def _check_signature(signature: dict[str, Any]) -> tuple[list[str], list[str]]:
    inputs, outputs = (
        _check_specs(f"signature.{key}", _get("signature", signature, key)) for key in ("inputs", "outputs")
    )
    symbols = _object("signature.symbols", _get("signature", signature, "symbols"))
    for symbol, entry in symbols.items():
        where = f"signature.symbols[{symbol!r}]"
        _name(where, symbol)
        _object(where, entry)
        least = _size(f"{where}.min", _get(where, entry, "min"))
        best = _size(f"{where}.best", _get(where, entry, "best"))
        most = _optional(f"{where}.max", _get(where, entry, "max"), _size)
        if best < least or (most is not None and best > most):
            _refuse(f"{where}.best", f"a size from {least} to {'unbounded' if most is None else most}", best)
        step = _size(f"{where}.step", entry.get("step", 1))
        if step < 1:
            _refuse(f"{where}.step", "a size of 1 or more", step)
        if best % step:
            _refuse(f"{where}.best", f"a multiple of the step {step}", best)
    used: set[int] = set()
    _check_structure("signature.output_structure", _get("signature", signature, "output_structure"), len(outputs), used)
    for index in range(len(outputs)):
        if index not in used:
            _refuse("signature.output_structure", "every output referred to", f"nothing refers to output {index}")
    return inputs, outputs


def _check_specs(where: str, value: Any) -> list[str]:
    names: list[str] = []
    for index, spec in enumerate(_list(where, value, MAX_VALUES)):
        here = f"{where}[{index}]"
        _object(here, spec)
        names.append(_name(f"{here}.name", _get(here, spec, "name")))
        _check_type(f"{here}.type", _get(here, spec, "type"))
        _optional(f"{here}.layout", _get(here, spec, "layout"), _string)
    _unique(where, names)
    return names


def _check_type(where: str, value: Any) -> None:
    _object(where, value)
    kind = _choice(f"{where}.kind", _get(where, value, "kind"), ("tensor", "sequence", "optional"))
    if kind != "tensor":
        _check_type(f"{where}.element", _get(where, value, "element"))
        return
    _choice(f"{where}.dtype", _get(where, value, "dtype"), DTYPES)
    shape = _get(where, value, "shape")
    if shape is None:
        return
    for axis, dim in enumerate(_list(f"{where}.shape", shape, MAX_RANK)):
        here = f"{where}.shape[{axis}]"
        if isinstance(dim, str):
            _name(here, dim)
        elif dim is not None:
            _size(here, dim)


def _check_structure(where: str, value: Any, outputs: int, used: set[int]) -> None:
    _object(where, value)
    kinds = [kind for kind in STRUCTURES if kind in value]
    if len(kinds) != 1:
        _refuse(where, f"exactly one of {', '.join(STRUCTURES)}", sorted(value))
    here, content = f"{where}.{kinds[0]}", value[kinds[0]]
    if kinds[0] == "tensor":
        if _size(here, content) >= outputs:
            _refuse(here, f"an index below {outputs}", content)
        used.add(content)
    elif kinds[0] == "dict":
        for index, pair in enumerate(_list(here, content)):
            if len(_list(f"{here}[{index}]", pair)) != 2:
                _refuse(f"{here}[{index}]", "a pair of key and structure", pair)
            _scalar(f"{here}[{index}][0]", pair[0])
            _check_structure(f"{here}[{index}][1]", pair[1], outputs, used)
    elif kinds[0] == "constant":
        _scalar(here, content)
    else:
        for index, item in enumerate(_list(here, content)):
            _check_structure(f"{here}[{index}]", item, outputs, used)


def _check_files(value: Any) -> dict[str, Any]:
    files = _object("files", value)
    if len(files) > MAX_FILES:
        _refuse("files", f"at most {MAX_FILES} entries", len(files))
    for path, entry in files.items():
        where = f"files[{path!r}]"
        if not is_path(path):
            _refuse("files", "a path inside the bundle", path)
        _object(where, entry)
        _size(f"{where}.size", _get(where, entry, "size"))
        _sha256(f"{where}.sha256", _get(where, entry, "sha256"))
        _choice(f"{where}.mode", _get(where, entry, "mode"), ("0644", "0755"))
    conflict = find_conflict((*RESERVED, *files))
    if conflict is not None:
        _refuse("files", "paths that differ in more than case, none a folder of another", list(conflict))
    return files


def _check_variants(variants: list[Any], inputs: list[str], outputs: list[str], files: dict[str, Any]) -> set[str]:
    if not variants:
        _refuse("variants", "at least one", variants)
    used: set[str] = set()
    names: list[str] = []
    for index, variant in enumerate(variants):
        where = f"variants[{index}]"
        _object(where, variant)
        names.append(_segment(f"{where}.name", _get(where, variant, "name")))
        _segment(f"{where}.backend", _get(where, variant, "backend"))
        _string(f"{where}.precision", _get(where, variant, "precision"))
        used.add(_file(f"{where}.model", _get(where, variant, "model"), files))
        data = _list(f"{where}.data", _get(where, variant, "data"))
        used.update(_file(f"{where}.data[{i}]", path, files) for i, path in enumerate(data))
        _unique(f"{where}.data", [path.rpartition("/")[2] for path in data])
        engine_inputs = _list(f"{where}.inputs", _get(where, variant, "inputs"))
        engine_outputs = _list(f"{where}.outputs", _get(where, variant, "outputs"))
        for i, name in enumerate(engine_inputs):
            _optional(f"{where}.inputs[{i}]", name, _name)
        for i, name in enumerate(engine_outputs):
            _name(f"{where}.outputs[{i}]", name)
        for key, given, expected in (("inputs", engine_inputs, inputs), ("outputs", engine_outputs, outputs)):
            if len(given) != len(expected):
                _refuse(f"{where}.{key}", f"{len(expected)} entries, as in the signature", len(given))
        engine = _get(where, variant, "engine")
        if engine is not None:
            _check_engine(f"{where}.engine", engine, files, used)
        plugin = _get(where, variant, "plugin")
        if plugin is not None:
            used.add(_file(f"{where}.plugin", plugin, files))
        _map(f"{where}.options", _get(where, variant, "options"), _string)
        _check_requires(f"{where}.requires", _get(where, variant, "requires"))
        _choice(f"{where}.speed", _get(where, variant, "speed"), ("measured", "unproved"))
        tolerances = _object(f"{where}.tolerances", _get(where, variant, "tolerances"))
        _check_names(f"{where}.tolerances", tolerances, outputs)
        for name, tolerance in tolerances.items():
            here = f"{where}.tolerances[{name!r}]"
            _object(here, tolerance)
            for key in ("atol", "rtol"):
                _magnitude(f"{here}.{key}", _get(here, tolerance, key))
        _optional(f"{where}.numerics", _get(where, variant, "numerics"), _object)
    _unique("variants", names)
    return used


def _check_engine(where: str, engine: Any, files: dict[str, Any], used: set[str]) -> None:
    _object(where, engine)
    _string(f"{where}.name", _get(where, engine, "name"))
    _string(f"{where}.version", _get(where, engine, "version"))
    linkage = _choice(f"{where}.linkage", _get(where, engine, "linkage"), ("bundled", "external"))
    library = _get(where, engine, "library")
    if linkage == "bundled":
        used.add(_file(f"{where}.library", library, files))
        return
    here = f"{where}.library"
    _object(here, library)
    _segment(f"{here}.file", _get(here, library, "file"))
    _size(f"{here}.size", _get(here, library, "size"))
    _sha256(f"{here}.sha256", _get(here, library, "sha256"))


def _check_requires(where: str, value: Any) -> None:
    requires = _object(where, value)
    if "cpu_features" in requires:
        _strings(f"{where}.cpu_features", requires["cpu_features"])
    if "memory_bytes" in requires:
        _size(f"{where}.memory_bytes", requires["memory_bytes"])
    for key in ("glibc", "compute_capability"):
        if key in requires and VERSION.fullmatch(_string(f"{where}.{key}", requires[key])) is None:
            _refuse(f"{where}.{key}", 'a version such as "2.28"', requires[key])


def _check_golden_value(where: str, value: Any, files: dict[str, Any], used: set[str]) -> None:
    _object(where, value)
    kind = _choice(f"{where}.kind", _get(where, value, "kind"), ("tensor", "sequence", "none"))
    if kind == "sequence":
        for index, item in enumerate(_list(f"{where}.items", _get(where, value, "items"))):
            _check_golden_value(f"{where}.items[{index}]", item, files, used)
    if kind != "tensor":
        return
    dtype = _choice(f"{where}.dtype", _get(where, value, "dtype"), DTYPES)
    shape = _list(f"{where}.shape", _get(where, value, "shape"), MAX_RANK)
    sizes = [_size(f"{where}.shape[{axis}]", size) for axis, size in enumerate(shape)]
    bits = DTYPES[dtype][1] or 32  # a string's length field
    if bits * math.prod(size for size in sizes if size) > MAX_BITS:
        _refuse(f"{where}.shape", "a size in bits below 2^63", sizes)
    path = _file(f"{where}.file", _get(where, value, "file"), files)
    used.add(path)
    expected, got = (bits * math.prod(sizes) + 7) // 8, files[path]["size"]
    if got < expected or (got > expected and dtype != "string"):
        least = "at least " if dtype == "string" else ""
        _refuse(f"{where}.file", f"{least}{expected} bytes for {dtype}{sizes}", f"{path} of {got} bytes")


# Accessors. Each takes the key's path and the value, and gives back the value if it is what it should be.


def _refuse(where: str, expected: str, got: Any) -> NoReturn:
    shown = repr(got)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    message = f"manifest.json: {where or 'the root'}: expected {expected}, got {shown}"
    raise BundleError(message)


def _get(where: str, holder: dict[str, Any], key: str) -> Any:
    value = holder.get(key, _MISSING)
    if value is _MISSING:
        message = f"manifest.json: {where}{'.' if where else ''}{key}: the key is missing"
        raise BundleError(message)
    return value


def _object(where: str, value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else _refuse(where, "an object", value)


def _list(where: str, value: Any, limit: int | None = None) -> list[Any]:
    if not isinstance(value, list):
        _refuse(where, "a list", value)
    if limit is not None and len(value) > limit:
        _refuse(where, f"at most {limit} entries", len(value))
    return value


def _string(where: str, value: Any) -> str:
    return value if isinstance(value, str) else _refuse(where, "a string", value)


def _strings(where: str, value: Any) -> list[str]:
    return [_string(f"{where}[{index}]", item) for index, item in enumerate(_list(where, value))]


def _name(where: str, value: Any) -> str:
    text = _string(where, value)
    size = len(text.encode())
    return text if 1 <= size <= MAX_NAME_BYTES else _refuse(where, f"1 to {MAX_NAME_BYTES} bytes", f"{size} bytes")


def _segment(where: str, value: Any) -> str:
    text = _string(where, value)
    return text if is_segment(text) else _refuse(where, "1 to 100 of A-Z a-z 0-9 . _ -", text)


def _size(where: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    _refuse(where, "an integer of 0 or more", value)


def _magnitude(where: str, value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return value
    _refuse(where, "a number of 0 or more", value)


def _scalar(where: str, value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else _refuse(where, "null or a scalar", value)


def _choice(where: str, value: Any, choices: Collection[str]) -> str:
    text = _string(where, value)
    return text if text in choices else _refuse(where, f"one of {', '.join(choices)}", text)


def _sha256(where: str, value: Any) -> str:
    text = _string(where, value)
    return text if _SHA256.fullmatch(text) else _refuse(where, "64 lower-case hexadecimal digits", text)


def _file(where: str, value: Any, files: dict[str, Any]) -> str:
    text = _string(where, value)
    return text if text in files else _refuse(where, "a path that files lists", text)


def _optional(where: str, value: Any, check: Check) -> Any:
    return None if value is None else check(where, value)


def _map(where: str, value: Any, check: Check) -> None:
    for key, item in _object(where, value).items():
        check(f"{where}[{key!r}]", item)


def _unique(where: str, names: list[str]) -> None:
    if len(set(names)) != len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        _refuse(where, "no name twice", twice)


def _check_names(where: str, given: dict[str, Any], expected: list[str]) -> None:
    for name in expected:
        if name not in given:
            _refuse(where, f"an entry for {name!r}", sorted(given))
    for name in given:
        if name not in expected:
            _refuse(where, f"only {expected}", name)
