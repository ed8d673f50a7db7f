"""Engines from Debian packages, and which of their libraries a board's bundle carries."""

from dataclasses import replace
from pathlib import Path

import pytest
from deb_files import Member, deb_bytes, file_member, link_member, package_of, put

from edgebuild.cache import Cache, file_sha256
from edgebuild.errors import IncompatibleError, ToolError
from edgebuild.native import engines
from edgebuild.native.debian import DebianPackage
from edgebuild.native.debian_mirror import VARIABLE
from edgebuild.native.engine_layout import engine_layout
from edgebuild.native.engines import DebianEngine, EngineFiles, EnginePin, engine_pin, fetch_engine
from edgebuild.targets import OperatingSystem, load_target

FOLDER = "usr/lib/arm-linux-gnueabihf"


def _library(name: str, *, version: str = "") -> list[Member]:
    if not version:
        return [file_member(f"./{FOLDER}/{name}", name.encode())]
    return [
        file_member(f"./{FOLDER}/{name}{version}", name.encode()),
        link_member(f"./{FOLDER}/{name}", name + version),
    ]


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages: an engine, the C library, the C++ library, and one whose documentation is a link."""
    contents = {
        "engine": [*_library("libengine.so.1", version=".2"), file_member("./usr/share/doc/engine/copyright", b"free")],
        "libc6": [
            *_library("ld-linux-armhf.so.3"),
            *_library("libc.so.6"),
            *_library("libm.so.6"),
            *_library("libnsl.so.1"),
            file_member("./usr/share/doc/libc6/copyright", b"LGPL"),
        ],
        "libstdc++6": [
            *_library("libstdc++.so.6", version=".0.33"),
            link_member("./usr/share/doc/libstdc++6", "gcc-14-base"),
        ],
        "libz": [*_library("libz.so.1"), file_member("./usr/share/doc/libz/copyright", b"zlib")],
    }
    packages: list[DebianPackage] = []
    for name, members in contents.items():
        deb = deb_bytes(members)
        package = replace(package_of(deb, name), version="2.41-12+deb13u4")
        put(tmp_path / "debs", package, deb)
        packages.append(package)
    monkeypatch.setattr(engines, "pinned_packages", lambda *_: tuple(packages))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "debs"))
    return tmp_path / "debs"


@pytest.fixture
def pin(tmp_path: Path) -> EnginePin:
    (tmp_path / "content").write_bytes(b"libengine.so.1")
    return EnginePin(
        engine="engine",
        version="1.2",
        arch="armv7l",
        soname="libengine.so.1",
        sha256=file_sha256(tmp_path / "content"),
        glibc="2.38",
        glibcxx="3.4.32",
        debian=DebianEngine(
            packages="engine",
            arch="armhf",
            folder=FOLDER,
            loader="ld-linux-armhf.so.3",
            system=("libc.so.6", "libm.so.6"),
            libraries=(("libstdc++6", "libstdc++.so.6"), ("libz", "libz.so.1")),
        ),
    )


def system(glibc: str, glibcxx: str) -> OperatingSystem:
    return OperatingSystem(glibc=glibc, glibcxx=glibcxx, libraries=("libc.so.6", "libm.so.6", "libstdc++.so.6"))


def test_an_engine_of_debian_packages_is_one_folder_of_files_with_the_names_of_a_bundle(
    mirror: Path, pin: EnginePin, tmp_path: Path
) -> None:
    files = fetch_engine(pin, Cache(tmp_path / "cache"))
    assert files.library.read_bytes() == b"libengine.so.1"
    assert [(soname, path.name) for soname, path in files.needed.items()] == [
        ("libstdc++.so.6", "libstdcxx.so.6"),
        ("libz.so.1", "libz.so.1"),
    ]
    assert list(files.system) == ["ld-linux-armhf.so.3", "libc.so.6", "libm.so.6"]
    assert files.system_glibc == "2.41"
    assert sorted(files.licences) == ["debian-copyright-engine", "debian-copyright-libc6", "debian-copyright-libz"]
    everything = [files.library, *files.needed.values(), *files.system.values(), *files.licences.values()]
    assert {path.parent for path in everything} == {files.library.parent}
    assert not any(path.is_symlink() for path in everything)
    assert not (files.library.parent / "libnsl.so.1").exists(), "nothing asks for it"
    assert fetch_engine(pin, Cache(tmp_path / "cache")) == files


def test_an_engine_with_another_hash_is_refused_and_not_kept(mirror: Path, pin: EnginePin, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"engine 1\.2 for armv7l has SHA-256 .*, expected 00"):
        fetch_engine(replace(pin, sha256="00" * 32), Cache(tmp_path / "cache"))
    assert not [path for path in (tmp_path / "cache/engines").iterdir() if not path.name.startswith(".")]


def test_a_package_without_one_of_the_libraries_names_it(mirror: Path, pin: EnginePin, tmp_path: Path) -> None:
    assert pin.debian is not None
    other = replace(pin, debian=replace(pin.debian, libraries=(("libz", "libzip.so.5"),)))
    with pytest.raises(ToolError, match=r"it has no usr/lib/arm-linux-gnueabihf/libzip\.so\.5"):
        fetch_engine(other, Cache(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("os", "needed", "own_libc", "glibc"),
    [
        (system("2.31", "3.4.28"), ["libstdcxx.so.6", "libz.so.1"], True, "2.41"),
        (system("2.37", "3.4.33"), ["libstdcxx.so.6", "libz.so.1"], True, "2.41"),
        (system("2.38", "3.4.31"), ["libstdcxx.so.6", "libz.so.1"], False, "2.38"),
        (system("2.38", "3.4.32"), ["libz.so.1"], False, "2.38"),
        (replace(system("2.100", "3.4.40"), libraries=("libstdc++.so.6", "libz.so.1")), [], False, "2.100"),
    ],
)
def test_a_bundle_brings_what_the_oldest_board_lacks(
    os: OperatingSystem, needed: list[str], own_libc: bool, glibc: str, mirror: Path, pin: EnginePin, tmp_path: Path
) -> None:
    layout = engine_layout(fetch_engine(pin, Cache(tmp_path / "cache")), os)
    assert [path.name for path in layout.needed] == needed
    assert [path.name for path in layout.system] == (
        ["ld-linux-armhf.so.3", "libc.so.6", "libm.so.6"] if own_libc else []
    )
    assert layout.glibc == glibc


def test_an_engine_that_is_too_new_and_brings_no_c_library_is_refused(pin: EnginePin, tmp_path: Path) -> None:
    files = EngineFiles(pin=pin, library=tmp_path / "content", licences={})
    with pytest.raises(IncompatibleError, match=r"needs glibc 2\.38, the target's oldest system has 2\.31"):
        engine_layout(files, system("2.31", "3.4.28"))


@pytest.mark.parametrize("name", ["raspberrypi2", "generic-riscv64"])
def test_the_pins_of_boards_without_a_wheel_are_whole(name: str) -> None:
    target = load_target(name)
    (backend,) = target.runtime
    pin = engine_pin(backend.name, backend.version, target.soc.arch)
    assert pin.debian is not None
    assert pin.debian.loader.startswith("ld-linux-")
    assert len(set(pin.debian.libraries)) == len(pin.debian.libraries) > 30
    assert "libc.so.6" in pin.debian.system
    assert not {soname for _, soname in pin.debian.libraries} & set(pin.debian.system)
    engine_pin(backend.name, backend.version, "x86_64")  # what judges quantised graphs for it on a build machine
