"""Makes small ELF files byte by byte: what a loader looks at, and nothing else."""

import struct
from collections.abc import Mapping, Sequence

MACHINES = {"x86_64": 62, "aarch64": 183, "armv7l": 40, "riscv64": 243}


def craft_elf(
    *,
    arch: str = "aarch64",
    wide: bool | None = None,
    big_endian: bool = False,
    flags: int | None = None,
    interpreter: str = "",
    soname: str = "",
    needed: Sequence[str] = (),
    runpath: str = "",
    rpath: str = "",
    wants: Mapping[str, Sequence[tuple[str, str]]] | None = None,
    offers: Sequence[str] = (),
    weak: bool = False,
) -> bytes:
    """An ELF file.

    Args:
        arch: Whose machine number it carries.
        wide: 64 bits; None: as the architecture has.
        wants: By library the symbol versions that it wants, each with the symbol, e.g. ``{"libc.so.6": [("GLIBC_2.34", "dlsym")]}``.
        offers: Versions that it defines.
        weak: Whether its version needs are weak.
    """
    wide = arch != "armv7l" if wide is None else wide
    order, word = (">" if big_endian else "<"), ("Q" if wide else "I")
    if flags is None:
        flags = {"riscv64": 4, "armv7l": 0x5000400}.get(arch, 0)
    strings = bytearray(b"\0")

    def name(text: str) -> int:
        strings.extend(text.encode() + b"\0")
        return len(strings) - len(text.encode()) - 1

    symbols, versions = [0], [0]
    needs = b""
    wanted = list((wants or {}).items())
    index = 2
    for at, (library, entries) in enumerate(wanted):
        size = 16 + 16 * len(entries)
        needs += struct.pack(order + "HHIII", 1, len(entries), name(library), 16, size if at + 1 < len(wanted) else 0)
        for number, (version, symbol) in enumerate(entries):
            following = 16 if number + 1 < len(entries) else 0
            needs += struct.pack(order + "IHHII", 0, 2 if weak else 0, index, name(version), following)
            symbols.append(name(symbol))
            versions.append(index)
            index += 1
    definitions = b""
    for number, version in enumerate(offers):
        following = 28 if number + 1 < len(offers) else 0
        definitions += struct.pack(order + "HHHHIII", 1, 0, number + 1, 1, 0, 20, following)
        definitions += struct.pack(order + "II", name(version), 0)
    table = b"".join(
        struct.pack(order + "IBBHQQ", at, 0, 0, 0, 0, 0) if wide else struct.pack(order + "IIIBBH", at, 0, 0, 0, 0, 0)
        for at in symbols
    )
    tags = [(1, name(library)) for library in needed]
    tags += [(tag, name(text)) for tag, text in ((14, soname), (15, rpath), (29, runpath)) if text]

    header = 64 if wide else 52
    entry = 56 if wide else 32
    base = 0x10000
    parts: dict[str, tuple[int, bytes]] = {}
    at = header + 3 * entry
    count = struct.pack(order + "II", 1, len(symbols))
    blobs = {
        "interpreter": interpreter.encode() + b"\0",
        "table": table,
        "versions": struct.pack(order + f"{len(versions)}H", *versions),
        "needs": needs,
        "definitions": definitions,
        "hash": count,
        "strings": bytes(strings),
    }
    for part, data in blobs.items():
        at = -(-at // 8) * 8
        parts[part] = (at, data)
        at += len(data)
    at = -(-at // 8) * 8

    def address(part: str) -> int:
        return base + parts[part][0]

    tags += [(5, address("strings")), (10, len(strings)), (6, address("table")), (4, address("hash"))]
    tags += [(0x6FFFFFF0, address("versions"))]
    tags += [(0x6FFFFFFE, address("needs"))] if needs else []
    tags += [(0x6FFFFFFC, address("definitions"))] if definitions else []
    dynamic = b"".join(struct.pack(order + word * 2, *tag) for tag in [*tags, (0, 0)])
    total = at + len(dynamic)

    def segment(kind: int, offset: int, size: int) -> bytes:
        if wide:
            return struct.pack(order + "IIQQQQQQ", kind, 4, offset, base + offset, 0, size, size, 8)
        return struct.pack(order + "IIIIIIII", kind, offset, base + offset, 0, size, size, 4, 8)

    image = bytearray(total)
    image[:16] = b"\x7fELF" + bytes([2 if wide else 1, 2 if big_endian else 1, 1]) + bytes(9)
    image[16:header] = struct.pack(
        order + f"HHI{word * 3}IHHHHHH", 3, MACHINES[arch], 1, 0, header, 0, flags, header, entry, 3, 0, 0, 0
    )
    at_interpreter, text = parts["interpreter"]
    kind = 3 if interpreter else 0x6474E551  # else one that says nothing here
    image[header : header + 3 * entry] = (
        segment(1, 0, total) + segment(2, at, len(dynamic)) + segment(kind, at_interpreter, len(text))
    )
    for offset, data in parts.values():
        image[offset : offset + len(data)] = data
    image[at:] = dynamic
    return bytes(image)
