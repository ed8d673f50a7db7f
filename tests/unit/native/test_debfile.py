"""Debian packages are unpacked without dpkg, and a hostile one reaches nothing outside its folder."""

import io
import random
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from deb_files import ar_bytes, deb_bytes, file_member, link_member, tar_bytes

from edgebuild.errors import ToolError
from edgebuild.native.debfile import unpack_deb

SOUND = [
    file_member("./usr/bin/tool", b"\x7fELF" + bytes(range(256)) * 9, 0o4755),
    file_member("./usr/lib/libtool.so.1.2", b"library", 0o600),
    link_member("./usr/lib/libtool.so.1", "libtool.so.1.2"),
    link_member("./usr/lib/libtool.so", "../lib/libtool.so.1"),
    link_member("./usr/lib/copy.so", "./usr/lib/libtool.so.1.2", tarfile.LNKTYPE),
    file_member("./usr/share/doc/tool/copyright", b""),
]


def unpacked(deb: bytes, tmp_path: Path, **options: object) -> Path:
    (tmp_path / "tool.deb").write_bytes(deb)
    folder = tmp_path / "out"
    folder.mkdir()
    unpack_deb(tmp_path / "tool.deb", folder, **options)  # type: ignore[arg-type]
    return folder


@pytest.mark.parametrize("suffix", [".xz", ".gz", ""])
def test_files_links_and_modes_come_out(tmp_path: Path, suffix: str) -> None:
    folder = unpacked(deb_bytes(SOUND, suffix=suffix), tmp_path)
    tool = folder / "usr/bin/tool"
    assert tool.read_bytes() == b"\x7fELF" + bytes(range(256)) * 9
    assert stat.S_IMODE(tool.stat().st_mode) == 0o755, "executable, and no longer set-user-id"
    assert stat.S_IMODE((folder / "usr/lib/libtool.so.1.2").stat().st_mode) == 0o644
    assert (folder / "usr/lib/libtool.so").read_bytes() == b"library"
    assert (folder / "usr/lib/copy.so").read_bytes() == b"library"
    assert (folder / "usr/share/doc/tool/copyright").read_bytes() == b""


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not on PATH")
def test_a_package_of_dpkg_deb_unpacks_as_dpkg_does(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "DEBIAN").mkdir(parents=True)
    (source / "DEBIAN/control").write_text(
        "Package: tool\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: a tool\n"
    )
    (source / "usr/lib").mkdir(parents=True)
    data = random.Random(3).randbytes(3_000_001)
    (source / f"usr/lib/{'long' * 40}").write_bytes(data)
    (source / "usr/lib/link").symlink_to("long" * 40)
    subprocess.run(["dpkg-deb", "-Zxz", "--root-owner-group", "--build", source, tmp_path / "a.deb"], check=True)
    folder = unpacked((tmp_path / "a.deb").read_bytes(), tmp_path)
    subprocess.run(["dpkg-deb", "-x", tmp_path / "a.deb", tmp_path / "theirs"], check=True)
    for path in (tmp_path / "theirs").rglob("*"):
        ours = folder / path.relative_to(tmp_path / "theirs")
        assert ours.is_symlink() == path.is_symlink()
        assert ours.is_dir() == path.is_dir()
        if path.is_file():
            assert ours.read_bytes() == path.read_bytes()


def test_patterns_choose_what_is_kept_and_one_without_a_file_is_an_error(tmp_path: Path) -> None:
    folder = unpacked(deb_bytes(SOUND), tmp_path, members=("usr/bin/*", "usr/share/*/copyright"))
    kept = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert kept == ["usr/bin/tool", "usr/share/doc/tool/copyright"]
    with pytest.raises(ToolError, match=r"it has no usr/bin/other"):
        unpack_deb(tmp_path / "tool.deb", tmp_path, members=("usr/bin/other",))


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([file_member("../escaped")], "outside the package"),
        ([file_member("/escaped")], "outside the package"),
        ([file_member("usr/../../escaped")], "outside the package"),
        ([link_member("a", "/etc")], "out of the package"),
        ([link_member("a", "../escaped")], "leads out of the package"),
        ([link_member("a", ".."), file_member("a/escaped")], "is a folder and something else"),
        ([file_member("in/x"), link_member("a", "in"), file_member("a/escaped")], "is a folder and something else"),
        # Neither of the two leads out when read by its letters; the second one does once the first is there.
        ([file_member("d/e/x"), link_member("d/e/up", "."), link_member("a", "d/e/up/../../..")], "leads out"),
        ([link_member("a", "../escaped", tarfile.LNKTYPE)], "outside the package"),
        ([link_member("a", "missing", tarfile.LNKTYPE)], "not among the files before it"),
        ([link_member("l", "/etc/passwd", tarfile.LNKTYPE)], "outside the package"),
        ([file_member("a", b"1"), file_member("a", b"2")], "twice"),
        ([file_member("a", b"1"), file_member("a/b", b"2")], "is a folder and something else"),
        ([link_member("a", "", tarfile.CHRTYPE)], "neither a file nor a folder nor a link"),
        ([link_member("a", "", tarfile.FIFOTYPE)], "neither a file nor a folder nor a link"),
    ],
)
def test_a_hostile_package_is_refused_and_writes_nothing_outside(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], reason: str
) -> None:
    with pytest.raises(ToolError, match=reason):
        unpacked(deb_bytes(members), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tool.deb"]


def test_a_package_that_unpacks_to_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    bomb = deb_bytes([file_member("usr/zeros", bytes(5_000_000))])
    assert len(bomb) < 10_000
    with pytest.raises(ToolError, match="unpacks to more than 1000000 bytes"):
        unpacked(bomb, tmp_path, limit_bytes=1_000_000, members=("nothing",))


def _sparse(name: str, size: int) -> bytes:
    """A tar with one member of GNU's old sparse form: a block of zeros that claims to be a file of ``size`` bytes."""
    header = bytearray(512)
    for offset, text in [
        *((0, name.encode()), (100, b"0000644\0"), (108, b"0000000\0"), (116, b"0000000\0")),
        *((124, b"00000000000\0"), (136, b"00000000000\0"), (156, b"S"), (257, b"ustar  \0")),
        (483, b"%011o\0" % size),
    ]:
        header[offset : offset + len(text)] = text
    header[148:156] = b"%06o\0 " % (sum(header) + 8 * 32)
    return bytes(header) + bytes(1024)


@pytest.mark.parametrize("members", [("*",), ("other",)])
def test_a_sparse_member_which_may_expand_without_end_is_refused(tmp_path: Path, members: tuple[str, ...]) -> None:
    tar = _sparse("usr/zeros", 2**33 - 1)
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert archive.getmembers()[0].issparse()
        assert archive.getmembers()[0].size > 2**32
    with pytest.raises(ToolError, match="'usr/zeros' is a sparse file"):
        unpacked(_deb(debian_binary=b"2.0\n", data_tar=tar), tmp_path, members=members)


def test_copies_of_hard_links_count_as_what_is_unpacked(tmp_path: Path) -> None:
    links = [link_member(f"{i}", "a", tarfile.LNKTYPE) for i in range(50)]
    deb = deb_bytes([file_member("a", bytes(100_000)), *links])
    with pytest.raises(ToolError, match="unpacks to more than 1000000 bytes"):
        unpacked(deb, tmp_path, limit_bytes=1_000_000)
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) <= 1_000_000


def _deb(**members: bytes) -> bytes:
    return ar_bytes({name.replace("debian_", "debian-").replace("_", "."): data for name, data in members.items()})


@pytest.mark.parametrize(
    ("deb", "reason"),
    [
        (b"", "does not begin like an ar archive"),
        (b"PK\x03\x04 a zip", "does not begin like an ar archive"),
        (b"!<arch>\n", "no member data.tar"),
        (b"!<arch>\n" + b"x" * 60, "cut, or a header in it is damaged"),
        (b"!<arch>\n" + b"x" * 9, "cut, or a header in it is damaged"),
        (_deb(data_tar=tar_bytes(SOUND)), "first member is 'data.tar'"),
        (ar_bytes({"debian-binary": b"3.0\n", "data.tar": b""}), "expected 'debian-binary' of format 2"),
        (ar_bytes({"debian-binary": b"2.0\n", "data.tar.zst": b"data"}), "compressed as '.zst'"),
        (ar_bytes({"debian-binary": b"2.0\n", "data.tar.xz": b"no xz"}), "can't be unpacked"),
        (ar_bytes({"debian-binary": b"2.0\n", "data.tar.gz": b"no gz"}), "can't be unpacked"),
        (ar_bytes({"debian-binary": b"2.0\n", "data.tar": b"no tar" * 200}), "can't be unpacked"),
        (ar_bytes({"debian-binary": b"2.0\n", "data.tar": b""})[:-12] + b"9999999999`\n", "claims"),
    ],
)
def test_what_is_no_package_is_refused_with_a_reason(tmp_path: Path, deb: bytes, reason: str) -> None:
    with pytest.raises(ToolError, match=reason):
        unpacked(deb, tmp_path)


@pytest.mark.parametrize("suffix", [".xz", ".gz", ""])
def test_any_cut_is_noticed_before_the_end_of_the_last_file(tmp_path: Path, suffix: str) -> None:
    whole = deb_bytes([file_member("a", random.Random(1).randbytes(40_000))], suffix=suffix)
    for cut in random.Random(2).sample(range(len(whole) - 12_000), 60):
        folder = tmp_path / str(cut)
        folder.mkdir()
        with pytest.raises(ToolError, match="can't be unpacked"):
            unpacked(whole[:cut], folder)
