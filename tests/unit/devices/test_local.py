"""This machine as a device: which runner is started, with what, and how its failures come back."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgebuild.bundle.manifest import Requirements, Target, Tolerance, Variant
from edgebuild.bundle.reader import Bundle
from edgebuild.bundle.writer import BundleFile, write_bundle
from edgebuild.cache import Cache
from edgebuild.devices.local import cpu_model, query_edgerun, run_edgerun, why_not_here
from edgebuild.devices.proof import peak_memory, prove
from edgebuild.errors import (
    BundleError,
    DeadlineError,
    GateError,
    IncompatibleError,
    ResourceError,
    ToolError,
)
from edgebuild.machine import machine_arch, this_machine
from edgebuild.model.signature import Signature, TensorType, ValueSpec

MakeBundle = Callable[..., Bundle]

OK = {"exit_code": 0}
VERIFIED = {
    "variants": [
        {"variant": "a", "result": "ok", "outputs": []},
        {"variant": "b", "result": "skipped", "reason": "no"},
    ],
    "exit_code": 0,
}
BENCHED = {"latency_s": {"p50": 0.25}, "peak_rss_bytes": 1000, "exit_code": 0}


def answering(verify: object, bench: object = OK, code: int = 0) -> str:
    """A runner that logs its arguments beside itself and prints these objects."""
    return (
        '#!/bin/sh\nprintf "%s\\n" "$*" "telemetry=$ORT_DISABLE_TELEMETRY" "path=$EDGEBUILD_RUNTIME_PATH" >> "$LOG"\n'
        f"case \"$1\" in verify) echo '{json.dumps(verify)}' ;; *) echo '{json.dumps(bench)}' ;; esac\nexit {code}\n"
    )


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    return tmp_path / "log"


@pytest.fixture
def make(tmp_path: Path, log: Path) -> MakeBundle:
    def make_bundle(
        script: str | None, *, features: tuple[tuple[str, ...], ...] = ((), ()), arch: str = "", directory: bool = False
    ) -> Bundle:
        files = [BundleFile(path="model/m", source=b"m")]
        if script is not None:
            files.append(BundleFile(path="bin/edgerun", source=script.encode(), executable=True))
        return write_bundle(
            tmp_path / "m.board.edge",
            name="m",
            target=Target(name="board", arch=arch or machine_arch(), triple="x"),
            signature=Signature(
                inputs=(ValueSpec(name="x", type=TensorType(dtype="float32", shape=(1,))),),
                outputs=(ValueSpec(name="y", type=TensorType(dtype="float32", shape=(1,))),),
                symbols={},
                output_structure={"tensor": 0},
            ),
            variants=[
                Variant(
                    name=name,
                    backend="reference",
                    precision="float32",
                    model="model/m",
                    inputs=("x",),
                    outputs=("y",),
                    requires=Requirements(cpu_features=needed),
                    tolerances={"y": Tolerance(atol=0.0, rtol=0.0)},
                )
                for name, needed in zip("ab", features, strict=True)
            ],
            files=files,
            directory=directory,
        )

    return make_bundle


def other_arch() -> str:
    return "riscv64" if machine_arch() != "riscv64" else "x86_64"


def test_a_missing_cpu_feature_is_named() -> None:
    assert why_not_here(machine_arch(), this_machine().features) is None
    assert (
        why_not_here(machine_arch(), ("warp_drive", *this_machine().features)) == "this machine's CPU lacks warp_drive"
    )
    assert other_arch() in str(why_not_here(other_arch()))


def test_cpu_model_is_the_same_every_time_and_names_the_cpu() -> None:
    assert cpu_model() == cpu_model()
    assert cpu_model().startswith(this_machine().cpu_name)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(3, BundleError), (5, IncompatibleError), (6, GateError), (8, ResourceError), (11, DeadlineError)],
)
def test_the_runners_error_comes_back_as_its_class(make: MakeBundle, code: int, kind: type[Exception]) -> None:
    answer = {"exit_code": code, "error": {"code": "c", "message": "what went wrong", "hint": "do this"}}
    with pytest.raises(kind, match="what went wrong") as caught:
        query_edgerun(make(answering(answer, code=code)), ["verify"])
    assert type(caught.value) is kind
    assert caught.value.hint == "do this"  # type: ignore[attr-defined]


def test_a_failure_without_words_is_still_a_failure(make: MakeBundle) -> None:
    with pytest.raises(GateError, match="ended with 6"):
        query_edgerun(make(answering({"variants": []}, code=6)), ["verify"])


@pytest.mark.parametrize(("signal", "kind"), [("SEGV", ToolError), ("KILL", ResourceError)])
def test_a_killed_runner_is_said_with_its_signal(make: MakeBundle, signal: str, kind: type[Exception]) -> None:
    bundle = make(f"#!/bin/sh\nkill -{signal} $$\n")
    with pytest.raises(kind, match=f"SIG{signal} in `verify`"):
        query_edgerun(bundle, ["verify"])
    with pytest.raises(kind, match=f"SIG{signal} in `run`"):
        run_edgerun(bundle, ["run"])


def test_a_runner_that_prints_nonsense_is_quoted(make: MakeBundle) -> None:
    with pytest.raises(ToolError, match="'nonsense"):
        query_edgerun(make("#!/bin/sh\necho nonsense\n"), ["verify"])


def test_a_runner_that_hangs_is_ended_at_the_deadline(make: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgebuild.devices.local._GRACE_S", 0.0)
    with pytest.raises(DeadlineError, match=r"hung, with a limit of 0\.3 s for each step"):
        query_edgerun(make("#!/bin/sh\nexec sleep 60\n"), ["verify"], deadline_s=0.3)


def test_the_limit_is_of_each_step_and_edgerun_is_told_it(
    make: MakeBundle, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 5 variants' loads and goldens, each inside of its limit, and a second of measuring: longer in all than one limit.
    monkeypatch.setattr("edgebuild.devices.local._GRACE_S", 0.0)
    slow = answering(OK).replace("#!/bin/sh\n", "#!/bin/sh\nsleep 1.2\n", 1)
    assert query_edgerun(make(slow), ["verify"], deadline_s=0.5, steps=5, busy_s=60.0)["exit_code"] == 0
    assert "--deadline 0.5" in log.read_text(encoding="utf-8")


def test_a_runner_that_was_damaged_in_the_cache_is_not_started(make: MakeBundle, log: Path) -> None:
    bundle = make(answering(OK))
    program = bundle.directory() / "bin" / "edgerun"
    program.write_bytes(program.read_bytes().replace(b"printf", b"pwintf"))
    with pytest.raises(BundleError, match="bin/edgerun"):
        run_edgerun(bundle, ["verify"])
    assert not log.exists()


def test_a_bundle_without_a_runner_or_for_another_machine_is_refused(make: MakeBundle) -> None:
    with pytest.raises(BundleError, match="no runner"):
        run_edgerun(make(None), ["verify"])
    with pytest.raises(IncompatibleError, match=f"is for {other_arch()}"):
        run_edgerun(make(answering(OK), arch=other_arch()), ["verify"])


def test_a_proof_runs_once_a_bundle_and_measures_only_what_ran(make: MakeBundle, tmp_path: Path, log: Path) -> None:
    bundle, cache = make(answering(VERIFIED, BENCHED)), Cache(tmp_path / "cache")
    proof, hit = prove(bundle, cache, engines=[Path("/e/lib.so")])
    again, hit_again = prove(bundle, cache)
    assert (proof.kind, hit, hit_again) == ("native", False, True)
    assert again == proof
    assert set(proof.measured) == {"a"}
    lines = log.read_text(encoding="utf-8").splitlines()
    assert [line.split()[0] for line in lines[::3]] == ["verify", "bench"]
    assert set(lines[1::3]) == {"telemetry=1"}
    assert set(lines[2::3]) == {"path=/e"}
    _, measured_anew = prove(bundle, cache, measure=False)
    assert not measured_anew


def test_a_failed_proof_is_not_kept(make: MakeBundle, tmp_path: Path, log: Path) -> None:
    failed = {"exit_code": 6, "error": {"message": "output y", "hint": None}}
    bundle, cache = make(answering(failed, code=6)), Cache(tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(GateError, match="output y"):
            prove(bundle, cache)
    assert log.read_text(encoding="utf-8").count("verify") == 2


@pytest.mark.parametrize("why", ["arch", "features"])
def test_a_bundle_that_can_not_run_here_is_unproved_and_says_why(
    make: MakeBundle, tmp_path: Path, log: Path, why: str
) -> None:
    script = answering(VERIFIED, BENCHED)
    bundle = make(script, arch=other_arch()) if why == "arch" else make(script, features=(("warp",), ("warp",)))
    proof, _ = prove(bundle, Cache(tmp_path / "cache"))
    assert proof.kind is None
    assert proof.verified == {}
    assert (other_arch() if why == "arch" else "warp") in proof.reason
    assert not log.exists()


def test_peak_memory_is_asked_for_every_variant(make: MakeBundle) -> None:
    assert peak_memory(make(answering(OK, BENCHED)), [], None) == {"a": 1000, "b": 1000}
