"""Debian packages made by hand: sound ones and hostile ones, without dpkg."""

import gzip
import hashlib
import io
import lzma
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from edgebuild.native.debian import DebianPackage

Member = tuple[tarfile.TarInfo, bytes]


def file_member(name: str, data: bytes = b"", mode: int = 0o644) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = mode
    return info, data


def link_member(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> Member:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = to
    return info, b""


def tar_bytes(members: Iterable[Member]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def ar_bytes(members: Mapping[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, data in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return out


def deb_bytes(members: Iterable[Member], *, suffix: str = ".xz") -> bytes:
    pack = {".xz": lzma.compress, ".gz": gzip.compress, "": bytes}.get(suffix, bytes)
    control = lzma.compress(tar_bytes([file_member("./control", b"Package: tool\n")]))
    return ar_bytes(
        {"debian-binary": b"2.0\n", "control.tar.xz": control, f"data.tar{suffix}": pack(tar_bytes(members))}
    )


def package_of(deb: bytes, name: str = "tool") -> DebianPackage:
    return DebianPackage(
        name=name,
        version="1:2.0-1",
        arch="armhf",
        path=f"pool/main/t/{name}/{name}_2.0-1_armhf.deb",
        size=len(deb),
        sha256=hashlib.sha256(deb).hexdigest(),
        snapshot="20260101T000000Z",
    )


def put(root: Path, package: DebianPackage, deb: bytes) -> Path:
    """Lays a package where a mirror has it."""
    path = root / package.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(deb)
    return path
