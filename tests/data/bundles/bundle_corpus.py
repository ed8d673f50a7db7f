"""Sound and broken bundles in both forms, each with the exit code that every reader must give for it.

Run as a program to write the corpus for a reader in another language:

    python bundle_corpus.py OUT            one file or folder a case, and OUT/verdicts.tsv: exit code, tab, name
    python bundle_corpus.py --mutations N --seed S OUT.tsv
                                           N damaged manifests: the Python reader's exit code, tab, the bytes in base64
"""

import argparse
import base64
import gzip
import io
import os
import random
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bundle_manifest_cases import CORRUPT, INCOMPATIBLE, OK, edited, manifest_cases
from bundle_mutations import mutated_manifest
from bundle_parts import EXECUTABLE, TOP, Entry, contents, dump, entries, file_entry, sound_manifest, tar
from bundle_preprocessing_cases import image_manifest

SEED = 20261122


@dataclass(frozen=True)
class Case:
    """One bundle. ``write`` makes it at a path that does not exist yet; ``at_open`` tells whether opening alone shows the fault."""

    name: str
    write: Callable[[Path], object]
    exit_code: int
    at_open: bool = True


def archive_case(name: str, data: bytes, exit_code: int = CORRUPT, *, at_open: bool = True) -> Case:
    return Case(name, lambda path: path.write_bytes(data), exit_code, at_open)


def _edit(path: str, **fields: bytes) -> bytes:
    """The sound archive with raw header fields replaced in one entry."""
    return tar([replace(e, fields=fields) if e.path == f"{TOP}/{path}" else e for e in entries()])


def _with(*extra: Entry, drop: str = "", ordered: bool = True) -> bytes:
    everything = [e for e in entries() if e.path != f"{TOP}/{drop}"] + list(extra)
    return tar(sorted(everything, key=lambda e: e.path) if ordered else everything)


def _regions() -> Iterator[tuple[str, int, int, bool]]:
    """Name, first and last byte of every header field, file and padding of the sound archive, and whether opening shows a flip."""
    position = 0
    fields = [
        ("name", 100),
        ("mode", 8),
        ("uid", 8),
        ("gid", 8),
        ("size", 12),
        ("mtime", 12),
        ("chksum", 8),
        ("typeflag", 1),
    ]
    fields += [
        ("linkname", 100),
        ("magic", 6),
        ("version", 2),
        ("uname", 32),
        ("gname", 32),
        ("devmajor", 8),
        ("devminor", 8),
    ]
    fields += [("prefix", 155), ("padding", 12)]
    for entry in entries():
        name = entry.path.removeprefix(f"{TOP}/")
        for field, size in fields:
            yield f"{name}:{field}", position, position + size, True
            position += size
        size = len(entry.data)
        yield f"{name}:data", position, position + size, name.startswith("manifest.")
        yield f"{name}:fill", position + size, position + size + -size % 512, True
        position += size + -size % 512
    yield "end", position, position + 1024, True


def flip_cases(count_each: int = 2) -> Iterator[Case]:
    good, pick = tar(entries()), random.Random(SEED)
    for name, start, end, at_open in _regions():
        if start == end:
            continue
        places = {
            (start, 0),
            (end - 1, 7),
            *((pick.randrange(start, end), pick.randrange(8)) for _ in range(count_each)),
        }
        for byte, bit in sorted(places):
            damaged = bytearray(good)
            damaged[byte] ^= 1 << bit
            yield archive_case(f"flip-{name.replace('/', '_')}-{byte}.{bit}", bytes(damaged), at_open=at_open)


def length_cases() -> Iterator[Case]:
    good, pick = tar(entries()), random.Random(SEED + 1)
    borders = {edge + step for _, start, end, _ in _regions() for edge in (start, end) for step in (-1, 0, 1)}
    lengths = {
        0,
        1,
        511,
        512,
        513,
        len(good) - 1,
        len(good) - 512,
        *pick.sample(range(len(good)), 40),
        *pick.sample(sorted(borders), 60),
    }
    for length in sorted(n for n in lengths if 0 <= n < len(good)):
        yield archive_case(f"cut-{length}", good[:length])
    for name, more in (
        ("byte", b"\0"),
        ("block", bytes(512)),
        ("record", bytes(10240 - len(good) % 10240)),
        ("text", b"x" * 512),
        ("tar", good),
    ):
        yield archive_case(f"appended-{name}", good + more)
    yield archive_case("only-end", bytes(1024))
    yield archive_case("one-end-block", tar(entries(), bytes(512)))
    yield archive_case("text-file", b"This is not a bundle.\n" * 100)
    yield archive_case("gzip", gzip.compress(good, mtime=0))


def member_cases() -> Iterator[Case]:
    files = contents()
    for path in files:
        yield archive_case(f"without-{path.replace('/', '_')}", _with(drop=path))
    inserted = {
        "extra": f"{TOP}/lib/libx.so", "extra-last": f"{TOP}/zz", "outside": "../evil", "outside-inner": f"{TOP}/../evil",
        "absolute": "/etc/evil", "dot": f"{TOP}/./x", "other-top": "other.x86-64/x", "no-top": "x", "top-itself": TOP,
        "case": f"{TOP}/BIN/edgerun", "case-manifest": f"{TOP}/Manifest.json", "folder-of-file": f"{TOP}/model/tiny.onnx/x", "double-slash": f"{TOP}//x",
        "slash-end": f"{TOP}/lib/", "space": f"{TOP}/a b", "umlaut": f"{TOP}/ä", "dash": f"{TOP}/-x", "line-break": f"{TOP}/a\nb",
        "long-segment": f"{TOP}/lib/" + "a" * 60 + "/" + "b" * 101,
    }  # fmt: skip
    for name, path in inserted.items():
        if name == "long-segment":  # 101 bytes fit a header, split at no slash: cut off at 100
            path = path[:-1]
        yield archive_case(f"member-{name}", _with(Entry(path, b"x")))
    kinds = {
        "hardlink": b"1",
        "symlink": b"2",
        "char": b"3",
        "block": b"4",
        "dir": b"5",
        "fifo": b"6",
        "contiguous": b"7",
        "old": b"\0",
    }
    kinds |= {"pax": b"x", "pax-global": b"g", "gnu-name": b"L", "gnu-link": b"K", "sparse": b"S", "unknown": b"Z"}
    for name, flag in kinds.items():
        target = {"linkname": b"../../etc/passwd"} if name in ("hardlink", "symlink") else {}
        yield archive_case(f"type-{name}", _with(Entry(f"{TOP}/lib/x", fields={"typeflag": flag, **target})))
        yield archive_case(f"type-{name}-listed", _edit("licenses/engine.txt", typeflag=flag, **target))
    model = next(e for e in entries() if e.path.endswith("tiny.onnx"))
    yield archive_case("twice-in-a-row", _with(model))
    yield archive_case("twice-at-end", _with(model, ordered=False))
    yield archive_case("twice-other-data", _with(replace(model, data=b"evil")))
    yield archive_case("reversed", tar(entries()[::-1]))
    yield archive_case("manifest-first", tar(sorted(entries(), key=lambda e: "manifest" not in e.path)))
    yield archive_case("other-top-everywhere", tar(entries(top="other.x86-64")))
    yield archive_case("upper-case-top", tar(entries(top=TOP.upper())))
    yield archive_case("no-top-at-all", tar([replace(e, path=e.path.removeprefix(f"{TOP}/")) for e in entries()]))
    yield archive_case("dot-slash-top", tar([replace(e, path=f"./{e.path}") for e in entries()]))
    for name, form in (("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            for entry in entries():
                info = tarfile.TarInfo(entry.path)
                info.size = len(entry.data)
                archive.addfile(info, io.BytesIO(entry.data))
        yield archive_case(f"tarfile-{name}", buffer.getvalue())


def field_cases() -> Iterator[Case]:
    fields = {
        "mode-0600": {"mode": b"0000600\0"}, "mode-0755": {"mode": b"0000755\0"}, "mode-spaces": {"mode": b"   644 \0"}, "uid-1": {"uid": b"0000001"},
        "gid-1000": {"gid": b"0001750"}, "size-spaces": {"size": b"       1200 "}, "size-huge": {"size": b"77777777777"}, "size-short": {"size": b"00000000001"},
        "size-long": {"size": b"00000002001"}, "size-base256": {"size": b"\x80" + bytes(9) + b"\x02\x80"}, "size-minus": {"size": b"-0000000001"},
        "size-eight": {"size": b"00000000800"}, "mtime-one": {"mtime": b"00000000001"}, "mtime-base256": {"mtime": b"\x80" + bytes(11)}, "uname": {"uname": b"user"},
        "uname-tail": {"uname": b"root\0x"}, "gname": {"gname": b"wheel"}, "magic-gnu": {"magic": b"ustar ", "version": b" \0"}, "magic-none": {"magic": b"", "version": b""},
        "version": {"version": b"01"}, "devmajor-empty": {"devmajor": b""}, "devminor-one": {"devminor": b"0000001"}, "prefix-split": {"name": b"model/tiny.onnx", "prefix": TOP.encode()},
        "prefix-dots": {"prefix": b".."}, "linkname": {"linkname": b"x"}, "padding": {"padding": b"\0x"}, "name-tail": {"name": f"{TOP}/model/tiny.onnx".encode() + b"\0x"},
        "checksum-zero": {"chksum": b"000000\0 "}, "checksum-empty": {"chksum": b""},
    }  # fmt: skip
    for name, values in fields.items():
        yield archive_case(f"header-{name}", _edit("model/tiny.onnx", **values))
    stamped = [replace(e, fields={"mtime": b"14631472000"}) for e in entries()]
    yield archive_case("mtime-in-all", tar(stamped), OK)
    yield archive_case("mtime-largest", tar([replace(e, fields={"mtime": b"77777777777"}) for e in entries()]), OK)
    yield archive_case("mtime-spaces-in-all", tar([replace(e, fields={"mtime": b"1463147200 "}) for e in entries()]))
    yield archive_case("mode-manifest-0755", _edit("manifest.json", mode=b"0000755\0"))
    yield archive_case("mode-runner-0644", _edit("bin/edgerun", mode=b"0000644\0"))


def content_cases() -> Iterator[Case]:
    files = contents()
    digest = files["manifest.sha256"]
    hashes = {
        "other": b"0" * 64 + b"\n", "upper-case": digest.upper(), "no-newline": digest[:-1], "crlf": digest[:-1] + b"\r\n", "two-newlines": digest + b"\n",
        "file-name": digest[:-1] + b"  manifest.json\n", "empty": b"",
    }  # fmt: skip
    for name, data in hashes.items():
        yield archive_case(f"hash-{name}", tar(entries({**files, "manifest.sha256": data})))
    for size, code in ((0, OK), (64 * 1024, OK), (64 * 1024 + 1, CORRUPT)):
        yield archive_case(f"signature-{size}", tar(entries({**files, "manifest.sig": b"s" * size})), code)
    yield archive_case("data-other", tar(entries({**files, "model/tiny.onnx": bytes(1024)})), at_open=False)
    yield archive_case("data-longer", tar(entries({**files, "model/tiny.onnx": bytes(1025)})))
    yield archive_case("data-empty", tar(entries({**files, "model/tiny.onnx": b""})))
    wrong = edited("files", "model/tiny.onnx", "sha256", to="0" * 64)
    yield archive_case("listed-hash-other", tar(entries(contents(dump(wrong)))), at_open=False)
    path = "/".join(["lib", "a" * 90, "b" * 90])  # has to be split
    listed = edited("files", path, to=file_entry(b"x"))
    yield archive_case("long-path", tar(entries({**contents(dump(listed)), path: b"x"})), OK)
    shared = "/".join(["lib", *["c" * 20] * 7, "d" * 60])  # several slashes to split at
    listed = edited("files", shared, to=file_entry(b"x"))
    good = entries({**contents(dump(listed)), shared: b"x"})
    yield archive_case("long-path-many-slashes", tar(good), OK)
    first = f"{TOP}/{shared}".encode().split(b"/", 6)
    other = {"prefix": b"/".join(first[:6]), "name": first[6]}
    early = [replace(e, fields=other) if e.path.endswith(shared) else e for e in good]
    yield archive_case("long-path-split-early", tar(early))


def folder_cases() -> Iterator[Case]:
    def write(path: Path, change: Callable[[Path], object], files: dict[str, bytes] | None = None) -> None:
        for name, data in (contents() if files is None else files).items():
            place = path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            place.chmod(0o755 if name in EXECUTABLE else 0o644)
        change(path)

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)

    def relink(path: Path, make: Callable[[Path, Path], object]) -> None:
        elsewhere = path.parent.parent.with_name(path.parent.parent.name + ".elsewhere")
        path.rename(elsewhere)
        make(path, elsewhere)

    changes: list[tuple[str, Callable[[Path], object], int, bool]] = [
        ("sound", lambda _: None, OK, True),
        ("modes", lambda p: (p / "bin/edgerun").chmod(0o600), OK, True),
        ("signature", lambda p: (p / "manifest.sig").write_bytes(b"s"), OK, True),
        ("signature-large", lambda p: (p / "manifest.sig").write_bytes(bytes(64 * 1024 + 1)), CORRUPT, True),
        ("extra-file", lambda p: (p / "lib/x").touch(), CORRUPT, True),
        ("extra-hidden", lambda p: (p / ".x").touch(), CORRUPT, True),
        ("empty-folder", lambda p: (p / "plugins").mkdir(), CORRUPT, True),
        ("empty-inner-folder", lambda p: (p / "model/x").mkdir(), CORRUPT, True),
        ("missing-model", lambda p: (p / "model/tiny.onnx").unlink(), CORRUPT, True),
        ("missing-manifest", lambda p: (p / "manifest.json").unlink(), CORRUPT, True),
        ("missing-hash", lambda p: (p / "manifest.sha256").unlink(), CORRUPT, True),
        ("damaged-model", lambda p: damage(p / "model/tiny.onnx"), CORRUPT, False),
        ("damaged-manifest", lambda p: damage(p / "manifest.json"), CORRUPT, True),
        ("damaged-hash", lambda p: damage(p / "manifest.sha256"), CORRUPT, True),
        ("longer-model", lambda p: (p / "model/tiny.onnx").write_bytes(bytes(2048)), CORRUPT, True),
        ("symlink-model", lambda p: relink(p / "model/tiny.onnx", Path.symlink_to), CORRUPT, True),
        ("symlink-manifest", lambda p: (p / "m").symlink_to("manifest.json") or (p / "m").rename(p / "manifest.sig"), CORRUPT, True),
        ("symlink-dangling", lambda p: (p / "plugins").symlink_to("nowhere"), CORRUPT, True),
        ("symlink-folder", lambda p: (p / "plugins").symlink_to("model"), CORRUPT, True),
        ("fifo", lambda p: os.mkfifo(p / "x"), CORRUPT, True),
        ("fifo-as-model", lambda p: (p / "model/tiny.onnx").unlink() or os.mkfifo(p / "model/tiny.onnx"), CORRUPT, True),
        ("fifo-as-manifest", lambda p: (p / "manifest.json").unlink() or os.mkfifo(p / "manifest.json"), CORRUPT, True),
        ("folder-as-model", lambda p: (p / "model/tiny.onnx").unlink() or (p / "model/tiny.onnx").mkdir(), CORRUPT, True),
        ("folder-as-manifest", lambda p: (p / "manifest.json").unlink() or (p / "manifest.json").mkdir(), CORRUPT, True),
    ]  # fmt: skip
    for name, change, code, at_open in changes:
        yield Case(f"folder-{name}", lambda path, change=change: write(path, change), code, at_open)
    yield Case("folder-empty", lambda path: path.mkdir(), CORRUPT)
    newer = contents(dump(edited("format", "major", to=2)))
    yield Case("folder-major-newer", lambda path: write(path, lambda _: None, newer), INCOMPATIBLE)
    packed = contents(dump(edited("variants", 0, "model", to="../x")))
    yield Case("folder-model-outside", lambda path: write(path, lambda _: None, packed), CORRUPT)


def all_cases() -> Iterator[Case]:
    """Every case; names are unique and fit for a file."""
    yield archive_case("archive-sound", tar(entries()), OK)
    for name, manifest, code in manifest_cases():
        yield archive_case(f"manifest-{name}", tar(entries(contents(manifest))), code)
    for group in (content_cases, member_cases, field_cases, length_cases, folder_cases, flip_cases):
        yield from group()


def mutations(count: int, seed: int) -> Iterator[bytes]:
    """Damaged manifests, many of them close to sound."""
    pick = random.Random(seed)
    for index in range(count):
        yield mutated_manifest(image_manifest() if index % 3 == 2 else sound_manifest(), pick)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--mutations", type=int, default=0)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    if arguments.mutations:
        from bundle_verdicts import manifest_verdict

        with arguments.out.open("w") as stream:
            for data in mutations(arguments.mutations, arguments.seed):
                stream.write(f"{manifest_verdict(data)}\t{base64.b64encode(data).decode()}\n")
        return
    arguments.out.mkdir(parents=True)
    lines = []
    for case in all_cases():
        case.write(arguments.out / case.name)
        lines.append(f"{case.exit_code}\t{case.name}\n")
    (arguments.out / "verdicts.tsv").write_text("".join(lines))


if __name__ == "__main__":
    sys.exit(main())
