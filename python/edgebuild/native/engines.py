"""Engine libraries for a target: from the installed package, its pinned wheel or Debian packages; checked by hash and cached."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
import zlib
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from edgebuild.bundle.paths import to_segment
from edgebuild.cache import Cache, content_key, file_sha256
from edgebuild.errors import IncompatibleError, ToolError
from edgebuild.native.debian import fetch_package, pinned_packages
from edgebuild.native.process import refuse_full_disk
from edgebuild.report import Progress

_DOWNLOAD_LIMIT_S = 900
_COPYRIGHT = "debian-copyright-"
_BROKEN_WHEEL = (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError, RuntimeError)
"""What zipfile raises for a file that is none, damaged, encrypted or without a member."""


@dataclass(frozen=True, kw_only=True)
class DebianEngine:
    """Where in a set of Debian packages an engine's libraries lie.

    Args:
        packages: Name of the set in ``debian.toml``.
        arch: Debian's name of the architecture.
        folder: Of the libraries, in every package.
        loader: The C library's program loader, by file name.
        system: Libraries that belong to the C library itself; used where the board's own one is too old.
        libraries: (package, SONAME) of what the engine needs beyond those, each after what it needs itself.
    """

    packages: str
    arch: str
    folder: str
    loader: str
    system: tuple[str, ...]
    libraries: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class EnginePin:
    """Where an engine's library for one architecture comes from, and what it must hash to.

    Args:
        soname: The library's file name in a bundle.
        sha256: Of the library.
        glibc: The oldest C library that it and what it needs run on.
        glibcxx: The oldest GLIBCXX_ of a libstdc++ that they run on.
        distribution: The PyPI package; "" if it comes from Debian.
        platform: The wheel's platform tag.
        member: The library's path in the wheel.
        licences: Paths in the wheel.
        debian: None if it comes from PyPI.
        needed: SONAMEs of what lies beside the library in its package and is needed by it, each after what it needs itself.
    """

    engine: str
    version: str
    arch: str
    soname: str
    sha256: str
    glibc: str
    glibcxx: str = "3.4"
    distribution: str = ""
    platform: str = ""
    member: str = ""
    licences: tuple[str, ...] = ()
    debian: DebianEngine | None = None
    needed: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """Where it is fetched from, in a few words."""
        if self.debian:
            return f"Debian packages ({self.debian.arch})"
        if not self.member:
            return f"the installed {self.distribution} package"
        return f"{self.distribution}, {self.platform}"


@dataclass(frozen=True, kw_only=True)
class EngineFiles:
    """An engine's files on this machine.

    Args:
        library: The engine's library itself.
        licences: Licence texts by the name that they get in a bundle.
        needed: What the library needs besides the C library and is not in every system, by SONAME; each after what it needs.
        system: The C library that the engine was built with, its loader first, by file name; empty for one that needs no
            younger C library than every board has.
        system_glibc: That C library's version; "" if there is none.
    """

    pin: EnginePin
    library: Path
    licences: dict[str, Path]
    needed: dict[str, Path] = field(default_factory=dict)
    system: dict[str, Path] = field(default_factory=dict)
    system_glibc: str = ""


def engine_pin(engine: str, version: str, arch: str) -> EnginePin:
    """The pin of an engine.

    Raises:
        IncompatibleError: There is none for this version and architecture.
    """
    table = tomllib.loads(Path(__file__).with_name("engines.toml").read_text(encoding="utf-8"))
    entry = table.get(engine, {}).get(version, {}).get(arch)
    if entry is None:
        known = [f"{e} {v} {a}" for e, versions in table.items() for v, arches in versions.items() for a in arches]
        msg = f"no library of {engine} {version} for {arch} is known; known: {', '.join(known)}"
        raise IncompatibleError(msg)
    debian = None
    if entry["source"] == "debian":
        pairs = (text.partition("/") for text in entry["libraries"])
        debian = DebianEngine(
            packages=entry["packages"],
            arch=entry["arch"],
            folder=entry["folder"],
            loader=entry["loader"],
            system=tuple(entry["system"]),
            libraries=tuple((package, soname) for package, _, soname in pairs),
        )
    return EnginePin(
        engine=engine,
        version=version,
        arch=arch,
        soname=entry["soname"],
        sha256=entry.get("sha256", ""),
        glibc=entry["glibc"],
        glibcxx=entry["glibcxx"],
        distribution=entry.get("distribution", ""),
        platform=entry.get("platform", ""),
        member=entry.get("member", ""),
        licences=tuple(entry.get("licences", ())),
        debian=debian,
        needed=tuple(entry["libraries"]) if entry["source"] == "torch" else (),
    )


def fetch_engine(pin: EnginePin, cache: Cache, progress: Progress | None = None) -> EngineFiles:
    """The engine's files, from the cache, the installed package, its wheel or Debian's packages; every hash is the pinned one.

    Raises:
        ToolError: It can't be downloaded, or its bytes have another hash.
    """
    if pin.debian:
        return _from_debian(pin, pin.debian, cache, progress)
    if not pin.member:
        from edgebuild.native.libtorch import libtorch_files

        return libtorch_files(pin, cache, progress)

    def make(folder: Path) -> None:
        if not _copy_installed(pin, folder):
            if progress:
                progress.note(f"downloading {pin.distribution} {pin.version} for {pin.platform}")
            _copy_from_wheel(pin, folder)
        _check(pin, folder / pin.soname)

    folder = cache.get_or_make("engines", content_key(pin.sha256, pin.soname, list(pin.licences)), make)
    licences = {f"{pin.engine}-{Path(name).name}": folder / Path(name).name for name in pin.licences}
    return EngineFiles(pin=pin, library=folder / pin.soname, licences=licences)


def library_name(soname: str) -> str:
    """The file name of a library in a bundle: its SONAME, in which a path of a bundle can't have a plus sign."""
    return soname.replace("+", "x")


def _check(pin: EnginePin, library: Path) -> None:
    found = file_sha256(library)
    if found != pin.sha256:
        msg = f"{pin.engine} {pin.version} for {pin.arch} has SHA-256 {found}, expected {pin.sha256}"
        raise ToolError(msg, hint="the download was changed or damaged; try again, or check the configured mirror")


def _from_debian(pin: EnginePin, debian: DebianEngine, cache: Cache, progress: Progress | None) -> EngineFiles:
    packages = pinned_packages(debian.packages, debian.arch)
    libc = next(package for package in packages if package.name == "libc6")
    wanted = [
        (packages[0].name, pin.soname),
        *debian.libraries,
        *((libc.name, name) for name in (debian.loader, *debian.system)),
    ]

    def make(folder: Path) -> None:
        for package in packages:
            names = [soname for owner, soname in wanted if owner == package.name]
            # A SONAME is mostly a link to the file with the full version.
            members = (*(f"{debian.folder}/{name}*" for name in names), "usr/share/doc/*")
            unpacked = fetch_package(package, cache, progress, members=members)
            for name in names:
                shutil.copyfile(unpacked / debian.folder / name, folder / library_name(name))
            for text in sorted(unpacked.glob("usr/share/doc/*/copyright")):
                if not text.parent.is_symlink():
                    shutil.copyfile(text, folder / f"{_COPYRIGHT}{to_segment(text.parent.name)}")
        _check(pin, folder / library_name(pin.soname))

    key = content_key(pin.sha256, [package.sha256 for package in packages], wanted)
    folder = cache.get_or_make("engines", key, make)
    return EngineFiles(
        pin=pin,
        library=folder / library_name(pin.soname),
        licences={path.name: path for path in sorted(folder.glob(f"{_COPYRIGHT}*"))},
        needed={soname: folder / library_name(soname) for _, soname in debian.libraries},
        system={name: folder / library_name(name) for name in (debian.loader, *debian.system)},
        system_glibc=libc.version.partition("-")[0],
    )


def _copy_installed(pin: EnginePin, folder: Path) -> bool:
    """Copies from the installed package if it is the pinned one; an installed wheel spares the download."""
    try:
        distribution = metadata.distribution(pin.distribution)
    except metadata.PackageNotFoundError:
        return False
    library = Path(str(distribution.locate_file(pin.member)))
    if not library.is_file() or file_sha256(library) != pin.sha256:
        return False
    shutil.copyfile(library, folder / pin.soname)
    for name in pin.licences:
        shutil.copyfile(str(distribution.locate_file(name)), folder / Path(name).name)
    return True


def _copy_from_wheel(pin: EnginePin, folder: Path) -> None:
    downloads = folder / ".download"
    # An abi-tagged wheel must be asked for with some interpreter version; the library inside does not depend on it.
    command = [
        *(sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
        *("--python-version", "3.11", "--implementation", "cp", "--platform", pin.platform),
        *("--dest", str(downloads), f"{pin.distribution}=={pin.version}"),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        msg = f"downloading {pin.distribution} {pin.version} for {pin.platform} took longer than {_DOWNLOAD_LIMIT_S} s"
        raise ToolError(msg) from None
    wheels = sorted(downloads.glob("*.whl")) if downloads.is_dir() else []
    if done.returncode != 0 or not wheels:
        what = f"could not download {pin.distribution} {pin.version} for {pin.platform}"
        refuse_full_disk(done.stderr.splitlines(), what)
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit {done.returncode}"]
        lines = [line for line in said if line.startswith("ERROR")] or said
        msg = f"{what}: {lines[-1]}"
        raise ToolError(msg, hint="check the network and pip's configuration; a filled cache needs neither")
    members = [(pin.member, pin.soname), *((member, Path(member).name) for member in pin.licences)]
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            for member, name in members:
                with wheel.open(member) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except _BROKEN_WHEEL as error:
        msg = f"the downloaded {wheels[0].name} is damaged or another's: {str(error).strip(chr(34)) or 'it ends too early'}"
        raise ToolError(msg, hint="try again, or check the index that pip is configured for; it is not kept") from error
    shutil.rmtree(downloads)
