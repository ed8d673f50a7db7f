"""Boards that this machine can't run: which emulator is taken, what is said where there is none or a bad one, what proofs it gives."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgebuild.bundle.manifest import Target, Tolerance, Variant
from edgebuild.bundle.reader import Bundle, GoldenArrays
from edgebuild.bundle.writer import BundleFile, write_bundle
from edgebuild.cache import Cache
from edgebuild.devices import emulator as emulators
from edgebuild.devices import proof as proofs
from edgebuild.devices.emulator import Board, board_of_target, find_emulator
from edgebuild.devices.local import run_edgerun
from edgebuild.devices.place import Place, choose_place
from edgebuild.devices.proof import prove
from edgebuild.errors import (
    DeadlineError,
    EdgebuildError,
    GateError,
    IncompatibleError,
    ResourceError,
    ToolError,
    UsageError,
)
from edgebuild.machine import machine_arch
from edgebuild.model.signature import Signature, TensorType, ValueSpec
from edgebuild.report import SilentProgress
from edgebuild.targets import TargetSpec, load_target, targets_folder

FOREIGN = "generic-riscv64" if machine_arch() == "aarch64" else "raspberrypi4"
PROGRAM = "qemu-riscv64" if machine_arch() == "aarch64" else "qemu-aarch64"
GOOD = 'shift 4; exec "$@"'
"""Does as an emulator does: runs the program behind ``-cpu MODEL -L ROOT``."""


@pytest.fixture
def target() -> TargetSpec:
    return load_target(FOREIGN)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: TargetSpec) -> Callable[..., Path]:
    """Puts an emulator that is a script on PATH. Nothing can be downloaded; the board's system is an empty folder."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("EDGEBUILD_DEBIAN_MIRROR", str(tmp_path / "packages"))
    monkeypatch.setenv("QEMU_LD_PREFIX", str(tmp_path / "root"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    # Nothing but these: an emulator of this very machine must not be found.
    for tool in ("sh", "cat", "sleep", "printf", "cp"):
        for folder in ("/bin", "/usr/bin"):
            if (Path(folder) / tool).exists():
                (tmp_path / "bin" / tool).symlink_to(Path(folder) / tool)
                break
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def put(run: str = GOOD, *, version: str = "echo qemu version 10.0.3", cpus: str | None = None) -> Path:
        path = tmp_path / "bin" / PROGRAM
        path.write_text(
            "#!/bin/sh\n"
            'printf "%s\\n" "$*" "ld=$LD_BIND_NOW" "qemu=$QEMU_STRACE" "path=$EDGEBUILD_RUNTIME_PATH" >> "$LOG"\n'
            f'case "$1 $2" in\n"--version "*) {version} ;;\n'
            f'"-cpu help") printf "Available CPUs:\\n  max\\n  {cpus or target.soc.cpu}\\n"; exit 1 ;;\n*) {run} ;;\nesac\n'
        )
        path.chmod(0o755)
        return path

    return put


def answering(answer: object, code: int = 0) -> str:
    return f"#!/bin/sh\necho '{json.dumps(answer)}'\nexit {code}\n"


VERIFIED = {"variants": [{"variant": "v", "result": "ok", "outputs": []}], "exit_code": 0}


@pytest.fixture
def bundle(tmp_path: Path, target: TargetSpec) -> Callable[..., Bundle]:
    def make(script: str = answering(VERIFIED), precision: str = "float32") -> Bundle:
        rows = np.array([[0.0, 1.0, 4.0], [3.0, 0.0, 1.0]], np.float32)
        tensor = TensorType(dtype="float32", shape=(1, 3))
        return write_bundle(
            tmp_path / "m.board.edge",
            name="m",
            target=Target(name=target.name, arch=target.soc.arch, triple=target.toolchain.triple),
            signature=Signature(
                inputs=(ValueSpec(name="x", type=tensor),),
                outputs=(ValueSpec(name="y", type=tensor),),
                symbols={},
                output_structure={"tensor": 0},
            ),
            variants=[
                Variant(
                    name="v",
                    backend="reference",
                    precision=precision,
                    model="model/m",
                    inputs=("x",),
                    outputs=("y",),
                    tolerances={"y": Tolerance(atol=9.0, rtol=0.0)},
                )
            ],
            files=[
                BundleFile(path="model/m", source=b"m"),
                BundleFile(path="bin/edgerun", source=script.encode(), executable=True),
            ],
            goldens=[GoldenArrays(inputs={"x": row[None]}, outputs={"y": row[None]}) for row in rows],
        )

    return make


def place(target: TargetSpec, cache: Cache, verify: str | None = None) -> Place:
    return choose_place(target, verify, cache, SilentProgress())


def test_the_board_s_program_runs_as_its_cpu_with_its_system_and_without_this_machine_s_loader_variables(
    install: Callable[..., Path],
    bundle: Callable[..., Bundle],
    target: TargetSpec,
    cache: Cache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = install()
    monkeypatch.setenv("LD_BIND_NOW", "1")
    monkeypatch.setenv("QEMU_STRACE", "1")
    where = place(target, cache)
    assert where.kind == "emulator"
    assert where.emulator is not None
    assert (where.emulator.program, where.emulator.version) == (program, "10.0.3")
    made = bundle()
    (tmp_path / "log").unlink()
    proof, hit = prove(made, cache, where, engines=[Path("/e/lib.so")])
    assert not hit
    assert proof.kind == "emulator"
    assert proof.measured == {}
    assert proof.device["arch"] == target.soc.arch
    assert proof.device["cpu"] == target.soc.cpu
    assert proof.device["emulator"] == "qemu 10.0.3"
    command, ld, qemu, path = (tmp_path / "log").read_text().splitlines()
    assert command.startswith(f"-cpu {target.soc.cpu} -L {tmp_path / 'root'} {made.directory()}/bin/edgerun verify")
    assert "--deadline" not in command
    assert (ld, qemu, path) == ("ld=", "qemu=", "path=/e")


def test_a_proof_is_kept_for_the_emulator_s_version_and_cpu(
    install: Callable[..., Path], bundle: Callable[..., Bundle], target: TargetSpec, cache: Cache
) -> None:
    install()
    made = bundle()
    assert prove(made, cache, place(target, cache))[1] is False
    assert prove(made, cache, place(target, cache))[1] is True
    install(version="echo qemu version 10.0.13")
    assert prove(made, cache, place(target, cache))[1] is False


def test_int8_variants_report_how_many_decisions_flip(
    install: Callable[..., Path],
    bundle: Callable[..., Bundle],
    target: TargetSpec,
    cache: Cache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install()
    # The first decision stays, though the values move; the second one flips from class 0 to class 2.
    got = np.array([[[0.5, 1.0, 3.0]], [[1.0, 0.0, 2.0]]], np.float32)
    np.savez(tmp_path / "outputs.npz", y=got)
    monkeypatch.setenv("OUTPUTS", str(tmp_path / "outputs.npz"))
    script = (
        f"#!/bin/sh\nif [ $1 = verify ]; then echo '{json.dumps(VERIFIED)}'; exit; fi\n"
        'for word in "$@"; do case $word in --outputs=*) cp "$OUTPUTS" "${word#--outputs=}" ;; esac; done\n'
        "echo '{\"exit_code\": 0}'\n"
    )
    proof, _ = prove(bundle(script, "int8"), cache, place(target, cache))
    (score,) = proof.decisions["v"]
    assert (score["output"], score["decisions"], score["agreement"]) == ("y", 2, 0.5)
    again, hit = prove(bundle(script, "int8"), cache, place(target, cache))
    assert hit
    assert again.decisions == proof.decisions


def test_an_emulated_proof_tells_how_many_of_its_runs_are_done(
    install: Callable[..., Path], bundle: Callable[..., Bundle], target: TargetSpec, cache: Cache
) -> None:
    class Listener(SilentProgress):
        heard: list[tuple[int, int, str]]

        def advance(self, done: int, total: int, unit: str) -> None:
            self.heard.append((done, total, unit))

    install()
    tells = answering(VERIFIED).replace("echo", "echo edgebuild-progress 1 2 >&2; sleep 0.2; echo", 1)
    listener = Listener()
    listener.heard = []
    proof, _ = prove(bundle(tells), cache, place(target, cache), progress=listener)
    assert proof.kind == "emulator"
    assert list(dict.fromkeys(listener.heard)) == [(1, 2, "runs")]


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


def test_a_program_that_can_not_be_started_as_an_emulator_is_said(
    install: Callable[..., Path], target: TargetSpec, cache: Cache
) -> None:
    install().write_bytes(b"\x7fELF junk")
    with pytest.raises(ToolError, match="does not start"):
        find_emulator(target.soc.arch, target.soc.cpu, "2.31", cache)


@pytest.mark.parametrize(
    ("run", "kind", "said"),
    [
        ("kill -SEGV $$", ToolError, "was killed by SIGSEGV"),
        ("kill -ILL $$", IncompatibleError, "used an instruction that .* lacks"),
        ("kill -KILL $$", ResourceError, "was killed by SIGKILL"),
        ("exec sleep 100", DeadlineError, "took longer than"),
        ("echo what is this; exit 0", ToolError, "answered 'what is this"),
        ("echo qemu: could not load >&2; exit 255", ToolError, "answered ''"),
    ],
)
def test_an_emulator_that_fails_ends_in_one_line_and_nothing_is_kept(
    install: Callable[..., Path],
    bundle: Callable[..., Bundle],
    target: TargetSpec,
    cache: Cache,
    run: str,
    kind: type[EdgebuildError],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proofs, "_EMULATED_STEP_S", 0.2)
    install(run)
    made = bundle()
    with pytest.raises(kind, match=said) as caught:
        prove(made, cache, place(target, cache), inference_s=0.0)
    assert type(caught.value) is kind
    assert "\n" not in caught.value.message
    install()
    monkeypatch.setattr(proofs, "_EMULATED_STEP_S", 60.0)
    assert prove(made, cache, place(target, cache))[1] is False


def test_a_golden_outside_its_tolerance_under_the_emulator_is_the_gate_s_error(
    install: Callable[..., Path], bundle: Callable[..., Bundle], target: TargetSpec, cache: Cache
) -> None:
    install()
    answer = {"exit_code": 6, "error": {"code": "gate failed", "message": "output y is outside", "hint": None}}
    with pytest.raises(GateError, match="output y is outside"):
        prove(bundle(answering(answer, 6)), cache, place(target, cache))


def test_commands_run_a_foreign_bundle_under_the_emulator_and_give_its_exit_code(
    install: Callable[..., Path], bundle: Callable[..., Bundle], target: TargetSpec, cache: Cache
) -> None:
    install()
    made = bundle("#!/bin/sh\nexit 6\n")
    assert run_edgerun(made, ["verify"], emulator=place(target, cache).emulator) == 6
    with pytest.raises(IncompatibleError, match="this machine is"):
        run_edgerun(made, ["verify"])
    install("kill -SEGV $$")
    with pytest.raises(ToolError, match="was killed by SIGSEGV"):
        run_edgerun(made, ["verify"], emulator=place(target, cache).emulator)


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
