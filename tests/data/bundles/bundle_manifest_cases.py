"""Manifests, sound and broken, each with the exit code that every reader must give for it."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from bundle_parts import dump, file_entry, sound_manifest
from bundle_preprocessing_cases import preprocessing_cases

OK, CORRUPT, INCOMPATIBLE = 0, 3, 5
Path = tuple[str | int, ...]
REMOVED = object()


def edited(*path: str | int, to: Any) -> dict[str, Any]:
    """The sound manifest with one value replaced, added or (``REMOVED``) taken out."""
    manifest = sound_manifest()
    holder: Any = manifest
    for step in path[:-1]:
        holder = holder[step]
    if to is REMOVED:
        del holder[path[-1]]
    else:
        holder[path[-1]] = to
    return manifest


def nested_type(levels: int) -> dict[str, Any]:
    kind: dict[str, Any] = {"kind": "tensor", "dtype": "float32", "shape": None}
    for _ in range(levels):
        kind = {"kind": "sequence", "element": kind}
    return kind


def _key_paths(value: Any, path: Path = ()) -> Iterator[Path]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in children:
        yield (*path, key)
        yield from _key_paths(item, (*path, key))


# Keys that may be absent: names, not keys of a form, or optional ones.
def _may_be_absent(path: Path) -> bool:
    head = path[0]
    return (
        (head == "producer" and len(path) > 1)
        or path[-2:-1] in (("symbols",), ("requires",), ("options",))
        or "numerics" in path[:-1]
        or "placement" in path[:-1]
    )


def missing_keys() -> Iterator[tuple[str, Any, int]]:
    for path in _key_paths(sound_manifest()):
        if isinstance(path[-1], str) and path[0] != "files" and "output_structure" not in path[:-1]:
            yield (
                f"without-{'.'.join(map(str, path))}",
                edited(*path, to=REMOVED),
                OK if _may_be_absent(path) else CORRUPT,
            )


V0: Path = ("variants", 0)
X: Path = ("signature", "inputs", 0)
GX: Path = ("goldens", 0, "inputs", "x")
HUGE = 2**53 - 1
LIBRARY = {"file": "libz.so.1", "size": 7, "sha256": "ab" * 32}
BUNDLED = {"name": "e", "version": "1", "linkage": "bundled", "library": "bin/edgerun"}
LOADER = {"program": "lib/ld.so", "libraries": ["lib/libc.so.6"], "glibc": "2.41"}

# name, where, what, exit code
_EDITS: list[tuple[str, Path, Any, int]] = [
    ("root-key-unknown", ("novelty",), {"a": [1]}, OK),
    ("variant-key-unknown", (*V0, "novelty"), None, OK),
    ("requires-key-unknown", (*V0, "requires", "novelty"), 1, OK),
    ("minor-newer", ("format", "minor"), 7, OK),
    ("optional-feature-unknown", ("optional_features",), ["sparkle"], OK),
    ("major-newer", ("format", "major"), 2, INCOMPATIBLE),
    ("major-older", ("format", "major"), 0, INCOMPATIBLE),
    ("major-negative", ("format", "major"), -1, CORRUPT),
    ("major-real", ("format", "major"), 1.0, CORRUPT),
    ("major-text", ("format", "major"), "1", CORRUPT),
    ("major-true", ("format", "major"), True, CORRUPT),
    ("minor-negative", ("format", "minor"), -1, CORRUPT),
    ("format-list", ("format",), [1, 0], CORRUPT),
    ("required-feature-unknown", ("required_features",), ["encryption"], INCOMPATIBLE),
    ("required-features-number", ("required_features",), [1], CORRUPT),
    ("required-features-null", ("required_features",), None, CORRUPT),
    ("arch-unknown", ("target", "arch"), "s390x", OK),
    ("arch-not-a-segment", ("target", "arch"), "x86/64", CORRUPT),
    ("name-with-slash", ("name",), "a/b", CORRUPT),
    ("name-dots", ("name",), "..", CORRUPT),
    ("name-empty", ("name",), "", CORRUPT),
    ("name-dash", ("name",), "-x", CORRUPT),
    ("name-too-long-with-target", ("name",), "n" * 95, CORRUPT),
    ("name-line-break", ("name",), "tiny\n", CORRUPT),
    ("producer-number", ("producer", "edgebuild"), 1, CORRUPT),
    ("preprocessing-list", ("preprocessing",), [], CORRUPT),
    ("placement-text", ("placement",), "cpu", CORRUPT),
    ("inputs-object", ("signature", "inputs"), {}, CORRUPT),
    ("input-name-empty", (*X, "name"), "", CORRUPT),
    ("input-name-twice", ("signature", "inputs", 1, "name"), "x", CORRUPT),
    ("input-layout-number", (*X, "layout"), 4, CORRUPT),
    ("input-dtype-unknown", (*X, "type", "dtype"), "float128", CORRUPT),
    ("input-dtype-case", (*X, "type", "dtype"), "Float32", CORRUPT),
    ("input-kind-unknown", (*X, "type", "kind"), "map", CORRUPT),
    ("input-shape-scalar", (*X, "type", "shape"), [], OK),
    ("input-shape-rank-16", (*X, "type", "shape"), [1] * 16, OK),
    ("input-shape-rank-17", (*X, "type", "shape"), [1] * 17, CORRUPT),
    ("input-shape-negative", (*X, "type", "shape"), [-1], CORRUPT),
    ("input-shape-real", (*X, "type", "shape"), [2.0], CORRUPT),
    ("input-shape-true", (*X, "type", "shape"), [True], CORRUPT),
    ("input-shape-symbol-empty", (*X, "type", "shape"), [""], CORRUPT),
    ("input-shape-text", (*X, "type", "shape"), "3", CORRUPT),
    ("input-type-deep", (*X, "type"), nested_type(27), OK),
    ("input-type-too-deep", (*X, "type"), nested_type(28), CORRUPT),
    ("symbol-best-below-min", ("signature", "symbols", "batch", "best"), 0, CORRUPT),
    ("symbol-best-above-max", ("signature", "symbols", "batch", "max"), 7, CORRUPT),
    ("symbol-max-is-best", ("signature", "symbols", "batch", "max"), 8, OK),
    ("symbol-min-negative", ("signature", "symbols", "batch", "min"), -1, CORRUPT),
    ("symbol-unused", ("signature", "symbols", "spare"), {"min": 0, "best": 0, "max": 0}, OK),
    ("symbol-step-1", ("signature", "symbols", "spare"), {"min": 0, "best": 7, "max": 9, "step": 1}, OK),
    ("symbol-step-16", ("signature", "symbols", "spare"), {"min": 1, "best": 64, "max": None, "step": 16}, OK),
    ("symbol-step-0", ("signature", "symbols", "spare"), {"min": 0, "best": 0, "max": 0, "step": 0}, CORRUPT),
    ("symbol-step-negative", ("signature", "symbols", "spare"), {"min": 0, "best": 4, "max": 8, "step": -2}, CORRUPT),
    ("symbol-step-null", ("signature", "symbols", "spare"), {"min": 0, "best": 4, "max": 8, "step": None}, CORRUPT),
    ("symbol-step-real", ("signature", "symbols", "spare"), {"min": 0, "best": 4, "max": 8, "step": 2.0}, CORRUPT),
    ("symbol-step-not-best", ("signature", "symbols", "spare"), {"min": 0, "best": 5, "max": 8, "step": 2}, CORRUPT),
    ("symbol-name-empty", ("signature", "symbols", ""), {"min": 0, "best": 0, "max": 0}, CORRUPT),
    ("symbol-name-1024-bytes", ("signature", "symbols", "ä" * 512), {"min": 0, "best": 0, "max": 0}, OK),
    ("symbol-name-1025-bytes", ("signature", "symbols", "ä" * 512 + "a"), {"min": 0, "best": 0, "max": 0}, CORRUPT),
    ("structure-output-unused", ("signature", "output_structure"), {"tuple": [{"tensor": 0}, {"tensor": 1}]}, CORRUPT),
    (
        "structure-index-too-large",
        ("signature", "output_structure"),
        {"tuple": [{"tensor": i} for i in range(4)]},
        CORRUPT,
    ),
    ("structure-output-twice", ("signature", "output_structure"), {"list": [{"tensor": i} for i in (0, 1, 2, 0)]}, OK),
    ("structure-two-kinds", ("signature", "output_structure", "list"), [], CORRUPT),
    ("structure-empty", ("signature", "output_structure"), {}, CORRUPT),
    ("structure-unknown", ("signature", "output_structure"), {"set": [{"tensor": 0}]}, CORRUPT),
    ("structure-unknown-key", ("signature", "output_structure", "novelty"), 1, OK),
    ("structure-dict-triple", ("signature", "output_structure", "dict", 0), ["sum", {"tensor": 0}, 1], CORRUPT),
    ("structure-dict-key-list", ("signature", "output_structure", "dict", 0, 0), ["sum"], CORRUPT),
    ("structure-constant-list", ("signature", "output_structure", "dict", 2, 1), {"constant": []}, CORRUPT),
    ("structure-constant-real", ("signature", "output_structure", "dict", 2, 1), {"constant": 0.5}, OK),
    ("variants-none", ("variants",), [], CORRUPT),
    ("variants-object", ("variants",), {}, CORRUPT),
    ("variant-text", ("variants", 1), "reference", CORRUPT),
    ("variant-name-twice", ("variants", 1, "name"), "onnxruntime-float32", CORRUPT),
    ("variant-name-not-a-segment", (*V0, "name"), "a b", CORRUPT),
    ("variant-backend-unknown", (*V0, "backend"), "openvino", OK),
    ("variant-precision-unknown", (*V0, "precision"), "float6", OK),
    ("variant-precision-number", (*V0, "precision"), 32, CORRUPT),
    ("variant-model-not-listed", (*V0, "model"), "model/other.onnx", CORRUPT),
    ("variant-model-manifest", (*V0, "model"), "manifest.json", CORRUPT),
    ("variant-model-outside", (*V0, "model"), "../tiny.onnx", CORRUPT),
    ("variant-model-null", (*V0, "model"), None, CORRUPT),
    ("variant-data-not-listed", (*V0, "data"), ["model/x.data"], CORRUPT),
    ("variant-data-twice", (*V0, "data"), ["model/tiny.data"] * 2, CORRUPT),
    ("variant-data-unreferred", (*V0, "data"), [], CORRUPT),
    ("variant-inputs-short", (*V0, "inputs"), ["x"], CORRUPT),
    ("variant-inputs-long", (*V0, "inputs"), ["x", "y", "z"], CORRUPT),
    ("variant-input-empty", (*V0, "inputs"), ["", None], CORRUPT),
    ("variant-outputs-null", (*V0, "outputs"), ["sum", None, "maybe"], CORRUPT),
    ("variant-outputs-short", (*V0, "outputs"), ["sum"], CORRUPT),
    ("variant-plugin-not-listed", (*V0, "plugin"), "lib/plugin.so", CORRUPT),
    ("variant-plugin-listed", (*V0, "plugin"), "bin/edgerun", OK),
    ("variant-options-number", (*V0, "options"), {"threads": 1}, CORRUPT),
    ("variant-speed-unknown", (*V0, "speed"), "fast", CORRUPT),
    ("variant-numerics-list", (*V0, "numerics"), [], CORRUPT),
    ("engine-linkage-unknown", (*V0, "engine", "linkage"), "static", CORRUPT),
    ("engine-bundled-not-listed", (*V0, "engine", "linkage"), "bundled", CORRUPT),
    (
        "engine-bundled",
        (*V0, "engine"),
        {"name": "e", "version": "1", "linkage": "bundled", "library": "bin/edgerun"},
        OK,
    ),
    ("engine-needed", (*V0, "engine", "needed"), [LIBRARY], OK),
    ("engine-needed-none", (*V0, "engine", "needed"), [], OK),
    ("engine-needed-256", (*V0, "engine", "needed"), [{**LIBRARY, "file": f"l{i}.so"} for i in range(256)], OK),
    ("engine-needed-257", (*V0, "engine", "needed"), [{**LIBRARY, "file": f"l{i}.so"} for i in range(257)], CORRUPT),
    ("engine-needed-null", (*V0, "engine", "needed"), None, CORRUPT),
    ("engine-needed-object", (*V0, "engine", "needed"), LIBRARY, CORRUPT),
    ("engine-needed-path", (*V0, "engine", "needed"), ["bin/edgerun"], CORRUPT),
    ("engine-needed-twice", (*V0, "engine", "needed"), [LIBRARY, LIBRARY], CORRUPT),
    ("engine-needed-as-the-engine", (*V0, "engine", "needed"), [{**LIBRARY, "file": "libonnxruntime.so.1"}], CORRUPT),
    ("engine-needed-hash-short", (*V0, "engine", "needed"), [{**LIBRARY, "sha256": "ab"}], CORRUPT),
    ("engine-needed-size-real", (*V0, "engine", "needed"), [{**LIBRARY, "size": 1.0}], CORRUPT),
    ("engine-needed-file-missing", (*V0, "engine", "needed"), [{"size": 1, "sha256": "ab" * 32}], CORRUPT),
    (
        "engine-bundled-needed",
        (*V0, "engine"),
        {**BUNDLED, "needed": ["licenses/empty.txt", "licenses/engine.txt"]},
        OK,
    ),
    ("engine-bundled-needed-not-listed", (*V0, "engine"), {**BUNDLED, "needed": ["lib/none.so"]}, CORRUPT),
    ("engine-bundled-needed-twice", (*V0, "engine"), {**BUNDLED, "needed": ["bin/edgerun"]}, CORRUPT),
    ("engine-bundled-needed-object", (*V0, "engine"), {**BUNDLED, "needed": [LIBRARY]}, CORRUPT),
    ("loader", ("target", "loader"), LOADER, OK),
    ("loader-no-libraries", ("target", "loader"), {**LOADER, "libraries": []}, OK),
    ("loader-key-unknown", ("target", "loader"), {**LOADER, "novelty": 1}, OK),
    ("loader-null", ("target", "loader"), None, CORRUPT),
    ("loader-text", ("target", "loader"), "lib/ld.so", CORRUPT),
    ("loader-program-not-listed", ("target", "loader"), {**LOADER, "program": "lib/none.so"}, CORRUPT),
    ("loader-program-not-executable", ("target", "loader"), {**LOADER, "program": "lib/libc.so.6"}, CORRUPT),
    ("loader-program-elsewhere", ("target", "loader"), {**LOADER, "program": "bin/edgerun"}, CORRUPT),
    ("loader-library-elsewhere", ("target", "loader"), {**LOADER, "libraries": ["licenses/empty.txt"]}, CORRUPT),
    ("loader-library-not-listed", ("target", "loader"), {**LOADER, "libraries": ["lib/none.so"]}, CORRUPT),
    ("loader-library-twice", ("target", "loader"), {**LOADER, "libraries": ["lib/libc.so.6"] * 2}, CORRUPT),
    ("loader-library-is-program", ("target", "loader"), {**LOADER, "libraries": ["lib/ld.so"]}, CORRUPT),
    ("loader-library-number", ("target", "loader"), {**LOADER, "libraries": [1]}, CORRUPT),
    ("loader-libraries-null", ("target", "loader"), {**LOADER, "libraries": None}, CORRUPT),
    ("loader-glibc-number", ("target", "loader"), {**LOADER, "glibc": 2.41}, CORRUPT),
    ("loader-glibc-three", ("target", "loader"), {**LOADER, "glibc": "2.41.1"}, CORRUPT),
    *(
        (f"loader-without-{key}", ("target", "loader"), {k: v for k, v in LOADER.items() if k != key}, CORRUPT)
        for key in ("program", "libraries", "glibc")
    ),
    ("engine-file-with-slash", (*V0, "engine", "library", "file"), "a/b.so", CORRUPT),
    ("engine-size-negative", (*V0, "engine", "library", "size"), -1, CORRUPT),
    ("engine-hash-short", (*V0, "engine", "library", "sha256"), "ab" * 31, CORRUPT),
    ("engine-version-number", (*V0, "engine", "version"), 1.31, CORRUPT),
    ("requires-features-text", (*V0, "requires", "cpu_features"), "avx2", CORRUPT),
    ("requires-glibc-null", (*V0, "requires", "glibc"), None, CORRUPT),
    ("requires-glibc-words", (*V0, "requires", "glibc"), "new", CORRUPT),
    ("requires-glibc-three", (*V0, "requires", "glibc"), "2.28.1", CORRUPT),
    ("requires-glibc-long", (*V0, "requires", "glibc"), "2.12345", CORRUPT),
    ("requires-glibc-line-break", (*V0, "requires", "glibc"), "2.28\n", CORRUPT),
    ("requires-memory-real", (*V0, "requires", "memory_bytes"), 1.5, CORRUPT),
    ("requires-capability-number", (*V0, "requires", "compute_capability"), 8.7, CORRUPT),
    ("requires-empty", (*V0, "requires"), {}, OK),
    ("tolerance-missing", (*V0, "tolerances", "sum"), REMOVED, CORRUPT),
    ("tolerance-extra", (*V0, "tolerances", "other"), {"atol": 0, "rtol": 0}, CORRUPT),
    ("tolerance-negative", (*V0, "tolerances", "sum", "atol"), -1e-9, CORRUPT),
    ("tolerance-text", (*V0, "tolerances", "sum", "atol"), "0", CORRUPT),
    ("tolerance-true", (*V0, "tolerances", "sum", "rtol"), True, CORRUPT),
    ("golden-none-at-all", ("goldens",), [], CORRUPT),  # their files are then left without a reference
    ("golden-input-missing", ("goldens", 0, "inputs", "words"), REMOVED, CORRUPT),
    ("golden-input-extra", ("goldens", 0, "inputs", "other"), {"kind": "none"}, CORRUPT),
    ("golden-kind-unknown", (*GX, "kind"), "map", CORRUPT),
    ("golden-file-not-listed", (*GX, "file"), "golden/9.bin", CORRUPT),
    ("golden-file-other-size", (*GX, "file"), "golden/0.out.0.bin", CORRUPT),
    ("golden-shape-other-size", (*GX, "shape"), [2, 4], CORRUPT),
    ("golden-shape-symbol", (*GX, "shape"), ["batch", 3], CORRUPT),
    ("golden-shape-negative", (*GX, "shape"), [-2, -3], CORRUPT),
    ("golden-shape-null", (*GX, "shape"), None, CORRUPT),
    ("golden-shape-overflow-to-24-bytes", (*GX, "shape"), [2**32, 2**30, 3, 2], CORRUPT),
    ("golden-shape-overflow", (*GX, "shape"), [HUGE, HUGE], CORRUPT),
    ("golden-shape-overflow-behind-zero", (*GX, "shape"), [0, HUGE, HUGE], CORRUPT),
    ("golden-shape-overflow-before-zero", (*GX, "shape"), [HUGE, HUGE, 0], CORRUPT),
    ("golden-shape-bits-2-63", (*GX, "shape"), [0, 2**52, 2**6], CORRUPT),
    ("golden-shape-rank-17", (*GX, "shape"), [2, 3] + [1] * 15, CORRUPT),
    ("golden-shape-rank-16", (*GX, "shape"), [2, 3] + [1] * 14, OK),
    ("golden-string-too-many", ("goldens", 0, "inputs", "words", "shape"), [3], CORRUPT),
    ("golden-string-fewer-lengths", ("goldens", 0, "inputs", "words", "shape"), [1], OK),
    ("golden-sequence-object", ("goldens", 0, "outputs", "parts", "items"), {}, CORRUPT),
    ("golden-packed-shape", ("goldens", 0, "outputs", "parts", "items", 0, "shape"), [4], OK),
    ("golden-packed-size", ("goldens", 0, "outputs", "parts", "items", 0, "shape"), [5], CORRUPT),
    ("files-list", ("files",), [], CORRUPT),
    ("files-hash-upper-case", ("files", "model/tiny.onnx", "sha256"), "AB" * 32, CORRUPT),
    ("files-hash-null", ("files", "model/tiny.onnx", "sha256"), None, CORRUPT),
    ("files-mode-number", ("files", "model/tiny.onnx", "mode"), 420, CORRUPT),
    ("files-mode-0777", ("files", "model/tiny.onnx", "mode"), "0777", CORRUPT),
    ("files-size-real", ("files", "model/tiny.onnx", "size"), 1024.0, CORRUPT),
    ("files-size-negative", ("files", "model/tiny.onnx", "size"), -1, CORRUPT),
    ("files-size-key-missing", ("files", "model/tiny.onnx", "size"), REMOVED, CORRUPT),
    ("files-mode-key-missing", ("files", "model/tiny.onnx", "mode"), REMOVED, CORRUPT),
]
_BAD_PATHS = [
    "../x", "/etc/passwd", "lib/../x", "lib/./x", "lib//x", "lib/", "", ".", "..", "lib/-x", "lib/a b", "lib/ä", "lib/x\\y", "lib/x:y",
    "lib/" + "a" * 101, "/".join(["lib", *"abcdefghijklmnop"]), "lib/" + "/".join(["b" * 79] * 3), "manifest.json", "manifest.sig",
    "Manifest.SHA256", "manifest.json/x", "BIN/edgerun", "Bin/EDGERUN", "bin/edgerun/x", "bin/EdgeRun/x", "bin", "elsewhere/x", "lib/x\n",
    "Lib/x", "manifest.txt",
]  # fmt: skip

_EDITED_TEXT: list[tuple[str, Callable[[bytes], bytes], int]] = [
    ("json-empty", lambda _: b"", CORRUPT),
    ("json-list", lambda _: b"[]", CORRUPT),
    ("json-null", lambda _: b"null", CORRUPT),
    ("json-cut", lambda text: text[:-3], CORRUPT),
    ("json-twice", lambda text: text + text, CORRUPT),
    ("json-nul-after", lambda text: text + b"\0", CORRUPT),
    ("json-compact", lambda text: json.dumps(json.loads(text), separators=(",", ":")).encode(), OK),
    ("json-spaces", lambda text: b" \t\r\n" + text.replace(b": ", b"\t:\r\n") + b"\n\n", OK),
    ("json-form-feed", lambda text: text + b"\f", CORRUPT),
    ("json-bom", lambda text: b"\xef\xbb\xbf" + text, CORRUPT),
    ("json-utf16", lambda text: text.decode().encode("utf-16-le"), CORRUPT),
    ("json-latin1", lambda text: text.replace("ü".encode(), b"\xfc"), CORRUPT),
    ("json-overlong", lambda text: text.replace(b'"0.1.0"', b'"\xc0\xaf"'), CORRUPT),
    ("json-surrogate-bytes", lambda text: text.replace(b'"0.1.0"', b'"\xed\xa0\x80"'), CORRUPT),
    ("json-beyond-unicode", lambda text: text.replace(b'"0.1.0"', b'"\xf4\x90\x80\x80"'), CORRUPT),
    ("json-comment", lambda text: b"/* hello */" + text, CORRUPT),
    ("json-trailing-comma", lambda text: text.replace(b'"minor": 0', b'"minor": 0,'), CORRUPT),
    ("json-single-quotes", lambda text: text.replace(b'"0.1.0"', b"'0.1.0'"), CORRUPT),
    ("json-duplicate-key", lambda text: text.replace(b'"minor": 0', b'"minor": 0, "minor": 0'), CORRUPT),
    ("json-duplicate-escaped", lambda text: text.replace(b'"minor": 0', b'"minor": 0, "min\\u006fr": 0'), CORRUPT),
    ("json-duplicate-root", lambda text: text.replace(b"{", b'{"name": "tiny",', 1), CORRUPT),
    ("json-duplicate-unknown", lambda text: text.replace(b"{", b'{"new": {"a": 1, "a": 1},', 1), CORRUPT),
    ("json-nul-escape", lambda text: text.replace(b'"0.1.0"', b'"0\\u0000"'), CORRUPT),
    ("json-nul-key", lambda text: text.replace(b"{", b'{"n\\u0000": 1,', 1), CORRUPT),
    ("json-tab-in-string", lambda text: text.replace(b'"0.1.0"', b'"0\t1"'), CORRUPT),
    ("json-del-in-string", lambda text: text.replace(b'"0.1.0"', b'"0\x7f1"'), OK),
    ("json-bad-escape", lambda text: text.replace(b'"0.1.0"', b'"\\x30"'), CORRUPT),
    ("json-short-escape", lambda text: text.replace(b'"0.1.0"', b'"\\u12"'), CORRUPT),
    ("json-surrogate-pair", lambda text: text.replace(b'"0.1.0"', b'"\\ud83d\\ude00"'), OK),
    ("json-surrogate-high", lambda text: text.replace(b'"0.1.0"', b'"\\ud83d"'), CORRUPT),
    ("json-surrogate-low", lambda text: text.replace(b'"0.1.0"', b'"\\ude00"'), CORRUPT),
    ("json-surrogates-swapped", lambda text: text.replace(b'"0.1.0"', b'"\\ude00\\ud83d"'), CORRUPT),
    ("json-surrogate-in-key", lambda text: text.replace(b"{", b'{"\\ud83d": 1,', 1), CORRUPT),
]
_NUMBERS = [
    ("9007199254740991", OK), ("-9007199254740991", OK), ("9007199254740992", CORRUPT), ("-9007199254740992", CORRUPT),
    ("18446744073709551617", CORRUPT), ("1" + "0" * 5000, CORRUPT), ("-0", OK), ("-0.0", OK), ("1e308", OK), ("1e309", CORRUPT),
    ("-1e400", CORRUPT), ("1e-400", OK), ("9007199254740993.0", OK), ("1" + "0" * 400 + ".0", CORRUPT), ("0." + "0" * 400 + "1", OK),
    ("NaN", CORRUPT), ("Infinity", CORRUPT), ("-Infinity", CORRUPT), ("nan", CORRUPT), ("01", CORRUPT), ("+1", CORRUPT), (".5", CORRUPT),
    ("1.", CORRUPT), ("1e", CORRUPT), ("1E+2", OK), ("0x10", CORRUPT), ("--1", CORRUPT), ("-", CORRUPT), ("1_000", CORRUPT), ("\u0661", CORRUPT),
    ("True", CORRUPT), ("nul", CORRUPT),
]  # fmt: skip


def _with_number(text: bytes, number: str) -> bytes:
    return text.replace(b"{", b'{"new": [' + number.encode() + b"],", 1)


def manifest_cases() -> Iterator[tuple[str, bytes, int]]:
    """Name, bytes of ``manifest.json`` and exit code of every case."""
    sound = dump(sound_manifest())
    yield "sound", sound, OK
    for name, where, value, code in _EDITS:
        yield name, dump(edited(*where, to=value)), code
    for name, manifest, code in missing_keys():
        yield name, dump(manifest), code
    yield from preprocessing_cases()
    for index, path in enumerate(_BAD_PATHS):
        yield f"path-{index:02}", dump(edited("files", path, to=file_entry(b""))), CORRUPT
    for name, edit, code in _EDITED_TEXT:
        yield name, edit(sound), code
    for index, (number, code) in enumerate(_NUMBERS):
        yield f"number-{index:02}", _with_number(sound, number), code
    # As a size, -0 is 0, and 1.0 or 1e0 is not an integer, whatever its value.
    for name, spelling, code in (("minus-zero", b"-0", OK), ("real", b"0.0", CORRUPT), ("exponent", b"0e0", CORRUPT)):
        yield f"integer-{name}", sound.replace(b'"minor": 0', b'"minor": ' + spelling), code
    for name, spelling, code in (("minus-zero", b"-0.0", OK), ("tiny", b"1e-400", OK), ("integer", b"3", OK)):
        yield f"magnitude-{name}", sound.replace(b'"atol": 1e-05', b'"atol": ' + spelling, 1), code
    for levels, code in ((31, OK), (32, CORRUPT), (100_000, CORRUPT)):  # and one for the root
        yield f"depth-{levels}", sound.replace(b"{", b'{"new": ' + b"[" * levels + b"]" * levels + b",", 1), code
    yield "depth-in-text", sound.replace(b"{", b'{"new": "' + b"[" * 100 + b'\\"{",', 1), OK
    yield "depth-unclosed", b"[" * 1_000_000, CORRUPT
    yield "text-unclosed", b'{"' + b'\\"' * 1_000_000, CORRUPT
    have = _count(sound_manifest()) + 1
    for name, count, code in (("values-at-limit", 1_000_000, OK), ("values-above-limit", 1_000_001, CORRUPT)):
        yield name, sound.replace(b"{", b'{"new": [' + b",".join([b"1"] * (count - have)) + b"],", 1), code
    limit = 16 * 1024 * 1024
    yield "size-at-limit", sound + b" " * (limit - len(sound)), OK
    yield "size-above-limit", sound + b" " * (limit - len(sound) + 1), CORRUPT
    # A file of no bytes, whose shape is at the limit but for its 0.
    items = sound_manifest()["goldens"][0]["outputs"]["parts"]["items"]
    for name, size, code in (("below", 2**51, OK), ("at", 2**52, CORRUPT)):
        empty = {"kind": "tensor", "dtype": "float32", "shape": [size, 0, 2**6], "file": "licenses/empty.txt"}
        manifest = edited("goldens", 0, "outputs", "parts", "items", to=[*items, empty])
        yield f"golden-empty-{name}-2-63-bits", dump(manifest), code
    # What a reader can't know is said first; what breaks JSON comes before that.
    newer = edited("format", "major", to=2)
    yield "major-newer-and-broken", dump({**newer, "variants": 7}), INCOMPATIBLE
    yield "major-newer-alone", dump({"format": {"major": 2, "minor": 0}}), INCOMPATIBLE
    yield "major-newer-duplicate-key", dump(newer).replace(b"{", b'{"name": "tiny",', 1), CORRUPT
    feature = edited("required_features", to=["encryption"])
    yield "feature-unknown-and-broken", dump({**feature, "variants": 7}), INCOMPATIBLE
    yield "feature-unknown-major-newer", dump({**newer, "required_features": 7}), INCOMPATIBLE


def _count(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(_count(child) for child in children)
