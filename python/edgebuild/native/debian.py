"""Debian packages by pin: downloaded from the configured mirror, checked by hash, unpacked without root, cached.

A pin names one package file for all time: version, place in the archive, size, SHA-256. Pins lie in ``debian.toml``, in sets:
what belongs together for one purpose and architecture. ``tools/debian_pins.py`` writes a set.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgebuild.cache import Cache, content_key, file_sha256
from edgebuild.errors import IncompatibleError, ToolError
from edgebuild.native.debfile import unpack_deb
from edgebuild.native.debian_mirror import VARIABLE, Failed, Mirror, Missing, configured_mirrors, download
from edgebuild.report import Progress

_UNPACKING = 1
"""Raised when the same package and patterns unpack to something else than before."""


@dataclass(frozen=True, kw_only=True)
class DebianPackage:
    """One pinned package file.

    Args:
        name: E.g. "zlib1g".
        version: As Debian writes it, with its epoch.
        arch: Debian's name of the architecture, e.g. "armhf", or "all".
        path: Below a mirror's address.
        size: In bytes.
        sha256: Of the package file.
        snapshot: A moment at which the archive had it, as Debian's snapshot archive writes it; "" if unknown.
    """

    name: str
    version: str
    arch: str
    path: str
    size: int
    sha256: str
    snapshot: str = ""


def pinned_packages(name: str, arch: str, table: Path | None = None) -> tuple[DebianPackage, ...]:
    """The packages of a set for one of Debian's architectures, the one that the set is named after first.

    Raises:
        IncompatibleError: There is no such set, or not for this architecture.
    """
    sets = tomllib.loads((table or Path(__file__).with_name("debian.toml")).read_text(encoding="utf-8"))
    entry = sets.get(name, {}).get(arch)
    if entry is None:
        known = [f"{n} for {a}" for n, arches in sets.items() for a in arches]
        msg = f"no Debian packages of {name} for {arch} are known; known: {', '.join(known)}"
        raise IncompatibleError(msg)
    return tuple(DebianPackage(**pin, snapshot=entry["snapshot"]) for pin in entry["packages"])


def _download_entry(package: DebianPackage) -> tuple[str, str]:
    """Where the package file itself is kept: by its content, so that every set that it is in shares one download."""
    return "debian", content_key("package file", package.sha256)


def package_entry(package: DebianPackage, members: Sequence[str] = ("*",)) -> tuple[str, str]:
    """Section and key of the cache under which ``fetch_package`` keeps a package: to look whether it is there."""
    return "debian", content_key(_UNPACKING, package.sha256, list(members))


def fetch_package(
    package: DebianPackage, cache: Cache, progress: Progress | None = None, *, members: Sequence[str] = ("*",)
) -> Path:
    """The folder that a package is unpacked in, e.g. with ``usr/bin/qemu-arm`` below it; from the cache, else downloaded.

    Args:
        package: The pin.
        cache: Keeps the package file and what was unpacked of it. One call at a time downloads, among all processes; other
            members of the same package are unpacked without another download.
        progress: Hears that and how a download goes.
        members: Shell patterns on paths; only these files are unpacked and kept.

    Raises:
        ToolError: The package can't be downloaded, is no longer in the mirror, or its bytes are not those of the pin.
        ResourceError: The disk is full.
        UsageError: The configured mirror is not one.
    """
    name = Path(package.path).name

    def make(folder: Path) -> None:
        kept = cache.get_or_make(*_download_entry(package), lambda folder: _download(package, folder / name, progress))
        (deb,) = kept.glob("*.deb")
        unpack_deb(deb, folder, members=members)

    return cache.get_or_make(*package_entry(package, members), make)


def _download(package: DebianPackage, deb: Path, progress: Progress | None) -> None:
    name = Path(package.path).name
    mirrors = configured_mirrors()
    if isinstance(mirrors, Path):
        source = str(_copy_from_folder(package, mirrors, deb))
    else:
        if not mirrors:
            msg = f"{name} is needed, and no Debian mirror is configured here"
            raise ToolError(msg, hint=f"point {VARIABLE} at a mirror, or at a folder with the package")
        if progress:
            progress.note(f"downloading {name} ({package.size / 2**20:.1f} MiB) from {mirrors[0].uri}")
        source = _download_from(package, mirrors, deb, progress)
    size = deb.stat().st_size
    found = file_sha256(deb)
    if (size, found) != (package.size, package.sha256):
        if size != package.size:
            at_least = "at least " if size > package.size else ""
            msg = f"{source} has {at_least}{size} bytes, expected {package.size}"
        else:
            msg = f"{source} has SHA-256 {found}, expected {package.sha256}"
        raise ToolError(
            msg, hint=f"it was changed or damaged and is not kept; try again, or name another mirror in {VARIABLE}"
        )


def _copy_from_folder(package: DebianPackage, folder: Path, deb: Path) -> Path:
    """Finds a package in a folder: as a mirror lays it out, or flat as ``apt-get download`` names it."""
    name = Path(package.path).name
    downloaded = f"{package.name}_{package.version.replace(':', '%3a')}_{package.arch}.deb"
    for candidate in (folder / package.path, folder / name, folder / downloaded):
        if candidate.is_file():
            with candidate.open("rb") as source, deb.open("wb") as target:
                target.write(source.read(package.size + 1))
            return candidate
    msg = f"{VARIABLE} is the folder {folder}, which has no {name}"
    raise ToolError(msg, hint=f"put it there, or point {VARIABLE} at a mirror{_or_snapshot(package)}")


def _download_from(package: DebianPackage, mirrors: list[Mirror], deb: Path, progress: Progress | None) -> str:
    name = Path(package.path).name

    def advance(done: int) -> None:
        if progress:
            progress.advance(done, package.size, "bytes")

    failures = []
    for mirror in mirrors:
        try:
            return download(mirror, package.path, deb, package.size, advance)
        except Missing:
            continue
        except Failed as failure:
            failures.append(f"{mirror.uri}: {failure}")
    if failures:
        msg = f"could not download {name} from {failures[0]}"
        raise ToolError(msg, hint=f"check the network, or name another mirror or a folder of packages in {VARIABLE}")
    asked = ", ".join(mirror.uri for mirror in mirrors)
    msg = f"{name} is not in {asked}: mirrors drop a version when the next one comes"
    raise ToolError(
        msg, hint=f"a newer edgebuild may pin a newer one; else point {VARIABLE} at{_or_snapshot(package)[3:]}"
    )


def _or_snapshot(package: DebianPackage) -> str:
    if not package.snapshot:
        return " or a folder that has it"
    return f" or Debian's snapshot archive as of {package.snapshot}, which keeps every version"
