"""Pinned Debian packages: from which mirror, never with other bytes, once, and offline from the cache."""

import errno
import http.server
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from deb_files import deb_bytes, file_member, package_of, put

from edgebuild.cache import Cache
from edgebuild.errors import IncompatibleError, ResourceError, ToolError, UsageError
from edgebuild.native import debian, debian_mirror
from edgebuild.native.debian import DebianPackage, fetch_package, pinned_packages
from edgebuild.native.debian_mirror import VARIABLE, Mirror, apt_mirrors, configured_mirrors
from edgebuild.report import SilentProgress

DEB = deb_bytes(
    [file_member("./usr/bin/tool", b"program" * 5000, 0o755), file_member("./usr/share/doc/tool/copyright")]
)
PACKAGE = package_of(DEB)
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


class Server:
    """A mirror on this machine: serves a folder, or whatever ``answer`` does; remembers what it was asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        self.answer: Answer | None = None
        outer = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: object) -> None:
                super().__init__(*arguments, directory=str(root))  # type: ignore[arg-type]

            def do_GET(self) -> None:
                outer.asked.append(self.path)
                if outer.answer:
                    outer.answer(self)
                else:
                    super().do_GET()

            def log_message(self, *_: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    root = tmp_path / "mirror"
    root.mkdir()
    put(root, PACKAGE, DEB)
    server = Server(root)
    monkeypatch.setenv(VARIABLE, server.uri)
    monkeypatch.setattr(debian_mirror, "_PAUSE_S", 0.0)
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def leftovers(cache: Cache) -> list[str]:
    """Everything below the cache that is no lock: nothing may stay of a download that failed."""
    return [path.name for path in (cache.root / "debian").rglob("*") if path.suffix not in (".lock", ".use")]


def test_a_package_is_downloaded_once_and_then_comes_from_the_cache_without_a_mirror(
    mirror: Server, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetch_package(PACKAGE, cache)
    assert (folder / "usr/bin/tool").read_bytes() == b"program" * 5000
    assert mirror.asked == ["/" + PACKAGE.path]
    monkeypatch.setenv(VARIABLE, "http://127.0.0.1:9")  # nobody listens there
    assert fetch_package(PACKAGE, Cache(cache.root)) == folder
    assert not list(folder.rglob("*.deb")), "the package file is an entry of its own"


def test_packages_that_two_sets_share_are_downloaded_once(mirror: Server, cache: Cache) -> None:
    """An engine takes some libraries of a package and the emulator's system all; the package may have another name there."""
    first = fetch_package(PACKAGE, cache, members=("usr/bin/*",))
    other = replace(PACKAGE, name="other", path="pool/main/o/other/other_2.0-1_armhf.deb")
    second = fetch_package(other, cache, members=("usr/share/doc/*",))
    assert mirror.asked == ["/" + PACKAGE.path]
    assert [path.name for path in first.rglob("*") if path.is_file() and path.name[0] != "."] == ["tool"]
    assert (second / "usr/share/doc/tool/copyright").is_file()


def test_a_kept_package_file_that_was_damaged_is_downloaded_anew(mirror: Server, cache: Cache) -> None:
    fetch_package(PACKAGE, cache, members=("usr/bin/*",))
    (deb,) = (cache.root / "debian").rglob("*.deb")
    deb.write_bytes(DEB[:-1] + b"!")
    folder = fetch_package(PACKAGE, Cache(cache.root), members=("usr/share/*",))
    assert (folder / "usr/share/doc/tool/copyright").is_file()
    assert len(mirror.asked) == 2


def test_the_download_is_said_and_counted(mirror: Server, cache: Cache) -> None:
    class Listener(SilentProgress):
        notes: list[str]
        steps: list[tuple[int, int, str]]

        def note(self, message: str) -> None:
            self.notes = [message]

        def advance(self, done: int, total: int, unit: str) -> None:
            self.steps = [(done, total, unit)]

    listener = Listener()
    fetch_package(PACKAGE, cache, listener)
    assert listener.notes == [f"downloading tool_2.0-1_armhf.deb (0.0 MiB) from {mirror.uri}"]
    assert listener.steps == [(len(DEB), len(DEB), "bytes")]


def test_a_cache_damaged_by_hand_is_filled_anew(mirror: Server, cache: Cache) -> None:
    (fetch_package(PACKAGE, cache) / "usr/bin/tool").write_bytes(b"damaged")
    assert (fetch_package(PACKAGE, Cache(cache.root)) / "usr/bin/tool").read_bytes() == b"program" * 5000
    assert len(mirror.asked) == 1, "the package file was sound"


def test_a_changed_byte_names_the_file_both_hashes_and_what_to_do_and_is_not_kept(mirror: Server, cache: Cache) -> None:
    changed = bytearray(DEB)
    changed[-1] ^= 1
    put(mirror.root, PACKAGE, bytes(changed))
    with pytest.raises(ToolError) as caught:
        fetch_package(PACKAGE, cache)
    assert f"{mirror.uri}/{PACKAGE.path} has SHA-256 " in caught.value.message
    assert f"expected {PACKAGE.sha256}" in caught.value.message
    assert VARIABLE in (caught.value.hint or "")
    assert leftovers(cache) == []
    put(mirror.root, PACKAGE, DEB)
    fetch_package(PACKAGE, cache)


def test_a_longer_file_is_not_read_to_its_end(mirror: Server, cache: Cache) -> None:
    sent = 0

    def endless(request: http.server.BaseHTTPRequestHandler) -> None:
        nonlocal sent
        request.send_response(200)
        request.end_headers()
        try:
            while sent < 2**28:
                sent += request.wfile.write(bytes(2**16))
        except OSError:
            return

    mirror.answer = endless
    with pytest.raises(ToolError, match=rf"has at least {len(DEB) + 1} bytes, expected {len(DEB)}"):
        fetch_package(PACKAGE, cache)
    assert sent < 2**28
    assert leftovers(cache) == []


def test_a_download_that_breaks_off_is_tried_three_times(mirror: Server, cache: Cache) -> None:
    def cut(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(DEB)))
        request.end_headers()
        request.wfile.write(DEB[: len(DEB) // 2])

    mirror.answer = cut
    with pytest.raises(ToolError, match=rf"it ended after {len(DEB) // 2} bytes, expected {len(DEB)}"):
        fetch_package(PACKAGE, cache)
    assert len(mirror.asked) == 3
    assert leftovers(cache) == []


@pytest.mark.parametrize("drips", ["headers", "body", "chunked body"])
def test_a_mirror_that_drips_is_given_up_when_the_time_for_all_is_over(
    drips: str, mirror: Server, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def drip(request: http.server.BaseHTTPRequestHandler) -> None:
        lines = (
            b"HTTP/1.0 200 OK\r\n" if drips != "chunked body" else b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
        )
        request.wfile.write(lines if drips == "headers" else lines + b"\r\n")
        try:
            while not over.wait(0.02):  # each byte comes long before the limit of silence
                request.wfile.write(b"1\r\nx\r\n" if drips == "chunked body" else b"x")
                request.wfile.flush()
        except OSError:
            return

    mirror.answer = drip
    monkeypatch.setattr(debian_mirror, "_TIME_LIMIT_S", 0.5)
    begin = time.monotonic()
    with pytest.raises(ToolError, match=r"it took longer than 0\.5 s"):
        fetch_package(PACKAGE, cache)
    over.set()
    assert time.monotonic() - begin < 5
    assert len(mirror.asked) == 1, "the limit is of all tries together"
    assert leftovers(cache) == []


def test_one_hiccup_of_the_mirror_is_survived(mirror: Server, cache: Cache) -> None:
    def once(request: http.server.BaseHTTPRequestHandler) -> None:
        mirror.answer = None
        request.send_error(503)

    mirror.answer = once
    assert (fetch_package(PACKAGE, cache) / "usr/bin/tool").is_file()


def test_a_version_that_left_the_mirror_says_so_and_where_it_still_is(mirror: Server, cache: Cache) -> None:
    (mirror.root / PACKAGE.path).unlink()
    with pytest.raises(ToolError, match=r"tool_2\.0-1_armhf\.deb is not in http://127") as caught:
        fetch_package(PACKAGE, cache)
    assert "snapshot archive as of 20260101T000000Z" in (caught.value.hint or "")
    assert len(mirror.asked) == 1


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "http://no-such-host.invalid/debian", "http://127.0.0.1:x/"])
def test_a_mirror_that_can_not_be_reached_is_named(uri: str, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, uri)
    monkeypatch.setattr(debian_mirror, "_PAUSE_S", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ToolError, match="could not download tool_2") as caught:
        fetch_package(PACKAGE, cache)
    assert uri.rstrip("/") in caught.value.message
    assert "\n" not in caught.value.message
    assert leftovers(cache) == []


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


def test_a_full_disk_is_a_resource_error(mirror: Server, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(debian, "unpack_deb", full)
    with pytest.raises(ResourceError, match="no space left"):
        fetch_package(PACKAGE, cache)
    assert "usr" not in leftovers(cache)
    monkeypatch.undo()
    monkeypatch.setenv(VARIABLE, mirror.uri)
    assert (fetch_package(PACKAGE, cache) / "usr/bin/tool").is_file()
    assert len(mirror.asked) == 1, "what was downloaded in full is kept"


def test_two_processes_download_once(mirror: Server, cache: Cache, tmp_path: Path) -> None:
    slow = threading.Event()

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        slow.wait(2)
        request.send_response(200)
        request.end_headers()
        request.wfile.write(DEB)

    mirror.answer = answer
    code = (
        "import sys; from pathlib import Path; from edgebuild.cache import Cache;"
        "from edgebuild.native.debian import DebianPackage, fetch_package;"
        f"print(fetch_package({PACKAGE!r}, Cache(Path({str(cache.root)!r}))))"
    )
    children = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {child.communicate(timeout=60)[0].strip() for child in children}
    assert len(folders) == 1
    assert all(child.returncode == 0 for child in children)
    assert len(mirror.asked) == 1


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


def test_every_pin_of_the_table_is_whole() -> None:
    for name, arch in [
        ("qemu-user", "amd64"),
        ("qemu-user", "arm64"),
        ("onnxruntime", "armhf"),
        ("onnxruntime", "riscv64"),
    ]:
        packages = pinned_packages(name, arch)
        assert packages
        for package in packages:
            assert isinstance(package, DebianPackage)
            assert package.arch in (arch, "all")
            assert package.path.startswith("pool/main/")
            assert package.path.endswith(f"_{package.arch}.deb")
            assert len(bytes.fromhex(package.sha256)) == 32
            assert package.size > 0
            assert len(package.snapshot) == 16
    assert pinned_packages("qemu-user", "amd64")[0].name == "qemu-user"


def test_a_set_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(
        IncompatibleError, match=r"no Debian packages of qemu-user for s390x are known; .*qemu-user for amd64"
    ):
        pinned_packages("qemu-user", "s390x")
