"""Publishing a staged bundle: moved or copied, whole or not at all."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from bundle_recipe import recipe

from edgebuild.bundle.pack import check_output, check_size, publish
from edgebuild.bundle.reader import Bundle
from edgebuild.bundle.writer import write_bundle
from edgebuild.errors import GateError, ResourceError, UsageError
from edgebuild.targets import load_target


@pytest.fixture
def staged(tmp_path: Path) -> Bundle:
    (tmp_path / "staging").mkdir()
    return write_bundle(tmp_path / "staging" / "m.board.edge", **recipe())


def refuse_renames(monkeypatch: pytest.MonkeyPatch, staged: Bundle, number: int) -> None:
    original = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self == staged.path:
            raise OSError(number, os.strerror(number))
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)


@pytest.mark.parametrize("across", [False, True], ids=["one file system", "another mount"])
def test_the_old_bundle_is_replaced_by_the_staged_bytes(
    staged: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, across: bool
) -> None:
    output = tmp_path / "out.edge"
    output.write_bytes(b"old")
    expected = staged.path.read_bytes()
    if across:
        refuse_renames(monkeypatch, staged, errno.EXDEV)
    assert publish(staged, output).id == staged.id
    assert output.read_bytes() == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.edge", "staging"]


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, ResourceError), (errno.EACCES, UsageError)])
def test_a_failure_leaves_the_old_bundle(
    staged: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    output = tmp_path / "out.edge"
    output.write_bytes(b"old")
    refuse_renames(monkeypatch, staged, number)
    with pytest.raises(kind, match=r"out\.edge: can't be written"):
        publish(staged, output)
    assert output.read_bytes() == b"old"


@pytest.mark.parametrize("across", [False, True], ids=["one file system", "another mount"])
@pytest.mark.parametrize("moved", [0, 1, 2])
def test_killed_between_the_moves_a_bundle_never_lies_beside_the_texts_of_another(
    staged: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, across: bool, moved: int
) -> None:
    output = tmp_path / "out.edge"
    output.write_bytes(b"old")
    if across:
        refuse_renames(monkeypatch, staged, errno.EXDEV)
    done: list[str] = []
    original = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if len(done) == moved:
            raise KeyboardInterrupt  # nothing is caught that a kill would not let be caught: see the names below
        done.append(target.name)
        # By now every byte is there: what is left are renames.
        assert staged.path.exists() == across
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        publish(staged, output, {"decisions": "d", "report": "r"})
    assert done == ["out.report.json", "out.decisions.json"][:moved]
    assert output.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["out.edge", "staging", *done])


def test_texts_lie_beside_the_bundle_and_one_that_can_not_be_written_stops_everything(
    staged: Bundle, tmp_path: Path
) -> None:
    output = tmp_path / "out.edge"
    (tmp_path / "out.report.json").mkdir()
    with pytest.raises(UsageError, match=r"out\.report\.json: is a folder"):
        publish(staged, output, {"decisions": "d", "report": "r"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.report.json", "staging"]


def test_the_texts_are_the_given_ones(staged: Bundle, tmp_path: Path) -> None:
    output = tmp_path / "out.edge"
    expected = staged.path.read_bytes()
    publish(staged, output, {"decisions": "d\n", "report": "\u00e4"})
    assert output.read_bytes() == expected
    assert (tmp_path / "out.decisions.json").read_bytes() == b"d\n"
    assert (tmp_path / "out.report.json").read_text(encoding="utf-8") == "\u00e4"


def test_an_output_that_can_not_be_is_refused_before_the_build(tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    model.write_bytes(b"model")
    (tmp_path / "link").symlink_to(model)
    check_output(None, keep=[str(model)])
    check_output(tmp_path / "new.edge", keep=[str(model), str(tmp_path / "missing.npz")])
    for output, said in [
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "where", "does not exist"),
        (model / "below", "does not exist"),
        (Path("/proc/new.edge"), "can't be written: /proc"),  # refuses even the root
        (model, "would replace"),
        (tmp_path / "link", "would replace"),
    ]:
        with pytest.raises(UsageError, match=said):
            check_output(output, keep=[str(model)])


def test_an_output_takes_the_place_of_bundles_and_empty_files_alone(staged: Bundle, tmp_path: Path) -> None:
    (tmp_path / "empty.edge").touch()
    (tmp_path / "notes.txt").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    check_output(staged.path, keep=[])
    check_output(tmp_path / "empty.edge", keep=[])
    for name, said in (("notes.txt", "exists and is no bundle"), ("pipe", "is no plain file")):
        with pytest.raises(UsageError, match=said):
            check_output(tmp_path / name, keep=[])


def test_a_bundle_above_the_size_that_is_allowed_is_refused_with_its_largest_file(staged: Bundle) -> None:
    board = load_target("raspberrypi4")
    size = staged.path.stat().st_size
    check_size(staged, board, None)
    check_size(staged, board, size)
    largest = max(staged.manifest.files, key=lambda path: staged.manifest.files[path].size)
    with pytest.raises(GateError, match=rf"--max-size allows .*; largest: {largest} "):
        check_size(staged, board, size - 1)
    check_size(staged, replace(board, limits=replace(board.limits, size_mib=1 + size // 2**20)), None)
    # Cheaper than a bundle of more than a MiB: a file that says it is one.
    with staged.path.open("ab") as stream:
        stream.truncate(2**20 + 1)
    with pytest.raises(GateError, match=r"\[limits\] size_mib of raspberrypi4 allows 1\.0 MiB"):
        check_size(staged, replace(board, limits=replace(board.limits, size_mib=1)), None)
