"""Publishing a staged bundle: moved or copied, whole or not at all."""

import errno
import os
from pathlib import Path

import pytest
from bundle_recipe import recipe

from edgebuild.bundle.pack import check_output, publish
from edgebuild.bundle.reader import Bundle
from edgebuild.bundle.writer import write_bundle
from edgebuild.errors import ResourceError, UsageError


@pytest.fixture
def staged(tmp_path: Path) -> Bundle:
    (tmp_path / "staging").mkdir()
    return write_bundle(tmp_path / "staging" / "m.board.edge", **recipe())


def refuse_renames(monkeypatch: pytest.MonkeyPatch, staged: Bundle, number: int) -> None:
    original = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if self == staged.path:
            raise OSError(number, os.strerror(number))
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)


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
        (model, "would replace"),
        (tmp_path / "link", "would replace"),
    ]:
        with pytest.raises(UsageError, match=said):
            check_output(output, keep=[str(model)])
