"""Proofs of bundles for boards that this machine can't run: what the emulator is given, what is kept, what its failures become."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from emulator_tools import VERIFIED, answering, place

from edgebuild.bundle.reader import Bundle
from edgebuild.cache import Cache
from edgebuild.devices import proof as proofs
from edgebuild.devices.local import run_edgerun
from edgebuild.devices.proof import prove
from edgebuild.errors import (
    DeadlineError,
    EdgebuildError,
    GateError,
    IncompatibleError,
    ResourceError,
    ToolError,
)
from edgebuild.report import SilentProgress
from edgebuild.targets import TargetSpec


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
