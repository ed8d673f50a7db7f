"""Boards that this machine can't run: which emulator is taken, and what is said where there is none or a bad one."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from emulator_tools import FOREIGN, place

from edgebuild.bundle.reader import Bundle
from edgebuild.cache import Cache
from edgebuild.devices import emulator as emulators
from edgebuild.devices.emulator import Board, board_of_target, find_emulator
from edgebuild.devices.place import Place
from edgebuild.devices.proof import prove
from edgebuild.errors import (
    IncompatibleError,
    ToolError,
    UsageError,
)
from edgebuild.targets import TargetSpec, load_target, targets_folder


def test_without_an_emulator_the_build_goes_on_and_names_the_command_that_gets_one(
    install: Callable[..., Path], bundle: Callable[..., Bundle], target: TargetSpec, cache: Cache
) -> None:
    where = place(target, cache)
    assert where.kind is None
    assert f"can't run {target.soc.arch} programs" in where.reason
    proof, hit = prove(bundle(), cache, where)
    assert (proof.kind, hit) == (None, False)
    assert (proof.reason, proof.hint) == (where.reason, where.hint)
    with pytest.raises(ToolError):
        place(target, cache, "emulator")
    with pytest.raises(ToolError, match=r"there is no emulator for .* here"):
        find_emulator(target.soc.arch, target.soc.cpu, "2.31", cache)
    with pytest.raises(IncompatibleError, match="--verify native"):
        place(target, cache, "native")
    assert place(target, cache, "none") == Place(kind=None, reason="--verify none was given")
    with pytest.raises(UsageError, match="expected one of native, emulator, none"):
        place(target, cache, "qemu")


def test_the_command_that_gets_an_emulator_names_a_target_file_by_its_path(
    install: Callable[..., Path], cache: Cache, tmp_path: Path
) -> None:
    file = tmp_path / "board.toml"
    file.write_text((targets_folder() / f"{FOREIGN}.toml").read_text(encoding="utf-8"))
    assert f"`edgebuild doctor --target {file} --fetch`" in place(load_target(str(file)), cache).hint


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        ({"version": "echo 'qemu version 7.2.19 (Debian)'"}, r"is 7\.2\.19, which is too old"),
        ({"version": "echo hello"}, "said 'hello"),
        ({"version": "kill -SEGV $$"}, "was killed by signal 11"),
        ({"version": "exit 3"}, "ended with 3"),
        ({"version": "exec sleep 100"}, "took longer than"),
    ],
)
def test_an_emulator_that_can_not_serve_is_passed_over_and_said_in_one_line(
    install: Callable[..., Path],
    target: TargetSpec,
    cache: Cache,
    setup: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(emulators, "_PROBE_LIMIT_S", 0.5)
    install(**setup)
    with pytest.raises(ToolError, match=said) as caught:
        find_emulator(target.soc.arch, target.soc.cpu, "2.31", cache)
    assert "\n" not in caught.value.message
    assert place(target, cache).kind is None


def test_a_cpu_that_the_emulator_does_not_know_is_named(
    install: Callable[..., Path], target: TargetSpec, cache: Cache
) -> None:
    install(cpus="cortex-m0")
    with pytest.raises(ToolError, match=f"does not know the CPU '{target.soc.cpu}'") as caught:
        place(target, cache, "emulator")
    assert "[soc] cpu" in str(caught.value.hint)
    assert "--fetch" not in str(caught.value.hint)  # it is there


def test_this_very_machine_has_no_emulator(cache: Cache) -> None:
    with pytest.raises(IncompatibleError, match="host is this very machine"):
        place(load_target("host"), cache, "emulator")


def test_a_program_that_can_not_be_started_as_an_emulator_is_said(
    install: Callable[..., Path], target: TargetSpec, cache: Cache
) -> None:
    install().write_bytes(b"\x7fELF junk")
    with pytest.raises(ToolError, match="does not start"):
        find_emulator(target.soc.arch, target.soc.cpu, "2.31", cache)


def test_a_system_folder_of_the_user_s_own_must_exist(
    install: Callable[..., Path], target: TargetSpec, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    monkeypatch.setenv("QEMU_LD_PREFIX", "/nowhere/at/all")
    with pytest.raises(ToolError, match="QEMU_LD_PREFIX is no folder"):
        find_emulator(target.soc.arch, target.soc.cpu, "2.31", cache)
    monkeypatch.delenv("QEMU_LD_PREFIX")
    with pytest.raises(ToolError, match="are not here"):
        find_emulator(target.soc.arch, target.soc.cpu, "2.31", cache)
    with pytest.raises(ToolError, match=r"no system with glibc 9\.9"):
        find_emulator(target.soc.arch, target.soc.cpu, "9.9", cache)


def test_a_target_that_is_not_known_gets_the_plainest_cpu_of_its_architecture() -> None:
    known = Board(cpu="cortex-a72", target="raspberrypi4", glibc="2.31", known=True)
    assert board_of_target("raspberrypi4", "aarch64") == known
    assert board_of_target("my-board", "aarch64") == Board(cpu="cortex-a53", target="generic-aarch64")
    assert board_of_target("my-board", "aarch64", ["asimd"]).cpu == "cortex-a53"
    assert board_of_target("my-board", "aarch64", ["asimddp"]) == Board(cpu="max", target="generic-aarch64")
    assert board_of_target("raspberrypi4", "riscv64") == Board(cpu="rv64", target="generic-riscv64")
    for arch in (
        emulators._PROGRAMS
    ):  # what is advised for a board that is not known here is a target, and its emulator the right one
        assert load_target(board_of_target("my-board", arch).target).soc.arch == arch


@pytest.mark.parametrize("name", sorted(path.stem for path in targets_folder().glob("*.toml")))
def test_every_target_names_a_system_that_its_programs_can_be_emulated_with(name: str, cache: Cache) -> None:
    from edgebuild.native.debian import pinned_packages

    spec = load_target(name)
    fitting = [
        system for system, glibc in emulators._SYSTEMS if emulators._numbers(glibc) >= emulators._numbers(spec.os.glibc)
    ]
    assert fitting
    assert pinned_packages(fitting[-1], emulators._DEBIAN_ARCH[spec.soc.arch])


def test_libraries_of_packages_become_one_system(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for package, files in ((old, ["lib/a/libc.so.6", "usr/lib/a/libz.so.1"]), (new, ["usr/lib/a/libm.so.6"])):
        for file in files:
            (package / file).parent.mkdir(parents=True, exist_ok=True)
            (package / file).write_text(file)
    (old / "lib/ld.so").symlink_to("a/libc.so.6")
    emulators._merge([old, new], tmp_path / "root")
    assert (tmp_path / "root/lib/ld.so").read_text() == "lib/a/libc.so.6"
    assert (tmp_path / "root/usr/lib/a/libm.so.6").is_file()
    assert (tmp_path / "root/lib/a/libm.so.6").is_file()
    assert (tmp_path / "root/usr/lib/a/libc.so.6").is_file()


def test_what_was_proved_with_a_system_of_the_user_s_holds_for_its_very_files(
    install: Callable[..., Path], target: TargetSpec, cache: Cache, tmp_path: Path
) -> None:
    program = install()

    def identity() -> list[str]:
        return find_emulator(target.soc.arch, target.soc.cpu, target.os.glibc, cache).identity

    libraries = tmp_path / "root" / "usr" / "lib" / "board"
    libraries.mkdir(parents=True)
    (libraries / "libc.so.6").write_bytes(b"old")
    first = identity()
    assert identity() == first
    (libraries / "libc.so.6").write_bytes(b"newer")
    second = identity()
    assert second != first
    os.utime(program, ns=(1, 1))
    assert identity() not in (first, second)
