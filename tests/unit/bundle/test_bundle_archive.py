import io
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from bundle_corpus import all_cases
from bundle_parts import EXECUTABLE, TOP, Entry, contents, entries, header, sound_manifest, tar
from bundle_verdicts import open_verdict, verify_verdict
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebuild.bundle import archive
from edgebuild.bundle.manifest import FileEntry
from edgebuild.bundle.paths import is_path
from edgebuild.bundle.reader import Bundle
from edgebuild.errors import BundleError, UsageError


def test_every_bundle_of_the_corpus_gets_its_exit_code(tmp_path: Path) -> None:
    seen: Counter[int] = Counter()
    names: set[str] = set()
    wrong = []
    for case in all_cases():
        assert case.name not in names
        names.add(case.name)
        seen[case.exit_code] += 1
        place = tmp_path / case.name
        case.write(place)
        expected = (case.exit_code if case.at_open else 0, case.exit_code)
        got = (open_verdict(place), verify_verdict(place))
        if got != expected:
            wrong.append((case.name, expected, got))
        if place.is_file():
            place.unlink()
    assert not wrong
    assert seen[3] > 1000
    assert seen[5] >= 5
    assert seen[0] > 50


def test_every_single_bit_flip_in_headers_padding_and_end_is_refused(tmp_path: Path) -> None:
    """All bits of one header, one padding and the end blocks, not a sample."""
    good = tar(entries())
    model = next(i for i, e in enumerate(entries()) if e.path.endswith("tiny.data"))
    start = len(tar(entries()[:model], b""))
    fill = start + 512 + len(entries()[model].data)
    places = [
        *range(start, start + 512),
        *range(fill, fill + -len(entries()[model].data) % 512),
        *range(len(good) - 1024, len(good)),
    ]
    for place in places:
        for bit in range(8):
            damaged = bytearray(good)
            damaged[place] ^= 1 << bit
            with pytest.raises(BundleError):
                archive.read_index(io.BytesIO(damaged), where="x")


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**63), st.integers(0, 255), st.data())
def test_damage_to_random_bytes_never_raises_anything_but_our_error(seed: int, value: int, data: st.DataObject) -> None:
    damaged = bytearray(tar(entries()))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = value
    try:
        index = archive.read_index(io.BytesIO(damaged), where="x")
    except BundleError:
        return
    assert index.top == TOP  # only data was hit


@st.composite
def _trees(draw: st.DrawFn) -> dict[str, bytes]:
    segment = st.text("abcXYZ019._-", min_size=1, max_size=100).filter(lambda s: is_path(s))
    path = st.lists(segment, min_size=1, max_size=4).map("/".join).filter(is_path)
    return draw(st.dictionaries(path, st.binary(max_size=1100), min_size=1, max_size=6))


@settings(max_examples=150, deadline=None)
@given(_trees(), st.integers(0, 8**11 - 1))
def test_written_archives_are_read_by_tarfile_and_by_us_and_match_an_independent_writer(
    files: dict[str, bytes], mtime: int
) -> None:
    stream = io.BytesIO()
    sources = [
        archive.Source(
            path=path, entry=FileEntry(size=len(data), sha256=_sha256(data)), open=lambda data=data: io.BytesIO(data)
        )
        for path, data in files.items()
    ]
    try:
        archive.write_archive(stream, "t.x", sources, mtime=mtime)
    except UsageError:
        assert any(_unsplittable(f"t.x/{path}") for path in files)
        return
    with tarfile.open(fileobj=io.BytesIO(stream.getvalue())) as reference:
        found = {member.name: reference.extractfile(member).read() for member in reference}  # type: ignore[union-attr]
    assert found == {f"t.x/{path}": data for path, data in files.items()}
    stamp = {"mtime": b"%011o" % mtime}
    assert stream.getvalue() == tar([Entry(f"t.x/{path}", files[path], fields=stamp) for path in sorted(files)])
    index = archive.read_index(stream, where="x")
    assert {path: stream.getvalue()[m.offset : m.offset + m.size] for path, m in index.members.items()} == files


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def _unsplittable(path: str) -> bool:
    return len(path) > 100 and not any(c == "/" and i <= 155 and len(path) - i - 1 <= 100 for i, c in enumerate(path))


def test_header_is_the_one_of_the_page_written_out() -> None:
    """Bytes put down by hand from the table in docs/bundle-format.md."""
    expected = (
        b"t.x/bin/edgerun".ljust(100, b"\0") + b"0000755\0" + b"0000000\0" * 2 + b"00000000012\0" + b"00000000000\0"
        b"%s" + b"0" + bytes(100) + b"ustar\x0000" + b"root".ljust(32, b"\0") * 2 + b"0000000\0" * 2 + bytes(155) + bytes(12)
    )  # fmt: skip
    blank = expected % (b" " * 8)
    assert archive.render_header("t.x/bin/edgerun", 10, executable=True, mtime=0) == expected % (
        b"%06o\0 " % sum(blank)
    )


def test_what_a_header_can_not_say_is_refused() -> None:
    assert archive.render_header("t/" + "a" * 99, 1, executable=False, mtime=0) is not None
    assert archive.render_header("t/" + "a" * 60 + "/" + "b" * 100, 8**11 - 1, executable=False, mtime=0) is not None
    assert archive.render_header("t/x", 8**11, executable=False, mtime=0) is None
    assert archive.render_header("/".join(["t" * 60, "a" * 99, "b" * 60]), 1, executable=False, mtime=0) is None


def test_sound_bundle_of_another_writer_is_read(tmp_path: Path) -> None:
    place = tmp_path / "any name.edge"
    place.write_bytes(tar(entries()))
    bundle = Bundle.open(place)
    bundle.verify_files()
    assert bundle.manifest.top == TOP
    assert {path: bundle.read(path) for path in bundle.manifest.files} == {
        path: data for path, data in contents().items() if not path.startswith("manifest.")
    }
    assert bundle.id == contents()["manifest.sha256"].decode().strip()
    assert bundle.manifest.files["bin/edgerun"].executable
    assert set(sound_manifest()["files"]) == set(bundle.manifest.files)


def test_plain_tar_unpacks_it_and_the_folder_is_the_directory_form(tmp_path: Path) -> None:
    (tmp_path / "b.edge").write_bytes(tar(entries()))
    subprocess.run(["tar", "xf", "b.edge"], cwd=tmp_path, check=True)
    bundle = Bundle.open(tmp_path / TOP)
    bundle.verify_files()
    assert [path for path in EXECUTABLE if (tmp_path / TOP / path).stat().st_mode & 0o100] == list(EXECUTABLE)


@pytest.mark.parametrize("text", ["soon", "-1", "1.5", "9" * 12, str(8**11), "\u0661"])
def test_source_date_epoch_that_is_no_time_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH"):
        archive.source_date_epoch()


def test_a_changed_time_alone_is_noticed() -> None:
    changed = [*entries()]
    changed[3] = Entry(changed[3].path, changed[3].data, changed[3].mode, {"mtime": b"00000000001"})
    assert header(changed[3]) != header(entries()[3])
    with pytest.raises(BundleError, match="time"):
        archive.read_index(io.BytesIO(tar(changed)), where="x")
