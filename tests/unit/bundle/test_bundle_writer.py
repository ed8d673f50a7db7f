import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundle_recipe import recipe, write

import edgebuild
from edgebuild.bundle import atomic
from edgebuild.bundle.reader import Bundle
from edgebuild.bundle.writer import BundleFile, pack_directory, write_bundle
from edgebuild.errors import InternalError, ResourceError, UsageError

HERE = Path(__file__).parent


def _run(
    output: Path, *words: str, cwd: Path, umask: int = 0o022, before: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    python = Path(next(iter(edgebuild.__path__))).parent
    script = f"{before}\nimport runpy, sys\nsys.argv[1:] = {[str(output), *words]!r}\nrunpy.run_path({str(HERE / 'bundle_recipe.py')!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=cwd,
        umask=umask,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(python), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_bytes_do_not_depend_on_folder_umask_locale_time_zone_hash_seed_or_order(tmp_path: Path) -> None:
    expected = write(tmp_path / "here.edge").path.read_bytes()
    other = tmp_path / "an other" / "földer"
    other.mkdir(parents=True)
    runs = [
        _run(
            other / "b.edge",
            "reversed",
            cwd=other,
            umask=0o077,
            LC_ALL="C",
            TZ="Asia/Tokyo",
            PYTHONHASHSEED="1",
            HOME="/nowhere",
        ),
        _run(other / "b.edge", cwd=tmp_path, umask=0, LC_ALL="tr_TR.UTF-8", PYTHONHASHSEED="2", USER="somebody"),
    ]
    for run in runs:
        assert run.returncode == 0, run.stderr
    assert (other / "b.edge").read_bytes() == expected
    assert write(tmp_path / "back.edge", backwards=True).path.read_bytes() == expected
    for words, umask in (((), 0o077), (("reversed",), 0o002)):
        run = _run(tmp_path / "folder", "directory", *words, cwd=other, umask=umask)
        assert run.returncode == 0, run.stderr
        assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o755
        assert (tmp_path / "folder/bin/edgerun").stat().st_mode & 0o777 == 0o755
        assert pack_directory(tmp_path / "folder", tmp_path / "packed.edge").path.read_bytes() == expected


def test_source_date_epoch_changes_nothing_but_the_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = write(tmp_path / "a.edge")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    stamped = write(tmp_path / "b.edge")
    assert stamped.id == plain.id
    assert stamped.path.read_bytes() != plain.path.read_bytes()
    listing = subprocess.run(["tar", "--utc", "-tvf", stamped.path], capture_output=True, text=True, check=True).stdout
    assert listing.count("2023-11-14 22:13") == len(listing.splitlines()) == len(stamped.manifest.files) + 2


@pytest.mark.parametrize("directory", [False, True])
def test_failure_in_the_middle_leaves_the_old_bundle_and_nothing_else(tmp_path: Path, directory: bool) -> None:
    output = tmp_path / "m.edge"
    old = write(output, directory=directory).id
    description = recipe()
    changing = tmp_path / "weights"
    changing.write_bytes(bytes(100))
    real, calls = atomic.atomic_folder if directory else atomic.atomic_file, []

    class Interfering:  # the source changes after it was hashed
        def __init__(self, path: Path) -> None:
            changing.write_bytes(b"1" * 100)
            calls.append(path)
            self.inner = real(path)

        def __enter__(self) -> object:
            return self.inner.__enter__()

        def __exit__(self, *error: object) -> object:
            return self.inner.__exit__(*error)  # type: ignore[arg-type]

    description["files"] = [*description["files"], BundleFile(path="lib/weights", source=changing)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic, "atomic_folder" if directory else "atomic_file", Interfering)
        with pytest.raises(UsageError, match="lib/weights: the source file changed"):
            write_bundle(output, directory=directory, **description)
    assert calls
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.edge", "weights"]
    assert Bundle.open(output).id == old


@pytest.mark.parametrize("words", [(), ("directory",)])
def test_full_disk_is_exit_code_8_and_leaves_the_old_bundle(tmp_path: Path, words: tuple[str, ...]) -> None:
    output = tmp_path / "m.edge"
    old = write(output, directory=bool(words)).id
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))"
    run = _run(output, *words, cwd=tmp_path, before=limit)
    assert "ResourceError" in run.stderr.splitlines()[-1]
    assert ResourceError.exit_code == 8
    assert [path.name for path in tmp_path.iterdir()] == ["m.edge"]
    assert Bundle.open(output).id == old
    Bundle.open(output).verify_files()


@pytest.mark.parametrize("existing", [False, True])
def test_killed_build_leaves_the_old_bundle_or_none_and_the_next_one_cleans_up(tmp_path: Path, existing: bool) -> None:
    output = tmp_path / "m.edge"
    old = write(output).id if existing else None
    stop = "import os\nfrom edgebuild.bundle import archive\nreal = archive.copy_checked\ndef copy(path, *rest):\n    real(path, *rest)\n    if path.startswith('model/a'):\n        print('half', flush=True)\n        os.read(0, 1)\narchive.copy_checked = copy"
    python = Path(next(iter(edgebuild.__path__))).parent
    script = f"{stop}\nimport runpy, sys\nsys.argv[1:] = [{str(output)!r}]\nrunpy.run_path({str(HERE / 'bundle_recipe.py')!r}, run_name='__main__')"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(python)}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        temporary = [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]
        assert len(temporary) == 1
        other = write(tmp_path / "other.edge")  # neither another output …
        same = atomic._remove_stale(output)  # … nor a build of the same removes what a living one writes
        assert same is None
        assert temporary[0].exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    other.path.unlink()
    assert (Bundle.open(output).id if existing else None) == old
    assert output.exists() == existing
    assert temporary[0].exists()
    write(output).verify_files()
    assert [path.name for path in tmp_path.iterdir()] == ["m.edge"]


def test_stale_folders_are_removed_too(tmp_path: Path) -> None:
    output = tmp_path / "m"
    stale = tmp_path / f"{atomic._stem(output)}0123.tmp"
    (stale / "model").mkdir(parents=True)
    (stale / "model/x").touch()
    write(output, directory=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_two_builds_at_once_both_end_well(tmp_path: Path) -> None:
    script = f"import sys; sys.argv[1:] = [{str(tmp_path / 'm.edge')!r}]; import runpy\nfor _ in range(5): runpy.run_path({str(HERE / 'bundle_recipe.py')!r}, run_name='__main__')"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(next(iter(edgebuild.__path__))).parent)}
    processes = [subprocess.Popen([sys.executable, "-c", script], env=environment) for _ in range(3)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    Bundle.open(tmp_path / "m.edge").verify_files()
    assert [path.name for path in tmp_path.iterdir()] == ["m.edge"]


def test_output_that_can_not_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="folder"):
        write(tmp_path / "folder")
    with pytest.raises(UsageError, match="missing"):
        write(tmp_path / "missing" / "m.edge")
    with pytest.raises(UsageError, match="nowhere"):
        write_bundle(
            tmp_path / "m.edge", **{**recipe(), "files": [BundleFile(path="model/a.bin", source=tmp_path / "nowhere")]}
        )
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_longest_file_name_is_written(tmp_path: Path) -> None:
    assert write(tmp_path / ("m" * 250 + ".edge")).path.exists()


def test_file_gets_the_permissions_that_the_umask_leaves(tmp_path: Path) -> None:
    assert _run(tmp_path / "m.edge", cwd=tmp_path, umask=0o027).returncode == 0
    assert (tmp_path / "m.edge").stat().st_mode & 0o777 == 0o640


def test_descriptions_that_break_the_format_are_our_own_fault(tmp_path: Path) -> None:
    good = recipe()
    variant = good["variants"][0]
    broken = [
        {"variants": []},
        {"variants": [dataclasses.replace(variant, model="model/none")]},
        {"variants": [dataclasses.replace(variant, tolerances={})]},
        {"files": [*good["files"], BundleFile(path="elsewhere/x", source=b"")]},
        {"files": [*good["files"], BundleFile(path="LICENSES/X.txt", source=b"")]},
        {"files": [*good["files"], good["files"][0]]},
        {"files": [*good["files"], BundleFile(path="../x", source=b"")]},
        {"quantization": {"scale": float("nan")}},
        {"quantization": {"scale": 2**60}},
        {"goldens": [dataclasses.replace(good["goldens"][0], inputs={})]},
    ]
    for change in broken:
        with pytest.raises(InternalError):
            write_bundle(tmp_path / "m.edge", **{**good, **change})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("größe", np.zeros((2, 3)), "größe.*float32.*float64"),
        ("größe", np.zeros((2, 4), np.float32), r"größe.*float32\[n,3\].*\[2, 4\]"),
        ("größe", np.zeros(3, np.float32), "größe"),
        ("größe", None, "größe.*None"),
    ],
)
def test_golden_that_does_not_fit_the_signature_is_named(tmp_path: Path, name: str, value: object, words: str) -> None:
    good = recipe()
    golden = good["goldens"][0]
    with pytest.raises(UsageError, match=words):
        write_bundle(
            tmp_path / "m.edge",
            **{**good, "goldens": [dataclasses.replace(golden, inputs={**golden.inputs, name: value})]},
        )


def test_features_newer_than_this_reader_can_be_written_but_not_opened(tmp_path: Path) -> None:
    from edgebuild.errors import IncompatibleError

    with pytest.raises(IncompatibleError, match="encryption"):
        write_bundle(tmp_path / "m.edge", **recipe(), required_features=["encryption"])


def test_importing_reader_and_manifest_is_quick_and_needs_no_numpy() -> None:
    script = "import sys; import edgebuild.bundle.reader; print(sorted({'numpy', 'torch', 'onnx', 'ml_dtypes'} & set(sys.modules)))"
    environment = {"PYTHONPATH": str(Path(next(iter(edgebuild.__path__))).parent)}
    assert (
        subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


def test_writing_holds_no_file_in_memory(tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as stream:
        stream.truncate(400_000_000)
    before = (
        "import resource, sys\nfrom pathlib import Path\nimport bundle_recipe as b\nfrom edgebuild.bundle.writer import BundleFile, write_bundle\n"
        f"kw = b.recipe(); kw['files'].append(BundleFile(path='lib/big', source=Path({str(big)!r})))\n"
        f"start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; write_bundle({str(tmp_path / 'm.edge')!r}, **kw)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{Path(next(iter(edgebuild.__path__))).parent}:{HERE}"}
    run = subprocess.run([sys.executable, "-c", before], env=environment, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 30_000  # KiB
