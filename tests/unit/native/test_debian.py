"""Pinned Debian packages: never with other bytes, once, and offline from the cache; of test_debian_mirrors.py from where."""

import errno
import http.server
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from deb_files import put
from mirror_server import DEB, PACKAGE, Server, leftovers

from edgebuild.cache import Cache
from edgebuild.errors import IncompatibleError, ResourceError, ToolError
from edgebuild.native import debian, debian_mirror
from edgebuild.native.debian import DebianPackage, fetch_package, pinned_packages
from edgebuild.native.debian_mirror import VARIABLE
from edgebuild.report import SilentProgress


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
