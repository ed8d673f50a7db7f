"""Where pinned Debian packages come from: a folder, apt's own mirrors, the next one where one lacks a package."""

import shutil
from pathlib import Path

import pytest
from deb_files import put
from mirror_server import DEB, PACKAGE, Server, leftovers

from edgebuild.cache import Cache
from edgebuild.errors import ToolError, UsageError
from edgebuild.native import debian, debian_mirror
from edgebuild.native.debian import fetch_package, pinned_packages
from edgebuild.native.debian_mirror import VARIABLE, Mirror, apt_mirrors, configured_mirrors


@pytest.mark.parametrize("layout", ["mirror", "flat", "apt-get download"])
def test_a_folder_of_packages_serves_instead_of_a_mirror(
    layout: str, tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "debs"
    folder.mkdir()
    names = {"mirror": PACKAGE.path, "flat": "tool_2.0-1_armhf.deb", "apt-get download": "tool_1%3a2.0-1_armhf.deb"}
    (folder / names[layout]).parent.mkdir(parents=True, exist_ok=True)
    (folder / names[layout]).write_bytes(DEB)
    monkeypatch.setenv(VARIABLE, str(folder))
    assert (fetch_package(PACKAGE, cache) / "usr/bin/tool").is_file()


def test_a_folder_without_the_package_or_with_another_says_which(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(ToolError, match=r"is the folder .* which has no tool_2\.0-1_armhf\.deb"):
        fetch_package(PACKAGE, cache)
    (tmp_path / "tool_2.0-1_armhf.deb").write_bytes(DEB[:-5])
    with pytest.raises(ToolError, match=rf"tool_2\.0-1_armhf\.deb has {len(DEB) - 5} bytes, expected {len(DEB)}"):
        fetch_package(PACKAGE, cache)


def test_a_mirror_that_is_none_is_a_usage_error(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/no/such/folder")
    with pytest.raises(UsageError, match="expected the address of a Debian mirror or a folder"):
        fetch_package(PACKAGE, cache)


def test_apt_s_mirrors_are_read_in_both_formats_and_others_are_passed_over(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "mirrors").write_text("# chosen by hand\nhttps://listed.example/debian/ priority:1\n")
    (tmp_path / "sources.list").write_text(
        "# deb http://commented.example/debian trixie main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://one.example/debian/ trixie main contrib # note main\n"
        "deb-src http://sources.example/debian trixie main\n"
        "deb http://security.example/debian-security trixie-security main\n"
        "deb http://vendor.example/linux/debian trixie stable\n"
        "deb cdrom:[Debian 13]/ trixie main\n"
    )
    (parts / "more.list").write_text(
        "deb\thttp://one.example/debian\ttrixie-updates\tmain\ndeb http://ubuntu.example/ubuntu n main\n"
    )
    (parts / "off.sources").write_text(
        "Types: deb\nURIs: http://off.example/debian\nSuites: x\nComponents: main\nEnabled: no\n"
    )
    (parts / "new.sources").write_text(
        "# comment\nTypes: deb deb-src\nURIs: http://two.example/debian\n https://three.example/debian\nSuites: trixie\n"
        f"Components: main\n\ntypes: deb\nuris: mirror+file:{tmp_path}/mirrors\nsuites: trixie\ncomponents: main\n\n"
        "Types: deb-src\nURIs: http://source-only.example/debian\nSuites: trixie\nComponents: main\n"
    )
    assert apt_mirrors(tmp_path, tmp_path / "no lists") == [
        "http://one.example/debian",
        "http://two.example/debian",
        "https://three.example/debian",
        "https://listed.example/debian",
    ]


def test_an_archive_of_others_is_no_mirror_whatever_its_address_says(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(
        "deb https://download.vendor.example/linux/debian bookworm main\n"
        "deb https://packages.vendor.example/debian/12/prod bookworm main\n"
        "deb https://debian.vendor.example/agent/deb stable main\n"
        "deb https://vendor.example/not-debian-at-all trixie main\n"
        "deb https://vendor.example/debian vendor main\n"
        "deb http://mirror.example/debian-security trixie main\n"
        "deb http://user:word@proxy.example/debian-remote trixie main\n"
        "deb http://plain_mirror.example/pool trixie main\n"
        "deb http://snapshot.example/archive/debian/20250520T000000Z trixie-updates main\n"
    )
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "download.vendor.example_linux_debian_dists_bookworm_InRelease").write_text(
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\nOrigin: Vendor\nLabel: Vendor CE\nSuite: bookworm\n"
    )
    (lists / "plain%5fmirror.example_pool_dists_trixie_Release").write_text("Origin: Debian\nLabel: Debian\n")
    assert apt_mirrors(tmp_path, lists) == [
        "http://plain_mirror.example/pool",
        "http://user:word@proxy.example/debian-remote",
        "http://snapshot.example/archive/debian/20250520T000000Z",
    ]


def test_apt_s_mirrors_are_asked_and_without_any_it_is_said_what_to_configure(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert configured_mirrors(tmp_path, tmp_path / "none") == []
    (tmp_path / "sources.list").write_text("deb http://one.example/debian trixie main\n")
    (tmp_path / "helper").touch()
    assert configured_mirrors(tmp_path, tmp_path / "helper") == [
        Mirror(uri="http://one.example/debian", apt_helper=tmp_path / "helper")
    ]
    monkeypatch.setattr(debian, "configured_mirrors", list)
    with pytest.raises(ToolError, match="no Debian mirror is configured here") as caught:
        fetch_package(pinned_packages("qemu-user", "amd64")[0], cache)
    assert VARIABLE in (caught.value.hint or "")


def test_the_next_mirror_is_asked_when_one_lacks_the_package(
    mirror: Server, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        debian,
        "configured_mirrors",
        lambda: [Mirror(uri=f"{mirror.uri}/empty"), Mirror(uri="http://127.0.0.1:9"), Mirror(uri=mirror.uri)],
    )
    assert (fetch_package(PACKAGE, cache) / "usr/bin/tool").is_file()


needs_apt = pytest.mark.skipif(
    not debian_mirror._APT_HELPER.is_file(), reason="apt's downloader (/usr/lib/apt/apt-helper) is not here"
)


@needs_apt
@pytest.mark.parametrize("case", ["sound", "missing", "changed", "longer", "unreachable"])
def test_apt_s_own_downloader_gives_the_same_verdicts(
    case: str, mirror: Server, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = "http://127.0.0.1:9" if case == "unreachable" else mirror.uri
    monkeypatch.setattr(debian, "configured_mirrors", lambda: [Mirror(uri=uri, apt_helper=debian_mirror._APT_HELPER)])
    if case == "missing":
        shutil.rmtree(mirror.root / "pool")
    if case == "changed":
        put(mirror.root, PACKAGE, DEB[:-1] + b"!")
    if case == "longer":
        put(mirror.root, PACKAGE, DEB + bytes(40_000_000))
    expected = {
        "missing": "is not in",
        "changed": "has SHA-256",
        "longer": "could not download",
        "unreachable": "could not download",
    }
    if case == "sound":
        assert (fetch_package(PACKAGE, cache) / "usr/bin/tool").read_bytes() == b"program" * 5000
        return
    with pytest.raises(ToolError, match=expected[case]):
        fetch_package(PACKAGE, cache)
    assert leftovers(cache) == []
