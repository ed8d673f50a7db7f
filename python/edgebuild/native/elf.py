"""Reads what a dynamic loader sees of an ELF file: machine, NEEDED, RUNPATH, symbol versions. Every offset is held to the file's bounds.

Only the program headers are followed, as the loader does: section headers may be stripped. Layout: System V gABI chapters 4
and 5, and the GNU symbol versioning of the LSB (Elf_Verneed, Elf_Verdef, DT_GNU_HASH).
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"\x7fELF"

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 4, 5, 6, 10, 14, 15, 29
_DT_GNU_HASH, _DT_VERSYM, _DT_VERDEF, _DT_VERNEED = 0x6FFFFEF5, 0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFE
_MOST_ENTRIES = 1 << 20
"""Of any table: far above what libraries have, so that a crafted chain ends."""


class ElfError(Exception):
    """Why a file can't be read as an ELF file, in the words of an error."""


@dataclass(frozen=True, kw_only=True)
class VersionNeed:
    """A symbol version that must be found in another library.

    Args:
        library: Its SONAME, e.g. "libc.so.6".
        version: E.g. "GLIBC_2.34".
        symbol: The first symbol that is wanted of it; "" if none is named.
        weak: Whether the loader only warns where it is missing.
    """

    library: str
    version: str
    symbol: str = ""
    weak: bool = False


@dataclass(frozen=True, kw_only=True)
class ElfFile:
    """What a loader sees.

    Args:
        bits: 32 or 64.
        little_endian: Byte order.
        machine: ``e_machine``, e.g. 183 for aarch64.
        flags: ``e_flags``, e.g. the float ABI of ARM.
        interpreter: The loader that a program asks for; "" for libraries.
        soname: Its own name; "" if it has none.
        needed: Libraries that must be there, in order.
        search: Folders of RPATH and RUNPATH.
        version_needs: Symbol versions that it wants of other libraries.
        version_definitions: Symbol versions that it offers.
    """

    bits: int
    little_endian: bool
    machine: int
    flags: int
    interpreter: str = ""
    soname: str = ""
    needed: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    version_needs: tuple[VersionNeed, ...] = ()
    version_definitions: frozenset[str] = frozenset()


def is_elf(path: Path) -> bool:
    """Whether a file begins like an ELF file."""
    with path.open("rb") as stream:
        return stream.read(4) == MAGIC


def read_elf(path: Path) -> ElfFile:
    """Reads a program or shared library.

    Raises:
        ElfError: It is none, is cut, or points outside itself.
    """
    with path.open("rb") as stream:
        if not stream.read(1):
            msg = "it is empty"
            raise ElfError(msg)
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return parse_elf(data)


def parse_elf(data: "bytes | mmap.mmap") -> ElfFile:
    """As ``read_elf``, of the bytes of a file."""
    return _Reader(data).read()


class _Reader:
    def __init__(self, data: "bytes | mmap.mmap") -> None:
        self._data = data
        if data[:4] != MAGIC:
            msg = "it does not begin like an ELF file"
            raise ElfError(msg)
        if len(data) < 20 or data[4] not in (1, 2) or data[5] not in (1, 2):
            msg = "its ELF header is damaged"
            raise ElfError(msg)
        self._wide = data[4] == 2
        self._order = "<" if data[5] == 1 else ">"
        self._word = "Q" if self._wide else "I"
        self._loads: list[tuple[int, int, int]] = []  # address, offset, size in the file

    def read(self) -> ElfFile:
        kind_machine = self._take("HH", 16)
        word = self._word
        # e_version; entry, phoff, shoff; flags, ehsize, phentsize, phnum
        _, _, table, _, flags, _, entry_size, count = self._take(f"I{word}{word}{word}IHHH", 20)
        interpreter = ""
        dynamic: tuple[int, int] | None = None
        for index in range(count):
            kind, offset, address, size = self._segment(table + index * entry_size)
            if kind == _PT_LOAD:
                self._loads.append((address, offset, size))
            elif kind == _PT_DYNAMIC:
                dynamic = (offset, size)
            elif kind == _PT_INTERP:
                interpreter = self._bytes(offset, size).split(b"\0", 1)[0].decode("utf-8", "replace")
        file = ElfFile(
            bits=64 if self._wide else 32,
            little_endian=self._order == "<",
            machine=kind_machine[1],
            flags=flags,
            interpreter=interpreter,
        )
        return file if dynamic is None else self._with_dynamic(file, *dynamic)

    def _with_dynamic(self, file: ElfFile, offset: int, size: int) -> ElfFile:
        tags: dict[int, list[int]] = {}
        step = struct.calcsize(self._word) * 2
        for index in range(min(size // step, _MOST_ENTRIES)):
            tag, value = self._take(self._word * 2, offset + index * step)
            if tag == 0:
                break
            tags.setdefault(tag, []).append(value)

        def one(tag: int) -> int | None:
            return tags[tag][-1] if tag in tags else None

        strings = one(_DT_STRTAB)
        if strings is None:
            return file
        begin = self._offset_of(strings)
        self._strings = (begin, one(_DT_STRSZ) or 0)
        self._bytes(*self._strings)
        symbols = self._imported_symbols(one(_DT_SYMTAB), one(_DT_VERSYM), one(_DT_HASH), one(_DT_GNU_HASH))
        soname = one(_DT_SONAME)
        search = [self._string(value) for tag in (_DT_RPATH, _DT_RUNPATH) for value in tags.get(tag, ())]
        return ElfFile(
            **{name: getattr(file, name) for name in ("bits", "little_endian", "machine", "flags", "interpreter")},
            soname="" if soname is None else self._string(soname),
            needed=tuple(self._string(value) for value in tags.get(_DT_NEEDED, ())),
            search=tuple(folder for text in search for folder in text.split(":")),
            version_needs=tuple(self._version_needs(one(_DT_VERNEED), symbols)),
            version_definitions=frozenset(self._version_definitions(one(_DT_VERDEF))),
        )

    def _segment(self, at: int) -> tuple[int, int, int, int]:
        """Type, offset, address and size in the file."""
        if self._wide:
            kind, _, offset, address, _, size = self._take("IIQQQQ", at)
        else:
            kind, offset, address, _, size = self._take("IIIII", at)
        return kind, offset, address, size

    def _imported_symbols(
        self, table: int | None, versions: int | None, hashes: int | None, gnu_hashes: int | None
    ) -> dict[int, str]:
        """The first symbol of each version index. Imported symbols come before those that a GNU hash table covers."""
        if table is None or versions is None:
            return {}
        if hashes is not None:
            count = self._take("II", self._offset_of(hashes))[1]
        elif gnu_hashes is not None:
            count = self._take("II", self._offset_of(gnu_hashes))[1]
        else:
            return {}
        symbol_size = 24 if self._wide else 16
        at, versions_at = self._offset_of(table), self._offset_of(versions)
        found: dict[int, str] = {}
        for index in range(1, min(count, _MOST_ENTRIES)):
            version = self._take("H", versions_at + 2 * index)[0] & 0x7FFF
            if version > 1 and version not in found:
                name, section = self._symbol(at + index * symbol_size)
                if section == 0:
                    found[version] = self._string(name)
        return found

    def _symbol(self, at: int) -> tuple[int, int]:
        """Offset of its name, and the section that it lies in: 0 for one that is imported."""
        if self._wide:
            name, _, _, section = self._take("IBBH", at)
        else:
            name, _, _, _, _, section = self._take("IIIBBH", at)
        return name, section

    def _version_needs(self, address: int | None, symbols: dict[int, str]) -> Iterator[VersionNeed]:
        if address is None:
            return
        for at in self._chain(self._offset_of(address), "HHIII", 4):
            _, count, library, first, _ = self._take("HHIII", at)
            for number, entry in enumerate(self._chain(at + first, "IHHII", 4)):
                if number == count:
                    break
                _, flags, index, name, _ = self._take("IHHII", entry)
                yield VersionNeed(
                    library=self._string(library),
                    version=self._string(name),
                    symbol=symbols.get(index & 0x7FFF, ""),
                    weak=bool(flags & 2),
                )

    def _version_definitions(self, address: int | None) -> Iterator[str]:
        if address is None:
            return
        for at in self._chain(self._offset_of(address), "HHHHIII", 6):
            names = self._take("HHHHIII", at)[5]
            yield self._string(self._take("II", at + names)[0])

    def _chain(self, at: int, layout: str, link: int) -> Iterator[int]:
        """Offsets of entries that each say how far the next one is, 0 for the last."""
        for _ in range(_MOST_ENTRIES):
            yield at
            step = self._take(layout, at)[link]
            if step == 0:
                return
            at += step
        msg = "a chain of its version entries has no end"
        raise ElfError(msg)

    def _offset_of(self, address: int) -> int:
        for begin, offset, size in self._loads:
            if begin <= address < begin + size:
                return offset + address - begin
        msg = f"address {address:#x} lies in no segment of it"
        raise ElfError(msg)

    def _string(self, offset: int) -> str:
        begin, size = self._strings
        if not 0 <= offset < size:
            msg = f"a name at {offset} lies outside its strings"
            raise ElfError(msg)
        end = self._data.find(b"\0", begin + offset, begin + size)
        if end < 0:
            msg = "a name in it has no end"
            raise ElfError(msg)
        return bytes(self._data[begin + offset : end]).decode("utf-8", "replace")

    def _take(self, layout: str, at: int) -> tuple[int, ...]:
        layout = self._order + layout
        return struct.unpack(layout, self._bytes(at, struct.calcsize(layout)))

    def _bytes(self, at: int, size: int) -> bytes:
        if at < 0 or size < 0 or at + size > len(self._data):
            msg = f"it is cut, or points outside itself: {size} bytes at {at} of {len(self._data)}"
            raise ElfError(msg)
        return bytes(self._data[at : at + size])
