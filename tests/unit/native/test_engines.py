"""Engine libraries: from the installed package or the pinned wheel, and never with another hash."""

import hashlib
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from edgebuild.cache import Cache
from edgebuild.errors import IncompatibleError, ToolError
from edgebuild.native import engines
from edgebuild.native.engines import EnginePin, engine_pin, fetch_engine

LIBRARY = b"\x7fELF engine"


@pytest.fixture
def pin() -> EnginePin:
    return EnginePin(
        engine="engine",
        version="1.2",
        arch="x86_64",
        distribution="edgebuild-no-such-engine",
        platform="manylinux_2_28_x86_64",
        member="engine/libengine.so.1.2",
        licences=("engine/LICENSE",),
        soname="libengine.so.1",
        sha256=hashlib.sha256(LIBRARY).hexdigest(),
        glibc="2.28",
    )


def pip_that_finds(
    monkeypatch: pytest.MonkeyPatch,
    library: bytes,
    *,
    code: int = 0,
    stderr: str = "",
    damage: Callable[[bytes], bytes] = bytes,
) -> list[Any]:
    """Replaces pip by something that writes a wheel with this library; returns the commands that it got."""
    commands: list[Any] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        if code == 0:
            folder.mkdir()
            with zipfile.ZipFile(folder / "engine-1.2-cp311.whl", "w") as wheel:
                wheel.writestr("engine/libengine.so.1.2", library)
                wheel.writestr("engine/LICENSE", "free")
            path = folder / "engine-1.2-cp311.whl"
            path.write_bytes(damage(path.read_bytes()))
        return subprocess.CompletedProcess(command, code, "", stderr)

    monkeypatch.setattr(engines.subprocess, "run", run)  # type: ignore[attr-defined]
    return commands


def test_the_wheel_is_downloaded_once_and_leaves_only_what_is_needed(
    pin: EnginePin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = pip_that_finds(monkeypatch, LIBRARY)
    cache = Cache(tmp_path)
    files = fetch_engine(pin, cache)
    assert files.library.read_bytes() == LIBRARY
    assert files.licences["engine-LICENSE"].read_text(encoding="utf-8") == "free"
    assert fetch_engine(pin, cache) == files
    assert len(commands) == 1
    assert "--only-binary=:all:" in commands[0]
    assert sorted(p.name for p in files.library.parent.iterdir()) == [".entry.json", "LICENSE", "libengine.so.1"]


def test_a_library_with_another_hash_is_refused_and_not_kept(
    pin: EnginePin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip_that_finds(monkeypatch, LIBRARY + b"!")
    with pytest.raises(ToolError, match=f"expected {pin.sha256}"):
        fetch_engine(pin, Cache(tmp_path))
    pip_that_finds(monkeypatch, LIBRARY)
    assert fetch_engine(pin, Cache(tmp_path)).library.read_bytes() == LIBRARY


def _flip(wheel: bytes) -> bytes:
    return wheel.replace(b"ELF engine", b"ELF engime", 1)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_flip, "Bad CRC-32"),
        (lambda wheel: wheel[: len(wheel) // 2], "not a zip file"),
        (lambda wheel: b"", "not a zip file"),
        (lambda wheel: wheel.replace(b"libengine.so.1.2", b"libengine.so.1.3"), "no item named"),
    ],
)
def test_a_damaged_wheel_is_one_line_and_a_sound_one_is_taken_next(
    pin: EnginePin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[bytes], bytes],
    said: str,
) -> None:
    pip_that_finds(monkeypatch, LIBRARY, damage=damage)
    with pytest.raises(ToolError, match=said) as caught:
        fetch_engine(pin, Cache(tmp_path))
    assert caught.value.message.startswith("the downloaded engine-1.2-cp311.whl is damaged or another's: ")
    assert "\n" not in caught.value.message
    pip_that_finds(monkeypatch, LIBRARY)
    assert fetch_engine(pin, Cache(tmp_path)).library.read_bytes() == LIBRARY


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("WARNING: retry\nERROR: No matching distribution\n", "No matching"),
        ("No module named pip\n", "No module"),
        ("", "exit 1"),
    ],
)
def test_pips_own_words_are_passed_on(
    pin: EnginePin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, said: str
) -> None:
    pip_that_finds(monkeypatch, LIBRARY, code=1, stderr=stderr)
    with pytest.raises(ToolError, match=said):
        fetch_engine(pin, Cache(tmp_path))


def test_the_installed_package_spares_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin = engine_pin("onnxruntime", "1.31.1", "x86_64")
    if not Path(str(metadata.distribution("onnxruntime").locate_file(pin.member))).is_file():
        pytest.skip("another onnxruntime is installed here")
    commands = pip_that_finds(monkeypatch, b"")
    files = fetch_engine(pin, Cache(tmp_path))
    assert hashlib.sha256(files.library.read_bytes()).hexdigest() == pin.sha256
    assert commands == []


def test_an_installed_package_of_another_version_is_not_taken(
    pin: EnginePin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = pip_that_finds(monkeypatch, LIBRARY)
    installed = replace(pin, distribution="onnxruntime", member=engine_pin("onnxruntime", "1.31.1", "x86_64").member)
    with pytest.raises(ToolError, match="no item named"):  # the wheel of this test lacks the member
        fetch_engine(installed, Cache(tmp_path))
    assert len(commands) == 1


@pytest.mark.parametrize("asked", [("onnxruntime", "0.1", "x86_64"), ("onnxruntime", "1.31.1", "vax"), ("x", "1", "y")])
def test_an_unknown_engine_names_the_known(asked: tuple[str, str, str]) -> None:
    with pytest.raises(IncompatibleError, match=r"known: .*onnxruntime 1\.31\.1 x86_64"):
        engine_pin(*asked)
