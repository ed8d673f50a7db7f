"""Bundles that bring a C library and libraries for their engine: edgerun starts itself anew on the hashed bytes.

The C library is a copy of this machine's own one, so everything runs natively.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "runtime"))

import runtime_bundles as bundles

from edgebuild.bundle.manifest import Loader, Requirements
from edgebuild.bundle.reader import Bundle
from edgebuild.bundle.writer import BundleFile
from edgebuild.errors import IncompatibleError
from edgebuild.runtime import Runner

_BUILT = Path(__file__).parents[2] / "build/dev/cpp/apps/edgerun/edgerun"
EDGERUN = Path(os.environ.get("EDGEBUILD_TEST_EDGERUN", _BUILT))

pytestmark = pytest.mark.skipif(not EDGERUN.exists(), reason=f"{EDGERUN} is not built")


def system_libraries() -> tuple[Path, list[Path]]:
    """This machine's program loader, and the libraries of its C library that edgerun uses."""
    said = subprocess.run(["ldd", EDGERUN], capture_output=True, text=True, check=True).stdout
    loader = next(Path(path) for path in re.findall(r"^\s*(/\S+) \(", said, re.MULTILINE))
    return loader, [Path(path) for path in re.findall(r"=> (/\S*/lib(?:c|m|dl|pthread)\.so\.\d) ", said)]


def own_libc(folder: Path, *, glibc: str | None = None, directory: bool = True, **keywords: Any) -> Path:
    loader, libraries = system_libraries()
    files = [
        BundleFile(path=f"lib/{loader.name}", source=loader.resolve(), executable=True),
        *(BundleFile(path=f"lib/{path.name}", source=path.resolve()) for path in libraries),
        BundleFile(path="bin/edgerun", source=EDGERUN, executable=True),
        *keywords.pop("files", ()),
    ]
    return bundles.affine(
        folder / "b",
        loader=Loader(
            program=f"lib/{loader.name}", libraries=tuple(f"lib/{path.name}" for path in libraries), glibc="2.36"
        ),
        variants=(("float32", Requirements(glibc=glibc)),),
        files=files,
        directory=directory,
        **keywords,
    )


@pytest.fixture(scope="module")
def bundle(module_folder: Callable[[str], Path]) -> Path:
    return own_libc(module_folder("loader"))


def run(
    *words: object, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
    )


def libraries_at_work(bundle: Path, program: object, tmp_path: Path, argv0: str | None = None) -> list[str]:
    """Files that are mapped in a running edgerun, seen while it waits for its input at a pipe."""
    pipe = tmp_path / "pipe.npz"
    os.mkfifo(pipe)
    words = [argv0 or str(program), "run", str(bundle), "--inputs", str(pipe), "--outputs", str(tmp_path / "out.npz")]
    process = subprocess.Popen(words, executable=str(program), stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert said.startswith("edgerun: variant"), said + process.stderr.read()
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert Path(f"/proc/{process.pid}/comm").read_text() == "edgerun\n"
        first = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert argv0 is None or argv0.encode() in first.split(b"\0")
        return sorted(set(re.findall(r" (/\S+)$", maps, re.MULTILINE)))
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_the_c_library_at_work_is_the_bundle_s(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = own_libc(tmp_path, directory=form == "folder")
    mapped = libraries_at_work(path, EDGERUN, tmp_path)
    libc = [name for name in mapped if Path(name).name.startswith("libc.so")]
    assert len(libc) == 1, mapped
    assert libc[0].startswith(str(tmp_path))
    assert Path(libc[0]).parent.name == "lib"


def test_outputs_json_and_exit_codes_are_as_without_a_loader(bundle: Path, tmp_path: Path) -> None:
    inputs = bundles.affine_inputs(4, seed=4)
    np.savez(tmp_path / "in.npz", **inputs)
    done = run(EDGERUN, "run", bundle, "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0].startswith("edgerun: variant float32"), "said once"
    outputs = np.load(tmp_path / "out.npz")
    for name, expected in bundles.affine_reference(inputs).items():
        np.testing.assert_allclose(outputs[name], expected, rtol=1e-5, atol=1e-5)
    verified = run(EDGERUN, "verify", bundle, "--json")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["exit_code"] == 0
    measured = run(EDGERUN, "bench", bundle, "--json", "--seconds", "0.1")
    assert measured.returncode == 0, measured.stderr
    assert (
        run(EDGERUN, "run", bundle, "--inputs", tmp_path / "none.npz", "--outputs", tmp_path / "o.npz").returncode == 2
    )
    assert run(EDGERUN, "verify", bundle, "--variant", "other", "--json").returncode == 2


@pytest.mark.parametrize("started", ["by its path", "from its folder", "through a link", "under another name"])
def test_the_bundle_s_own_edgerun_finds_its_bundle_however_it_is_started(
    started: str, bundle: Path, tmp_path: Path
) -> None:
    program = bundle / "bin" / "edgerun"
    if started == "from its folder":
        done = run("./edgerun", "verify", cwd=program.parent)
    elif started == "through a link":
        (tmp_path / "link").symlink_to(program)
        done = run(tmp_path / "link", "verify")
    elif started == "under another name":
        done = subprocess.run(
            ["-x", "verify"], executable=program, capture_output=True, text=True, timeout=60, check=False
        )
    else:
        done = run(program, "verify")
    assert done.returncode == 0, done.stderr


def test_the_name_that_it_was_started_under_stays(bundle: Path, tmp_path: Path) -> None:
    libraries_at_work(bundle, bundle / "bin" / "edgerun", tmp_path, argv0="my-edgerun")


def test_started_through_the_loader_by_hand_it_does_not_start_again(bundle: Path) -> None:
    loader = next((bundle / "lib").glob("ld-linux*"))
    done = run(loader, "--library-path", bundle / "lib", bundle / "bin" / "edgerun", "verify")
    assert done.returncode == 0, done.stderr


def test_a_second_bundle_s_c_library_takes_the_place_of_the_first_s(bundle: Path, tmp_path: Path) -> None:
    """edgerun of one bundle, on its C library, is asked to run another one."""
    other = own_libc(tmp_path)
    loader = next((bundle / "lib").glob("ld-linux*"))
    done = run(loader, "--library-path", bundle / "lib", bundle / "bin" / "edgerun", "verify", other)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["ld-linux*", "libc.so.6"])
@pytest.mark.parametrize("command", ["run", "verify", "bench"])
def test_a_damaged_loader_or_c_library_is_never_started(name: str, command: str, bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    (path,) = (copy / "lib").glob(name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    np.savez(tmp_path / "in.npz", **bundles.affine_inputs(1))
    words = ["--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz"] if command == "run" else []
    done = run(EDGERUN, command, copy, *words)
    assert done.returncode == 3, done.stderr
    assert path.name in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_loader_that_does_not_start_is_one_line_and_no_loop(tmp_path: Path) -> None:
    broken = tmp_path / "ld.so"
    broken.write_bytes(b"\x7fELF, and then nothing")
    path = bundles.affine(
        tmp_path / "b",
        loader=Loader(program="lib/ld.so", libraries=(), glibc="2.41"),
        files=[BundleFile(path="lib/ld.so", source=broken, executable=True)],
    )
    done = run(EDGERUN, "bench", path)
    assert done.returncode == 5
    assert "lib/ld.so does not start: Exec format error" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    verified = run(EDGERUN, "verify", path)
    assert verified.returncode == 5
    assert "no variant" in verified.stderr
    assert "does not start" in verified.stderr


def test_a_loader_that_is_not_what_the_kernel_then_shows_ends_the_second_start(tmp_path: Path) -> None:
    script = tmp_path / "ld.sh"
    # Starts the program, which is the argument behind --argv0 NAME, directly: the kernel then shows no loader.
    script.write_text('#!/bin/sh\nwhile [ "$1" != --argv0 ]; do shift; done\nshift 2\nexec "$@"\n')
    path = bundles.affine(
        tmp_path / "b",
        loader=Loader(program="lib/ld.sh", libraries=(), glibc="2.41"),
        files=[BundleFile(path="lib/ld.sh", source=script, executable=True)],
    )
    done = run(EDGERUN, "bench", path)
    assert done.returncode == 5
    assert "/proc/self/exe does not say so" in done.stderr


def test_the_python_runner_refuses_a_bundle_whose_c_library_it_would_need(tmp_path: Path) -> None:
    path = own_libc(tmp_path, glibc="9.99")
    with pytest.raises(IncompatibleError) as caught:
        Runner(path)
    assert "it needs glibc 9.99" in caught.value.message
    assert "only its bin/edgerun" in caught.value.message


def test_libraries_that_the_engine_needs_are_hashed_and_loaded_before_it(tmp_path: Path) -> None:
    zlib = next(path for path in Path("/usr/lib").glob("*/libz.so.1"))
    files = [BundleFile(path="lib/libz.so.1", source=zlib.resolve())]
    path = bundles.affine(tmp_path / "b", needed=["lib/libz.so.1"], files=files)
    mapped = libraries_at_work(path, EDGERUN, tmp_path)
    assert str(path / "lib/libz.so.1") in mapped
    assert Bundle.open(path).manifest.minor == 2
    with Runner(path) as runner:
        assert runner.run(bundles.affine_inputs(2))
    data = bytearray((path / "lib/libz.so.1").read_bytes())
    data[5000] ^= 1
    (path / "lib/libz.so.1").unlink()  # this process has it mapped: another file takes its place
    (path / "lib/libz.so.1").write_bytes(data)
    done = run(EDGERUN, "bench", path, "--seconds", "0.1")
    assert done.returncode == 3
    assert "lib/libz.so.1" in done.stderr


def test_a_needed_library_that_can_not_be_loaded_is_named(tmp_path: Path) -> None:
    path = bundles.affine(tmp_path / "b", needed=["lib/x.so"], files=[BundleFile(path="lib/x.so", source=b"no ELF")])
    done = run(EDGERUN, "bench", path, "--seconds", "0.1")
    assert done.returncode == 5
    assert "lib/x.so can't be loaded" in done.stderr
