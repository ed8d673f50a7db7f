import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import click
import pytest

from command_line import Invoke, build_report, run_process  # isort: skip
from edgebuild import errors
from edgebuild.cli import group
from edgebuild.errors import ERRORS_BY_EXIT_CODE


def fail_build(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def build_from_request(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(import_module("edgebuild.build"), "build_from_request", build_from_request)


@pytest.mark.parametrize("code", sorted(set(ERRORS_BY_EXIT_CODE) - {1}))
def test_every_error_becomes_its_exit_code_and_one_line_with_a_hint(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    fail_build(monkeypatch, ERRORS_BY_EXIT_CODE[code]("it broke: expected a, got b", hint="do c"))
    result = invoke("--target", "x86-64", "m.pt")
    assert result.code == code
    assert result.out == ""
    assert result.err == "edgebuild: error: it broke: expected a, got b\nhint: do c\n"


@pytest.mark.parametrize("code", sorted(ERRORS_BY_EXIT_CODE))
def test_json_of_an_error_is_one_object_on_stdout(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    fail_build(monkeypatch, ERRORS_BY_EXIT_CODE[code]("it broke"))
    result = invoke("--target", "x86-64", "m.pt", "--json")
    assert result.code == code
    assert result.json["schema"] == "edgebuild.build/1"
    assert result.json["exit_code"] == code
    assert "it broke" in result.json["error"]["message"]
    assert result.json["error"]["hint"] is None


def test_an_unknown_exception_is_our_bug_and_shows_no_traceback(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_build(monkeypatch, ZeroDivisionError("one\ntwo"))
    result = invoke("--target", "x86-64", "m.pt")
    assert result.code == 1
    assert result.err.splitlines() == [
        "edgebuild: error: internal error: ZeroDivisionError: one two, please report",
        "hint: -v shows the traceback",
    ]


def test_verbose_shows_the_traceback(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_build(monkeypatch, ZeroDivisionError("x"))
    for arguments in (["--target", "x86-64", "m.pt", "-v"], ["-v", "--target", "x86-64", "m.pt"]):
        result = invoke(*arguments)
        assert result.code == 1
        assert "Traceback" in result.err
        assert "-v shows" not in result.err
    fail_build(monkeypatch, errors.GateError("no"))
    assert "Traceback" in invoke("--target", "x86-64", "m.pt", "-v").err


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (click.Abort(), 130), (MemoryError(), 8), (BrokenPipeError(), 0)]
)
def test_ends_that_are_no_errors_of_ours(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    if isinstance(error, BrokenPipeError):
        monkeypatch.setattr(os, "dup2", lambda *fds: None)  # stdout is the test's own here
    fail_build(monkeypatch, error)
    result = invoke("--target", "x86-64", "m.pt")
    assert result.code == code
    assert "internal error" not in result.err


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        (["inspct", "x.edge"], "unknown command 'inspct'", "inspect"),
        (["docter"], "unknown command 'docter'", "doctor"),
        (["targets", "--jsn"], "unknown option --jsn", "--json"),
        (["--traget", "x86-64", "m.pt"], "unknown option --traget", "--target"),
        (["cache", "clena"], "unknown command 'clena'", "clean"),
        (["cache", "clean", "exprot"], "no section 'exprot'", "export"),
        (["--target", "rasberrypi4", "m.pt"], "unknown target 'rasberrypi4'", "raspberrypi4"),
        (["--target", "x86-64", "m.pt", "--backend", "onnxrutime"], "no backend 'onnxrutime'", "onnxruntime"),
        (["m.pt"], "no target", "--target x86-64"),
        (["--target", "x86-64"], "no model", "model.pt"),
        (["--target"], "--target requires an argument", "--help"),
        (["inspect"], "missing argument BUNDLE", "--help"),
        (["runtime", "pack", "-o", "d"], "missing option --target", "--help"),
        (["completion", "csh"], "SHELL: 'csh' is not one of", "--help"),
        (["targets", "a", "b"], "unexpected extra argument", "--help"),
        (["--target", "x86-64", "m.pt", "--seed", "x"], "--seed: 'x' is not a valid", "--help"),
        (["--target", "x86-64", "m.pt", "--input", "x:float33[1]"], "float33", "--input"),
        (["--target", "x86-64", "m.pt", "--dynamic", "x:batch"], "--dynamic", "for example"),
        (["--target", "x86-64", "m.pt", "--arg", "x"], "--arg", "for example"),
        (["--target", "x86-64", "m.pt", "--parity-tol", "small"], "--parity-tol: expected ATOL", "1e-4"),
        (["--target", "x86-64", "m.pt", "--parity-tol", "-1"], "--parity-tol: expected ATOL", "1e-4"),
        (["--target", "x86-64", "m.pt", "--parity-tol", "nan"], "--parity-tol: expected ATOL", "1e-4"),
        (["--target", "x86-64", "m.pt", "--parity-tol", "1,2,3"], "--parity-tol: expected ATOL", "1e-4"),
        (["--target", "x86-64", "m.pt", "--deadline", "0"], "--deadline: expected seconds above 0", None),
        (["--target", "x86-64", "m.pt", "--deadline", "nan"], "--deadline: expected seconds above 0", None),
        (["--target", "x86-64", "m.pt", "--option", "threads"], "--option: expected NAME=VALUE", "intra_op_threads"),
        (["--target", "x86-64", "m.pt", "--option", "a=1", "--option", "a=2"], "each name once", None),
        (["--target", "x86-64", "m.pt", "--sample", "none.npz"], "--sample: none.npz is no file", None),
        (["--target", "x86-64", "m.pt", "--decisions", "none.json"], "--decisions: none.json is no file", None),
        (["--target", "x86-64", "m.pt", "--model", "not a factory"], "--model: expected PACKAGE.MODULE:FACTORY", None),
        (["inspect", "none.edge"], "none.edge", None),
    ],
)  # fmt: skip
def test_wrong_usage_is_exit_2_with_one_line_and_the_nearest_name(
    invoke: Invoke, arguments: list[str], said: str, hint: str | None
) -> None:
    result = invoke(*arguments)
    lines = result.err.splitlines()
    assert result.code == 2
    assert result.out == ""
    assert lines[0].startswith("edgebuild: error: ")
    assert said in lines[0]
    assert len(lines) <= 2
    if hint is not None:
        assert lines[1].startswith("hint: ")
        assert hint in lines[1]


def test_json_also_covers_wrong_usage_and_names_the_command(invoke: Invoke) -> None:
    for arguments, command in [
        (["targets", "--jsn", "--json"], "targets"),
        (["--json", "cache", "oops"], "cache"),
        (["--target", "nowhere", "m.pt", "--json"], "build"),
        (["inspct", "--json"], "build"),
    ]:
        result = invoke(*arguments)
        assert result.code == 2
        assert result.json["schema"] == f"edgebuild.{command}/1"
        assert result.json["error"]["code"] == "usage error"


def test_a_json_flag_after_two_dashes_is_an_argument(invoke: Invoke) -> None:
    result = invoke("inspect", "--", "--json")
    assert result.code == 2
    assert result.out == ""


def test_a_reader_that_leaves_early_causes_no_noise(tmp_path: Path) -> None:
    script = f"{sys.executable} -m edgebuild.cli.main targets --json | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "python")},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode in (0, -signal.SIGPIPE, 128 + signal.SIGPIPE)


def test_ctrl_c_ends_with_130_and_one_line(tmp_path: Path) -> None:
    # A build that waits: the flow is replaced in the child, the command line is the real one.
    code = (
        "import sys, time, types\n"
        "flow = types.ModuleType('edgebuild.build')\n"
        "def build_from_request(*args, **kwargs):\n"
        "    print('waiting', flush=True)\n"
        "    time.sleep(60)\n"
        "flow.build_from_request = build_from_request\n"
        "sys.modules['edgebuild.build'] = flow\n"
        "from edgebuild.cli.main import main\n"
        "sys.exit(main(['--target', 'x86-64', 'm.pt']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "python")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.strip() == "edgebuild: error: interrupted"  # on a line of its own, after the terminal's ^C


def test_characters_that_the_terminal_lacks_are_escaped(tmp_path: Path) -> None:
    done = run_process("--target", "ład", "m.pt", cwd=tmp_path, env={"PYTHONIOENCODING": "latin-1"})
    assert done.returncode == 2
    assert "\\u0142" in done.stderr


def test_error_is_coloured_only_where_asked(tmp_path: Path) -> None:
    plain = run_process("docter", cwd=tmp_path)
    forced = run_process("docter", cwd=tmp_path, env={"FORCE_COLOR": "1"})
    both = run_process("docter", cwd=tmp_path, env={"FORCE_COLOR": "1", "NO_COLOR": "1"})
    assert "\x1b" not in plain.stderr
    assert "\x1b[" in forced.stderr
    assert "\x1b" not in both.stderr


def test_code_names_are_those_of_the_native_runner() -> None:
    source = (Path(__file__).parents[3] / "cpp" / "src" / "status.cpp").read_text()
    for error in (
        errors.UsageError,
        errors.BundleError,
        errors.IncompatibleError,
        errors.GateError,
        errors.DeadlineError,
    ):
        from edgebuild.cli.output import error_object

        assert f'"{error_object("x", "m", None, error.exit_code)["error"]["code"]}"' in source


def test_every_command_has_a_code_name_free_schema_and_report_is_json() -> None:
    assert set(group.COMMANDS) >= {"build", "targets", "inspect", "verify", "run", "bench", "doctor"}
    assert json.loads(json.dumps(build_report().to_json(), default=str))["schema"] == "edgebuild.build/1"


def test_output_that_nobody_reads_or_that_has_no_room_is_no_bug_of_ours(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "python")}
    program = f"{sys.executable} -m edgebuild.cli.main targets"
    for shell, code in (
        (f"set -o pipefail; {program} | true", {0}),
        (f"{program} > /dev/full", {8}),
    ):
        done = subprocess.run(
            ["bash", "-c", shell], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode in code, (shell, done.stderr)
        assert "internal error" not in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("group_name", "commands"), [("cache", ("info", "clean")), ("runtime", ("pack",))])
def test_a_group_without_a_command_names_its_commands(
    invoke: Invoke, group_name: str, commands: tuple[str, ...]
) -> None:
    result = invoke(group_name)
    assert result.code == 2
    assert len(result.err.splitlines()) == 2
    assert all(f"edgebuild {group_name} {name}" in result.err for name in commands)


def test_a_model_in_place_of_a_bundle_is_said_to_be_one(invoke: Invoke) -> None:
    import zipfile

    with zipfile.ZipFile("net.pt", "w") as archive:
        archive.writestr("net/constants.pkl", b"")
        archive.writestr("net/code/__torch__.py", "")
        archive.writestr("net/data.pkl", b"")
        archive.writestr("net/version", "3")
    result = invoke("inspect", "net.pt")
    assert result.code == 2
    assert "TorchScript" in result.err
    assert "edgebuild --target x86-64 net.pt" in result.err


def test_json_is_one_line(invoke: Invoke) -> None:
    assert len(invoke("targets", "--json").out.splitlines()) == 1


@pytest.mark.parametrize("option", ["--precision=float16", "--fp16", "--bf16"])
def test_options_for_half_precision_say_what_pays_on_cpus(invoke: Invoke, option: str) -> None:
    result = invoke("--target", "x86-64", "m.pt", option)
    assert result.code == 2
    assert f"unknown option {option.partition('=')[0]}" in result.err
    assert "CPUs run float32, and INT8 with --int8 --calib DATA" in result.err
