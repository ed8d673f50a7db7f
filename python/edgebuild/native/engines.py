"""Engine libraries for a target: from the installed package, else from its pinned wheel; checked by hash and cached."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from edgebuild.cache import Cache, content_key, file_sha256
from edgebuild.errors import IncompatibleError, ToolError

_DOWNLOAD_LIMIT_S = 900


@dataclass(frozen=True, kw_only=True)
class EnginePin:
    """Where an engine's library for one architecture comes from, and what it must hash to."""

    engine: str
    version: str
    arch: str
    distribution: str
    platform: str
    member: str
    licences: tuple[str, ...]
    soname: str
    sha256: str
    glibc: str


@dataclass(frozen=True, kw_only=True)
class EngineFiles:
    """An engine's files on this machine: the library and licence texts by the name they get in a bundle."""

    pin: EnginePin
    library: Path
    licences: dict[str, Path]


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
    return EnginePin(
        engine=engine,
        version=version,
        arch=arch,
        distribution=entry["distribution"],
        platform=entry["platform"],
        member=entry["member"],
        licences=tuple(entry["licences"]),
        soname=entry["soname"],
        sha256=entry["sha256"],
        glibc=entry["glibc"],
    )


def fetch_engine(pin: EnginePin, cache: Cache) -> EngineFiles:
    """The engine's files, from the cache, the installed package or its wheel; the library's hash is the pinned one.

    Raises:
        ToolError: The wheel can't be downloaded, or its library has another hash.
    """

    def make(folder: Path) -> None:
        if not _copy_installed(pin, folder):
            _copy_from_wheel(pin, folder)
        found = file_sha256(folder / pin.soname)
        if found != pin.sha256:
            msg = f"{pin.engine} {pin.version} for {pin.arch} has SHA-256 {found}, expected {pin.sha256}"
            raise ToolError(msg, hint="the download was changed or damaged; try again, or check the configured mirror")

    folder = cache.get_or_make("engines", content_key(pin.sha256, pin.soname, list(pin.licences)), make)
    licences = {f"{pin.engine}-{Path(name).name}": folder / Path(name).name for name in pin.licences}
    return EngineFiles(pin=pin, library=folder / pin.soname, licences=licences)


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
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit {done.returncode}"]
        lines = [line for line in said if line.startswith("ERROR")] or said
        msg = f"could not download {pin.distribution} {pin.version} for {pin.platform}: {lines[-1]}"
        raise ToolError(msg, hint="check the network and pip's configuration; a filled cache needs neither")
    with zipfile.ZipFile(wheels[0]) as wheel:
        for member, name in [(pin.member, pin.soname), *((m, Path(m).name) for m in pin.licences)]:
            with wheel.open(member) as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)
    shutil.rmtree(downloads)
