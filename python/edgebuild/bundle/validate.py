"""Every rule of a manifest that goes beyond JSON. Messages name the key's path, what was expected and what came.

The order of checks is part of the format: the major version, then the required features, then the rest, so that a reader
says "too new" rather than "corrupt" about what it can't know.
"""

import math
from typing import Any

from edgebuild.bundle.access import (
    a_choice,
    a_file,
    a_list,
    a_magnitude,
    a_map,
    a_name,
    a_scalar,
    a_segment,
    a_sha256,
    a_size,
    a_string,
    an_object,
    check_names,
    get,
    optional,
    refuse,
    strings,
    unique,
)
from edgebuild.bundle.manifest import FORMAT_MAJOR, KNOWN_FEATURES, VERSION
from edgebuild.bundle.paths import RESERVED, find_conflict, is_path, is_segment
from edgebuild.bundle.preprocessing import find_problem
from edgebuild.errors import IncompatibleError
from edgebuild.model.signature import DTYPES

MAX_FILES = 10_000
MAX_VARIANTS = 64
MAX_VALUES = 1_024
MAX_GOLDENS = 256
MAX_LIBRARIES = 256
MAX_RANK = 16
MAX_BITS = 2**63 - 1
FREE_FOLDERS = ("bin/", "lib/", "licenses/")
"""Where a file needs no reference."""

STRUCTURES = ("tensor", "tuple", "list", "dict", "constant")


def check_manifest(data: Any) -> None:
    """Check a parsed manifest.

    Raises:
        BundleError: A rule is broken.
        IncompatibleError: Another major version, or a required feature that this reader does not know.
    """
    an_object("", data)
    form = an_object("format", get("", data, "format"))
    major = a_size("format.major", get("format", form, "major"))
    a_size("format.minor", get("format", form, "minor"))
    if major != FORMAT_MAJOR:
        message = f"manifest.json: format.major: this reader knows version {FORMAT_MAJOR}, the bundle has {major}"
        raise IncompatibleError(message, hint="use the edgebuild or edgerun that comes with the bundle, or a newer one")
    for feature in strings("required_features", get("", data, "required_features")):
        if feature not in KNOWN_FEATURES:
            message = f"manifest.json: required_features: this reader does not know {feature!r}"
            raise IncompatibleError(message, hint="use a newer edgebuild or edgerun")
    _check_head(data)
    signature = an_object("signature", get("", data, "signature"))
    inputs, outputs = _check_signature(signature)
    types = {spec["name"]: spec["type"] for spec in signature["inputs"]}
    problem = find_problem(get("", data, "preprocessing"), types)
    if problem is not None:
        refuse(*problem)
    files = _check_files(get("", data, "files"))
    if "loader" in data["target"]:
        _check_loader("target.loader", data["target"]["loader"], files)
    used = _check_variants(a_list("variants", get("", data, "variants"), MAX_VARIANTS), inputs, outputs, files)
    for index, golden in enumerate(a_list("goldens", get("", data, "goldens"), MAX_GOLDENS)):
        where = f"goldens[{index}]"
        an_object(where, golden)
        for key, names in (("inputs", inputs), ("outputs", outputs)):
            values = an_object(f"{where}.{key}", get(where, golden, key))
            check_names(f"{where}.{key}", values, names)
            for name, value in values.items():
                _check_golden_value(f"{where}.{key}[{name!r}]", value, files, used)
    for path in sorted(files):
        if path not in used and not path.startswith(FREE_FOLDERS):
            refuse(
                f"files[{path!r}]",
                "a file that a variant or a golden refers to, or one in bin/, lib/ or licenses/",
                path,
            )


def _check_head(data: dict[str, Any]) -> None:
    name = a_segment("name", get("", data, "name"))
    a_map("producer", get("", data, "producer"), a_string)
    target = an_object("target", get("", data, "target"))
    target_name = a_segment("target.name", get("target", target, "name"))
    a_segment("target.arch", get("target", target, "arch"))
    a_string("target.triple", get("target", target, "triple"))
    if not is_segment(f"{name}.{target_name}"):
        refuse("name", "at most 100 characters for NAME.TARGET", f"{name}.{target_name}")
    strings("optional_features", get("", data, "optional_features"))
    for key in ("quantization", "placement"):
        optional(key, get("", data, key), an_object)


def _check_signature(signature: dict[str, Any]) -> tuple[list[str], list[str]]:
    inputs, outputs = (
        _check_specs(f"signature.{key}", get("signature", signature, key)) for key in ("inputs", "outputs")
    )
    symbols = an_object("signature.symbols", get("signature", signature, "symbols"))
    for symbol, entry in symbols.items():
        where = f"signature.symbols[{symbol!r}]"
        a_name(where, symbol)
        an_object(where, entry)
        least = a_size(f"{where}.min", get(where, entry, "min"))
        best = a_size(f"{where}.best", get(where, entry, "best"))
        most = optional(f"{where}.max", get(where, entry, "max"), a_size)
        if best < least or (most is not None and best > most):
            refuse(f"{where}.best", f"a size from {least} to {'unbounded' if most is None else most}", best)
        step = a_size(f"{where}.step", entry.get("step", 1))
        if step < 1:
            refuse(f"{where}.step", "a size of 1 or more", step)
        if best % step:
            refuse(f"{where}.best", f"a multiple of the step {step}", best)
    used: set[int] = set()
    _check_structure("signature.output_structure", get("signature", signature, "output_structure"), len(outputs), used)
    for index in range(len(outputs)):
        if index not in used:
            refuse("signature.output_structure", "every output referred to", f"nothing refers to output {index}")
    return inputs, outputs


def _check_specs(where: str, value: Any) -> list[str]:
    names: list[str] = []
    for index, spec in enumerate(a_list(where, value, MAX_VALUES)):
        here = f"{where}[{index}]"
        an_object(here, spec)
        names.append(a_name(f"{here}.name", get(here, spec, "name")))
        _check_type(f"{here}.type", get(here, spec, "type"))
        optional(f"{here}.layout", get(here, spec, "layout"), a_string)
    unique(where, names)
    return names


def _check_type(where: str, value: Any) -> None:
    an_object(where, value)
    kind = a_choice(f"{where}.kind", get(where, value, "kind"), ("tensor", "sequence", "optional"))
    if kind != "tensor":
        _check_type(f"{where}.element", get(where, value, "element"))
        return
    a_choice(f"{where}.dtype", get(where, value, "dtype"), DTYPES)
    shape = get(where, value, "shape")
    if shape is None:
        return
    for axis, dim in enumerate(a_list(f"{where}.shape", shape, MAX_RANK)):
        here = f"{where}.shape[{axis}]"
        if isinstance(dim, str):
            a_name(here, dim)
        elif dim is not None:
            a_size(here, dim)


def _check_structure(where: str, value: Any, outputs: int, used: set[int]) -> None:
    an_object(where, value)
    kinds = [kind for kind in STRUCTURES if kind in value]
    if len(kinds) != 1:
        refuse(where, f"exactly one of {', '.join(STRUCTURES)}", sorted(value))
    here, content = f"{where}.{kinds[0]}", value[kinds[0]]
    if kinds[0] == "tensor":
        if a_size(here, content) >= outputs:
            refuse(here, f"an index below {outputs}", content)
        used.add(content)
    elif kinds[0] == "dict":
        for index, pair in enumerate(a_list(here, content)):
            if len(a_list(f"{here}[{index}]", pair)) != 2:
                refuse(f"{here}[{index}]", "a pair of key and structure", pair)
            a_scalar(f"{here}[{index}][0]", pair[0])
            _check_structure(f"{here}[{index}][1]", pair[1], outputs, used)
    elif kinds[0] == "constant":
        a_scalar(here, content)
    else:
        for index, item in enumerate(a_list(here, content)):
            _check_structure(f"{here}[{index}]", item, outputs, used)


def _check_files(value: Any) -> dict[str, Any]:
    files = an_object("files", value)
    if len(files) > MAX_FILES:
        refuse("files", f"at most {MAX_FILES} entries", len(files))
    for path, entry in files.items():
        where = f"files[{path!r}]"
        if not is_path(path):
            refuse("files", "a path inside the bundle", path)
        an_object(where, entry)
        a_size(f"{where}.size", get(where, entry, "size"))
        a_sha256(f"{where}.sha256", get(where, entry, "sha256"))
        a_choice(f"{where}.mode", get(where, entry, "mode"), ("0644", "0755"))
    conflict = find_conflict((*RESERVED, *files))
    if conflict is not None:
        refuse("files", "paths that differ in more than case, none a folder of another", list(conflict))
    return files


def _check_variants(variants: list[Any], inputs: list[str], outputs: list[str], files: dict[str, Any]) -> set[str]:
    if not variants:
        refuse("variants", "at least one", variants)
    used: set[str] = set()
    names: list[str] = []
    for index, variant in enumerate(variants):
        where = f"variants[{index}]"
        an_object(where, variant)
        names.append(a_segment(f"{where}.name", get(where, variant, "name")))
        a_segment(f"{where}.backend", get(where, variant, "backend"))
        a_string(f"{where}.precision", get(where, variant, "precision"))
        used.add(a_file(f"{where}.model", get(where, variant, "model"), files))
        data = a_list(f"{where}.data", get(where, variant, "data"))
        used.update(a_file(f"{where}.data[{i}]", path, files) for i, path in enumerate(data))
        unique(f"{where}.data", [path.rpartition("/")[2] for path in data])
        engine_inputs = a_list(f"{where}.inputs", get(where, variant, "inputs"))
        engine_outputs = a_list(f"{where}.outputs", get(where, variant, "outputs"))
        for i, name in enumerate(engine_inputs):
            optional(f"{where}.inputs[{i}]", name, a_name)
        for i, name in enumerate(engine_outputs):
            a_name(f"{where}.outputs[{i}]", name)
        for key, given, expected in (("inputs", engine_inputs, inputs), ("outputs", engine_outputs, outputs)):
            if len(given) != len(expected):
                refuse(f"{where}.{key}", f"{len(expected)} entries, as in the signature", len(given))
        engine = get(where, variant, "engine")
        if engine is not None:
            _check_engine(f"{where}.engine", engine, files, used)
        plugin = get(where, variant, "plugin")
        if plugin is not None:
            used.add(a_file(f"{where}.plugin", plugin, files))
        a_map(f"{where}.options", get(where, variant, "options"), a_string)
        _check_requires(f"{where}.requires", get(where, variant, "requires"))
        a_choice(f"{where}.speed", get(where, variant, "speed"), ("measured", "unproved"))
        tolerances = an_object(f"{where}.tolerances", get(where, variant, "tolerances"))
        check_names(f"{where}.tolerances", tolerances, outputs)
        for name, tolerance in tolerances.items():
            here = f"{where}.tolerances[{name!r}]"
            an_object(here, tolerance)
            for key in ("atol", "rtol"):
                a_magnitude(f"{here}.{key}", get(here, tolerance, key))
        optional(f"{where}.numerics", get(where, variant, "numerics"), an_object)
    unique("variants", names)
    return used


def _check_engine(where: str, engine: Any, files: dict[str, Any], used: set[str]) -> None:
    an_object(where, engine)
    a_string(f"{where}.name", get(where, engine, "name"))
    a_string(f"{where}.version", get(where, engine, "version"))
    linkage = a_choice(f"{where}.linkage", get(where, engine, "linkage"), ("bundled", "external"))
    places = [(f"{where}.library", get(where, engine, "library"))]
    needed = a_list(f"{where}.needed", engine.get("needed", []), MAX_LIBRARIES)
    places += [(f"{where}.needed[{index}]", library) for index, library in enumerate(needed)]
    names = []
    for here, library in places:
        if linkage == "bundled":
            used.add(a_file(here, library, files))
            names.append(library.rpartition("/")[2])
            continue
        an_object(here, library)
        names.append(a_segment(f"{here}.file", get(here, library, "file")))
        a_size(f"{here}.size", get(here, library, "size"))
        a_sha256(f"{here}.sha256", get(here, library, "sha256"))
    unique(f"{where}.needed", names)


def _check_loader(where: str, loader: Any, files: dict[str, Any]) -> None:
    an_object(where, loader)
    program = a_file(f"{where}.program", get(where, loader, "program"), files)
    if files[program]["mode"] != "0755":
        refuse(f"{where}.program", "a file of mode 0755", program)
    libraries = a_list(f"{where}.libraries", get(where, loader, "libraries"), MAX_LIBRARIES)
    for index, library in enumerate(libraries):
        a_file(f"{where}.libraries[{index}]", library, files)
    unique(f"{where}.libraries", [path.rpartition("/")[2] for path in (program, *libraries)])
    for path in (program, *libraries):
        if not path.startswith("lib/"):
            refuse(where, "paths in lib/", path)
    _version(f"{where}.glibc", get(where, loader, "glibc"))


def _check_requires(where: str, value: Any) -> None:
    requires = an_object(where, value)
    if "cpu_features" in requires:
        strings(f"{where}.cpu_features", requires["cpu_features"])
    if "memory_bytes" in requires:
        a_size(f"{where}.memory_bytes", requires["memory_bytes"])
    for key in ("glibc", "compute_capability"):
        if key in requires:
            _version(f"{where}.{key}", requires[key])


def _version(where: str, value: Any) -> None:
    if VERSION.fullmatch(a_string(where, value)) is None:
        refuse(where, 'a version such as "2.28"', value)


def _check_golden_value(where: str, value: Any, files: dict[str, Any], used: set[str]) -> None:
    an_object(where, value)
    kind = a_choice(f"{where}.kind", get(where, value, "kind"), ("tensor", "sequence", "none"))
    if kind == "sequence":
        for index, item in enumerate(a_list(f"{where}.items", get(where, value, "items"))):
            _check_golden_value(f"{where}.items[{index}]", item, files, used)
    if kind != "tensor":
        return
    dtype = a_choice(f"{where}.dtype", get(where, value, "dtype"), DTYPES)
    shape = a_list(f"{where}.shape", get(where, value, "shape"), MAX_RANK)
    sizes = [a_size(f"{where}.shape[{axis}]", size) for axis, size in enumerate(shape)]
    bits = DTYPES[dtype][1] or 32  # a string's length field
    if bits * math.prod(size for size in sizes if size) > MAX_BITS:
        refuse(f"{where}.shape", "a size in bits below 2^63", sizes)
    path = a_file(f"{where}.file", get(where, value, "file"), files)
    used.add(path)
    expected, got = (bits * math.prod(sizes) + 7) // 8, files[path]["size"]
    if got < expected or (got > expected and dtype != "string"):
        least = "at least " if dtype == "string" else ""
        refuse(f"{where}.file", f"{least}{expected} bytes for {dtype}{sizes}", f"{path} of {got} bytes")
