"""Random damage to a manifest that leaves it close to sound, so that it reaches the rules behind the first ones."""

import json
import random
from typing import Any

_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 6, 16, 2**31, 2**53 - 1, 0.0, 0.5, -0.5, 1e300, "", "x", "sum", "batch", "tensor", "sequence", "none", "float32",
    "string", "uint4", "model/tiny.onnx", "golden/0.in.0.bin", "bin/edgerun", "../x", "a b", "0644", "0755", "2.28", "8", "0" * 64, "n" * 101, "ä" * 513, "\n", [], {}, [1], [None],
    ["x", None], ["batch"], [2, 3], {"tensor": 0}, {"kind": "none"}, {"min": 0, "best": 1, "max": None}, {"atol": 0, "rtol": 0.5},
    8, 7, 16385, "bicubic", "gray", "nhwc", "float16", "uint8", {"shorter": 8}, {"height": 8, "width": 7}, [0.5], [0, 0, 0], 1e-300,
]  # fmt: skip
_TEXTS = [b"", b"0", b"-", b".0", b"e1", b'"', b"\\", b"\\u0000", b"\\ud800", b"\\u00e4", b"{", b"}", b"[", b"]", b",", b":", b" ", b"\t", b"\0", b"\x7f", b"\xff", b"\xc3", b"null", b"NaN"]  # fmt: skip


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        holder = pending.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            found.append((holder, key))
            pending.append(holder[key])
    return found


def _change_value(manifest: Any, pick: random.Random) -> None:
    places = _places(manifest)
    if not places:
        return
    holder, key = pick.choice(places)
    way = pick.randrange(8)
    if way < 3:
        holder[key] = json.loads(json.dumps(pick.choice(_VALUES)))
    elif way < 5:
        other, other_key = pick.choice(places)  # a value of another place, often of the right kind
        holder[key] = json.loads(json.dumps(other[other_key])) if other_key in _keys(other) else None
    elif way == 5:
        del holder[key]
    elif isinstance(holder, dict):
        holder[pick.choice([*map(str, holder), "new", "", "x" * 1025])] = json.loads(json.dumps(holder[key]))
    else:
        holder.insert(pick.randrange(len(holder) + 1), json.loads(json.dumps(pick.choice(_VALUES))))


def _keys(holder: Any) -> Any:
    return holder if isinstance(holder, dict) else range(len(holder))


def _change_text(data: bytes, pick: random.Random) -> bytes:
    start = pick.randrange(len(data) + 1)
    way = pick.randrange(3)
    if way == 0:
        return data[:start] + pick.choice(_TEXTS) + data[start:]
    if way == 1:
        return data[:start] + data[start + pick.randrange(1, 4) :]
    damaged = bytearray(data)
    damaged[start % len(data)] ^= 1 << pick.randrange(8)
    return bytes(damaged)


def mutated_manifest(manifest: Any, pick: random.Random) -> bytes:
    """``manifest`` (which is changed) with one to three changes to its values, or, one time in four, to its text."""
    textual = pick.randrange(4) == 0
    if not textual:
        for _ in range(pick.choice((1, 1, 1, 2, 3))):
            _change_value(manifest, pick)
    data = json.dumps(manifest, ensure_ascii=pick.random() < 0.3, indent=pick.choice((None, 1))).encode()
    return _change_text(data, pick) if textual else data
