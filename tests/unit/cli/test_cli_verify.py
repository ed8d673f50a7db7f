"""``edgebuild verify`` judges the archive it was given, not what the cache once unpacked of a sound one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edgebuild.devices import emulator as emulators
from edgebuild.devices.emulator import Emulator

from command_line import Invoke  # isort: skip


def flip(path: Path, what: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(what)] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damaged", [b"12345", b"to stderr"])
def test_a_damaged_archive_is_corrupt_although_a_sound_one_of_the_same_id_was_unpacked(
    invoke: Invoke, make_bundle: Callable[..., Path], damaged: bytes
) -> None:
    path = make_bundle()
    assert invoke("verify", str(path)).code == 0
    flip(path, damaged)
    result = invoke("verify", str(path), "--json")
    assert result.code == 3
    assert result.json["error"]["code"] == "corrupt bundle"
    assert "SHA-256" in result.err


def test_a_damaged_copy_in_the_cache_is_unpacked_again_from_a_sound_archive(
    invoke: Invoke, make_bundle: Callable[..., Path]
) -> None:
    path = make_bundle()
    unpacked = Path(invoke("verify", str(path)).out.splitlines()[1])
    (unpacked / "model/m.bin").write_bytes(b"54321")
    assert invoke("verify", str(path)).code == 0
    assert (unpacked / "model/m.bin").read_bytes() == b"12345"


@pytest.mark.parametrize(("damaged", "code"), [("bin/edgerun", 0), ("model/m.bin", 3)])
def test_run_and_bench_replace_a_damaged_copy_in_the_cache_and_run_once_more(
    invoke: Invoke, make_bundle: Callable[..., Path], damaged: str, code: int
) -> None:
    path = make_bundle(code=code)
    first = invoke("run", str(path))
    assert (first.code, "damaged" in first.err) == (code, False)
    unpacked = Path(first.out.splitlines()[1])
    sound = (unpacked / damaged).read_bytes()
    for command in ("run", "bench"):
        flip(unpacked / damaged, sound[2:5])
        result = invoke(command, str(path))
        assert result.code == code  # this runner gives it whatever it is asked
        assert "note: the cache's copy of the bundle was damaged; it is unpacked anew" in result.err
        assert (unpacked / damaged).read_bytes() == sound


@pytest.mark.parametrize("command", ["verify", "run", "bench"])
def test_a_bundle_that_asks_for_features_this_cpu_lacks_is_emulated_as_its_build_was(
    invoke: Invoke, make_bundle: Callable[..., Path], command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator = tmp_path / "emulator"
    emulator.write_text('#!/bin/sh\necho "emulated as $2" >&2\nshift 4; exec "$@"\n')
    emulator.chmod(0o755)

    def find(arch: str, cpu: str, *_: object) -> Emulator:
        return Emulator(program=emulator, version="10.0", arch=arch, cpu=cpu, root=tmp_path, system="debian-11")

    monkeypatch.setattr(emulators, "find_emulator", find)
    result = invoke(command, str(make_bundle(features=["warp_drive"])))
    assert result.code == 0
    assert "emulated as max" in result.err  # the target is not known here, and the plainest CPU has no such thing
    assert "note: run under qemu-" in result.err
    result = invoke(command, str(make_bundle()))
    assert "emulated" not in result.err


def test_without_an_emulator_it_is_said_which_features_are_missing(
    invoke: Invoke, make_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    path = str(make_bundle(features=["warp_drive"]))
    for command, said in [
        ("verify", "there is no emulator"),
        ("tune", "its times say nothing about the board"),
        ("prepare", "what it makes holds where it is made"),
    ]:
        result = invoke(command, path)
        assert result.code == 5
        assert "this machine's CPU lacks warp_drive" in result.err
        assert said in result.err
