"""What can go wrong with a board's build: a shared, damaged or full cache, emulators, downloads and targets that are no good.

What a build would download or compile comes from the user's own cache. Every failure is one line with its code, and the next sound build
from the same cache makes the bundle that it should.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from emulated_tools import BOARD_MARKS
from offline_build import BOARD, Offline

from edgebuild.cache_sweep import INDEX
from edgebuild.native.debian import pinned_packages
from edgebuild.targets import targets_folder

pytestmark = BOARD_MARKS
FETCHED = [
    "compile aarch64-linux-gnu",
    *(f"download {name} for arm64" for name in ("libc6", "libcrypt1", "libgcc-s1", "libstdc++6")),
    "download onnxruntime for manylinux_2_28_aarch64",
    "download qemu-user for amd64",
]


@pytest.fixture(scope="module")
def offline(module_folder: Callable[[str], Path]) -> Offline:
    made = Offline(module_folder("offline"))
    torch.manual_seed(2)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 5))
    torch.jit.save(torch.jit.trace(net.eval(), torch.zeros(1, 3, 8, 8)), made.work / "net.pt")
    return made


@pytest.fixture(scope="module")
def bundles(offline: Offline) -> list[bytes]:
    """Two builds of one model at once, into one empty cache."""
    builds = [offline.start(*offline.line, "-o", f"{name}.edge") for name in ("first", "second")]
    for process in builds:
        out, err = process.communicate(timeout=2000)
        assert process.returncode == 0, err
        assert json.loads(out)["proof"]["kind"] == "emulator"
    return [(offline.work / f"{name}.edge").read_bytes() for name in ("first", "second")]


def test_two_builds_at_once_fetch_and_compile_everything_once_and_agree(offline: Offline, bundles: list[bytes]) -> None:
    assert bundles[0] == bundles[1]
    assert sorted(offline.fetched()) == FETCHED


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": _flip,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "removed": Path.unlink,
    "folder": _to_folder,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_is_damaged_in_the_cache_the_next_build_makes_the_same_bundle(
    offline: Offline, bundles: list[bytes], damage: str, tmp_path: Path
) -> None:
    """The largest file of every entry: runner, engine, emulator, its system, packages, graphs, proof, unpacked bundle."""
    other = offline.copy(tmp_path)
    damaged = []
    for entry in other.entries():
        files = [path for path in entry.rglob("*") if path.is_file() and not path.is_symlink() and path.name != INDEX]
        if files:
            largest = max(files, key=lambda path: path.stat().st_size)
            DAMAGES[damage](largest)
            damaged.append((largest, largest.relative_to(other.cache).parts[0]))
    assert {section for _, section in damaged} == {
        *("bundles", "debian", "engines", "export", "graph", "lower", "native", "proof")
    }
    other.build(*other.line, "-o", "again.edge")
    assert (other.work / "again.edge").read_bytes() == bundles[0]
    assert sorted(other.fetched()) == FETCHED
    for path, section in damaged:
        if section != "proof":  # it is of the emulator file that was, by its time
            assert path.read_bytes() == (offline.cache / path.relative_to(other.cache)).read_bytes(), path
    other.build(*other.line, "-o", "again.edge")
    assert sorted(other.fetched()) == FETCHED, "nothing is fetched a second time"


def test_an_entry_or_a_section_that_became_a_file_is_replaced_or_said(
    offline: Offline, bundles: list[bytes], tmp_path: Path
) -> None:
    other = offline.copy(tmp_path)
    for entry in other.entries():
        shutil.rmtree(entry)
        entry.write_bytes(b"")
    other.build(*other.line, "-o", "again.edge")
    assert (other.work / "again.edge").read_bytes() == bundles[0]
    shutil.rmtree(other.cache / "native")
    (other.cache / "native").write_bytes(b"")
    said = other.build(*other.line, "-o", "more.edge", code=10)
    assert "the cache folder" in said
    assert "can't be used" in said
    assert not (other.work / "more.edge").exists()


def _can_mount() -> bool:
    done = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.skipif(
    shutil.which("unshare") is None or not _can_mount(), reason="no small disk can be mounted here (unshare -m, mount)"
)
@pytest.mark.parametrize("mib", [110, 190])  # full in the emulator's package, and when the bundle is packed
def test_a_full_disk_ends_in_one_line_and_its_code_and_what_is_there_is_sound(
    offline: Offline, bundles: list[bytes], mib: int, tmp_path: Path
) -> None:
    other = Offline(tmp_path / "full", model=offline.work / "net.pt")
    copied = tmp_path / "copied"
    mounted = f"mount -t tmpfs -o size={mib}m none {other.cache.parent} && "
    keep = f"; code=$?; cp -a {other.cache.parent} {copied}; exit $code"
    said = other.build(*other.line, prefix=["unshare", "-m", "sh", "-c", f'{mounted} "$@"{keep}', "sh"], code=8)
    assert "no space left" in said.lower()
    assert not list(other.work.glob("*.edge"))
    left = [p for p in (copied / "edgebuild").rglob("*") if p.is_dir() and p.name.startswith(".") and any(p.iterdir())]
    assert left == [], "half-made entries would fill the disk for good"
    shutil.rmtree(other.cache.parent)
    copied.rename(other.cache.parent)
    other.build(*other.line)
    assert (other.work / f"net.{BOARD}.edge").read_bytes() == bundles[0]


QEMU = """#!/bin/sh
if [ "$1" = --version ]; then echo qemu version {version}; exit; fi
if [ "$1 $2" = "-cpu help" ]; then echo cortex-a72; exit 1; fi
{run}
"""


@pytest.mark.parametrize(
    ("run", "version", "code", "said"),
    [
        ("kill -SEGV $$", "10.0.13", 10, "was killed by SIGSEGV in `verify` under qemu-aarch64 10.0.13"),
        ("kill -ILL $$", "10.0.13", 5, "used an instruction that cortex-a72 lacks"),
        ("exec sleep 300", "10.0.13", 11, "took longer than"),
        ("echo qemu: Unknown error >&2; exit 1", "10.0.13", 10, "expected one JSON object"),
        ("exit 1", "7.2.0", 10, "is 7.2.0, which is too old"),
    ],
)
def test_an_emulator_that_is_no_good_stops_the_build(
    offline: Offline, bundles: list[bytes], run: str, version: str, code: int, said: str, tmp_path: Path
) -> None:
    other = offline.copy(tmp_path)
    shutil.rmtree(other.cache / "proof")
    if version.startswith("7"):  # and no other can be had
        shutil.rmtree(other.cache / "debian")
    (tmp_path / "bin").mkdir()
    (tmp_path / "debs").mkdir()
    (tmp_path / "bin" / "qemu-aarch64").write_text(QEMU.format(run=run, version=version))
    (tmp_path / "bin" / "qemu-aarch64").chmod(0o755)
    other.environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "EDGEBUILD_TEST_STEP_S": "0.2",
        "EDGEBUILD_DEBIAN_MIRROR": str(tmp_path / "debs"),
    }
    assert said in other.build(*other.line, "--verify", "emulator", code=code)
    assert not list(other.work.glob("*.edge"))
    other.environment = {}
    other.build(*other.line)
    assert (other.work / f"net.{BOARD}.edge").read_bytes() == bundles[0]


def test_without_an_emulator_the_bundle_is_written_and_said_to_be_unproved(
    offline: Offline, bundles: list[bytes], tmp_path: Path
) -> None:
    other = offline.copy(tmp_path)
    shutil.rmtree(other.cache / "debian")
    (tmp_path / "debs").mkdir()
    other.environment = {"EDGEBUILD_DEBIAN_MIRROR": str(tmp_path / "debs")}
    plain = [word for word in other.line if word != "--json"]
    assert "has no qemu-user_" in other.build(*plain, "--verify", "emulator", code=10)
    process = other.start(*plain)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    assert "NOT PROVED" in out
    assert f"`edgebuild doctor --target {BOARD} --fetch` gets an emulator" in out
    assert (other.work / f"net.{BOARD}.edge").read_bytes() == bundles[0]


def test_a_corrupt_download_is_refused_and_a_sound_one_taken(
    offline: Offline, bundles: list[bytes], tmp_path: Path
) -> None:
    other = offline.copy(tmp_path)
    (package,) = pinned_packages("qemu-user", "amd64")
    (deb,) = other.cache.rglob(Path(package.path).name)
    (tmp_path / "debs").mkdir()
    bad = tmp_path / "debs" / deb.name
    shutil.copyfile(deb, bad)
    _flip(bad)
    shutil.rmtree(other.cache / "debian")
    other.environment = {"EDGEBUILD_DEBIAN_MIRROR": str(tmp_path / "debs")}
    said = other.build(*other.line, "--verify", "emulator", code=10)
    assert f"{bad} has SHA-256 " in said
    assert f"expected {package.sha256}" in said
    other.environment = {}
    other.build(*other.line, "--verify", "emulator")
    assert (other.work / f"net.{BOARD}.edge").read_bytes() == bundles[0]


@pytest.mark.parametrize(
    ("line", "instead", "code", "said"),
    [
        ('triple = "aarch64-linux-gnu"', 'triple = "aarch64-linux-musl"', 10, "no toolchain file for the triple"),
        ('glibc = "2.31"', 'glibc = "2.17"', 5, "needs glibc 2.28, the target's oldest system has 2.17"),
        ('cpu = "cortex-a72"', 'cpu = "cortex-a99"', 10, "does not know the CPU 'cortex-a99'"),
    ],
)
def test_a_target_that_can_not_be_built_for_is_refused_before_anything_is_exported(
    offline: Offline, bundles: list[bytes], line: str, instead: str, code: int, said: str, tmp_path: Path
) -> None:
    other = offline.copy(tmp_path)
    shutil.rmtree(other.cache / "export")
    text = (targets_folder() / f"{BOARD}.toml").read_text(encoding="utf-8")
    assert line in text
    (other.work / "mine.toml").write_text(text.replace(line, instead), encoding="utf-8")
    words = ["mine.toml" if word == BOARD else word for word in other.line]
    assert said in other.build(*words, "--verify", "emulator", code=code)
    assert not (other.cache / "export").exists()


def test_a_runner_for_another_machine_is_not_packed(offline: Offline, bundles: list[bytes], tmp_path: Path) -> None:
    other = offline.copy(tmp_path)
    shutil.rmtree(other.cache / "native")
    other.environment = {"EDGEBUILD_TEST_RUNNER": sys.executable}
    assert "bin/edgerun can't run on raspberrypi4: it is for x86_64, 64 bits" in other.build(*other.line, code=5)
    assert not list(other.work.glob("*.edge"))
