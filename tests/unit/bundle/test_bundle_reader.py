import multiprocessing
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from bundle_manifest_cases import edited
from bundle_parts import FILES, TOP, contents, dump, entries, file_entry, sha256, sound_manifest, tar
from bundle_recipe import recipe, write

from edgebuild.bundle.reader import Bundle, cache_folder, to_json
from edgebuild.errors import BundleError, ToolError, UsageError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def archive_file(tmp_path: Path) -> Path:
    (tmp_path / "b.edge").write_bytes(tar(entries()))
    return tmp_path / "b.edge"


def test_both_forms_give_the_same(tmp_path: Path) -> None:
    packed, folder = write(tmp_path / "m.edge"), write(tmp_path / "m", directory=True)
    assert packed.id == folder.id == sha256(packed.manifest.to_bytes())
    assert packed.manifest == folder.manifest
    assert packed.signature == folder.signature == recipe()["signature"]
    assert {p: packed.read(p) for p in packed.manifest.files} == {p: folder.read(p) for p in folder.manifest.files}
    assert (packed.is_archive, folder.is_archive) == (True, False)
    assert folder.directory() == folder.path
    assert not (tmp_path / "cache").exists()


def test_goldens_come_back_in_the_order_of_the_signature(tmp_path: Path) -> None:
    given = recipe()["goldens"]
    got = write(tmp_path / "m.edge", backwards=True).goldens()
    assert len(got) == 2
    for one, other in zip(got, given, strict=True):
        assert list(one.inputs) == ["größe", "words"]
        assert list(one.outputs) == ["half", "bits", "parts", "maybe"]
        np.testing.assert_array_equal(one.inputs["größe"], other.inputs["größe"])
        assert one.inputs["words"].tolist() == ["ä", ""]
        assert one.outputs["half"].tolist() == [0x3F80, 0x4000]
        assert one.outputs["bits"].tolist() == [-8, 7, -1]
        assert [part.tolist() for part in one.outputs["parts"]] == [[0, 1, 2], []]
    assert got[0].outputs["maybe"] is None
    assert got[1].outputs["maybe"].shape == ()
    assert got[1].outputs["maybe"]


def test_json_of_inspect_holds_the_id_and_the_whole_manifest(archive_file: Path) -> None:
    data = to_json(Bundle.open(archive_file))
    assert data["id"] == contents()["manifest.sha256"].decode().strip()
    assert data["signature"] == sound_manifest()["signature"]


def test_archive_is_unpacked_once_into_the_cache_under_its_id(archive_file: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(archive_file)
    folder = bundle.directory()
    assert folder == tmp_path / "cache/edgebuild/bundles" / bundle.id / TOP
    assert bundle.edgerun == folder / "bin/edgerun"
    assert os.access(folder / "bin/edgerun", os.X_OK)
    stamp = (folder / "manifest.json").stat().st_ino
    assert Bundle.open(archive_file).directory() == folder
    assert (folder / "manifest.json").stat().st_ino == stamp
    Bundle.open(folder).verify_files()
    assert [path.name for path in folder.parent.parent.iterdir()] == [bundle.id]


def test_damaged_runner_in_the_cache_is_not_handed_out(archive_file: Path) -> None:
    bundle = Bundle.open(archive_file)
    runner = bundle.edgerun
    assert runner is not None
    runner.write_bytes(b"#!/bin/sh\nexit 0\n")
    with pytest.raises(BundleError, match="bin/edgerun"):
        _ = bundle.edgerun


def test_bundle_without_a_runner_says_so(tmp_path: Path) -> None:
    manifest = sound_manifest()
    del manifest["files"]["bin/edgerun"]
    files = {path: data for path, data in contents(dump(manifest)).items() if path != "bin/edgerun"}
    (tmp_path / "b.edge").write_bytes(tar(entries(files)))
    assert Bundle.open(tmp_path / "b.edge").edgerun is None


@pytest.mark.parametrize("damage", ["missing", "extra", "longer", "empty", "file"])
def test_damaged_copy_in_the_cache_is_replaced(archive_file: Path, damage: str) -> None:
    folder = Bundle.open(archive_file).directory()
    model = folder / "model/tiny.onnx"
    if damage == "missing":
        model.unlink()
    elif damage == "extra":
        (folder / "x").touch()
    elif damage == "longer":
        model.write_bytes(bytes(5000))
    else:
        for path in sorted(folder.parent.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        if damage == "file":
            folder.parent.rmdir()
            folder.parent.write_text("in the way")
    again = Bundle.open(archive_file).directory()
    Bundle.open(again).verify_files()
    assert [path.name for path in folder.parent.parent.iterdir()] == [folder.parent.name]


def test_damaged_archive_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    (tmp_path / "b.edge").write_bytes(tar(entries({**contents(), "model/tiny.onnx": bytes(1024)})))
    bundle = Bundle.open(tmp_path / "b.edge")
    with pytest.raises(BundleError, match=r"model/tiny\.onnx"):
        bundle.directory()
    with pytest.raises(BundleError, match=r"model/tiny\.onnx"):
        bundle.read("model/tiny.onnx")
    with pytest.raises(BundleError, match=r"model/tiny\.onnx"):
        bundle.verify_files()
    assert bundle.read("model/tiny.data") == FILES["model/tiny.data"]
    assert not list(cache_folder().iterdir())


def _open_in_process(path: str, cache: str, start: "threading.Event", results: "multiprocessing.Queue[str]") -> None:
    os.environ["XDG_CACHE_HOME"] = cache
    start.wait()
    folder = Bundle.open(path).directory()
    Bundle.open(folder).verify_files()
    results.put(str(folder))


def test_many_processes_and_threads_may_unpack_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "m.edge").path
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    processes = [
        context.Process(target=_open_in_process, args=(str(path), str(tmp_path / "cache"), start, results))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    start.set()
    got: list[str] = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    bundle, folders = Bundle.open(path), []
    threads = [threading.Thread(target=lambda: folders.append(str(bundle.directory()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({*got, *folders}) == 1
    assert len(folders) == 8
    assert [path.name for path in cache_folder().iterdir()] == [bundle.id]


def test_threads_that_race_for_the_first_copy_agree(tmp_path: Path) -> None:
    bundle, folders = write(tmp_path / "m.edge"), []
    barrier = threading.Barrier(8)

    def unpack() -> None:
        barrier.wait()
        folders.append(bundle.directory())

    threads = [threading.Thread(target=unpack) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [folders[0]] * 8
    assert [path.name for path in cache_folder().iterdir()] == [bundle.id]


def test_relative_cache_variable_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/edgebuild/bundles"


def test_cache_that_can_not_be_written_is_our_error(archive_file: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ToolError, match="can't be used"):
        Bundle.open(archive_file).directory()


def test_bundle_that_changed_after_it_was_opened_is_noticed(archive_file: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(archive_file)
    archive_file.write_bytes(archive_file.read_bytes()[:-4000])
    with pytest.raises(BundleError):
        bundle.verify_files()
    folder = write(tmp_path / "m", directory=True)
    (folder.path / "model/a.bin").write_bytes(b"model and more")
    with pytest.raises(BundleError, match=r"model/a\.bin"):
        folder.read("model/a.bin")
    (folder.path / "model/a.bin").unlink()
    (folder.path / "model/a.bin").symlink_to("/etc/hostname")
    with pytest.raises(BundleError, match=r"model/a\.bin"):
        folder.read("model/a.bin")


def test_files_that_are_not_listed_can_not_be_read(archive_file: Path) -> None:
    for path in ("manifest.json", "../b.edge", "/etc/hostname", "model", "nothing"):
        with pytest.raises(BundleError):
            Bundle.open(archive_file).read(path)


def test_progress_ends_at_the_total(archive_file: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    Bundle.open(archive_file).verify_files(lambda *args: heard.append(args))
    total = sum(map(len, FILES.values()))
    assert heard[-1][1:] == (total, total)
    assert [path for path, _, _ in heard] == sorted(FILES)
    assert [done for _, done, _ in heard] == sorted(done for _, done, _ in heard)


def test_what_is_not_there_or_no_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.edge"):
        Bundle.open(tmp_path / "none.edge")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe"):
        Bundle.open(tmp_path / "pipe")


def test_modes_of_a_folder_are_not_judged_but_those_of_the_cache_are_right(tmp_path: Path) -> None:
    listed = edited("files", "lib/tool", to=file_entry(b"x", executable=True))
    files = {**contents(dump(listed)), "lib/tool": b"x"}
    everything = [
        e if not e.path.endswith("lib/tool") else type(e)(e.path, e.data, b"0000755\0") for e in entries(files)
    ]
    (tmp_path / "b.edge").write_bytes(tar(everything))
    folder = Bundle.open(tmp_path / "b.edge").directory()
    assert (folder / "lib/tool").stat().st_mode & 0o777 == 0o755
    assert (folder / "model/tiny.onnx").stat().st_mode & 0o777 == 0o644
    (folder / "lib/tool").chmod(0o600)
    Bundle.open(folder).verify_files()
