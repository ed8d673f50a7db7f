import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest

from command_line import Invoke, build_report, check  # isort: skip
from edgebuild import __version__
from edgebuild.cli import group
from edgebuild.model.request import InputRequest
from edgebuild.options import BuildOptions
from edgebuild.report import Progress
from edgebuild.targets import list_targets


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replaces the flow; holds what the command line handed to it."""
    calls: list[Any] = []

    def build_from_request(request: Any, options: BuildOptions, progress: Progress) -> Any:
        calls.append((request, options))
        progress.stage("export", "torch.export")
        progress.note("x is assumed")
        progress.advance(1, 2, "runs")
        return build_report()

    monkeypatch.setattr(import_module("edgebuild.build"), "build_from_request", build_from_request)
    return calls


def test_help_lists_every_command_with_its_own_line(invoke: Invoke) -> None:
    result = invoke("--help")
    assert result.code == 0
    for name, line in group.COMMANDS.items():
        command = import_module(f"edgebuild.cli.{name}").command
        assert isinstance(command, click.Command)
        assert command.help == line
        assert name in result.out
        assert line in result.out


def test_no_arguments_show_the_help(invoke: Invoke) -> None:
    result = invoke()
    assert result.code == 0
    assert result.out == invoke("--help").out


def test_version(invoke: Invoke) -> None:
    assert invoke("--version").out == f"edgebuild {__version__}\n"


@pytest.mark.parametrize("name", group.COMMANDS)
def test_every_command_explains_itself(invoke: Invoke, name: str) -> None:
    result = invoke(name, "--help")
    assert result.code == 0
    assert group.COMMANDS[name] in result.out


@pytest.mark.parametrize(
    "arguments", [["--help"], ["targets"], ["inspect", "--help"], ["run", "--help"], ["cache", "info"], ["doctor"]]
)
def test_light_commands_import_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    code = (
        "import sys; from edgebuild.cli.main import main; main(sys.argv[1:]); "
        "print([m for m in ('torch', 'numpy', 'rich', 'onnx', 'onnxruntime') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={"PYTHONPATH": str(Path(__file__).parents[3] / "python"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_build_is_implied(invoke: Invoke, built: list[Any]) -> None:
    forms = (
        ["--target", "x86-64", "m.pt"],
        ["m.pt", "--target", "x86-64"],
        ["build", "--target", "x86-64", "m.pt"],
        ["-v", "--target=x86-64", "m.pt"],
        ["--json", "build", "--target", "x86-64", "m.pt"],
    )
    for arguments in forms:
        assert invoke(*arguments).code == 0
    assert len({repr(call) for call in built}) == 1
    assert len(built) == len(forms)


def test_a_model_named_like_a_mistyped_command_is_a_model_if_it_exists(invoke: Invoke, built: list[Any]) -> None:
    Path("targts").write_bytes(b"x")
    assert invoke("targts", "--target", "x86-64").code == 0
    assert built[0][0].path == "targts"


def test_every_flag_reaches_the_flow(invoke: Invoke, built: list[Any]) -> None:
    Path("in.npz").write_bytes(b"")
    Path("d.json").write_text("{}")
    result = invoke(
        *("--target", "x86-64", "m.pt", "-o", "out.edge", "--input", "x:float32[1,3]", "--input", "int64[2]"),
        *("--sample", "in.npz", "--dynamic", "x:0=batch[1..8..32]", "--arg", "sr=16000", "--arg", "mode=fast"),
        *(
            "--model",
            "pkg.mod:make",
            "--backend",
            "onnxruntime",
            "--parity-tol",
            "1e-4,1e-3",
            "--trust-model",
            "--thin",
        ),
        *(
            "--decisions",
            "d.json",
            "--option",
            "intra_op_threads=2",
            "--deadline",
            "9.5",
            "--seed",
            "7",
            "--no-measure",
        ),
    )
    assert result.code == 0, result.err
    request, options = built[0]
    assert request.path == "m.pt"
    assert request.factory == "pkg.mod:make"
    assert request.search_path == (str(Path.cwd()),)
    assert request.inputs == (
        InputRequest(name="x", dtype="float32", shape=(1, 3)),
        InputRequest(name=None, dtype="int64", shape=(2,)),
    )
    assert request.samples == ("in.npz",)
    assert (request.dynamic[0].symbol, request.dynamic[0].minimum, request.dynamic[0].maximum) == ("batch", 1, 32)
    assert request.arguments == {"sr": 16000, "mode": "fast"}
    assert request.parity_tolerance == (1e-4, 1e-3)
    assert (request.trust, request.seed) == (True, 7)
    assert options == BuildOptions(
        target="x86-64",
        output=Path("out.edge"),
        backends=("onnxruntime",),
        thin=True,
        decisions=Path("d.json"),
        deadline_s=9.5,
        measure=False,
        variant_options={"intra_op_threads": "2"},
    )


def test_one_tolerance_is_absolute(invoke: Invoke, built: list[Any]) -> None:
    assert invoke("--target", "x86-64", "m.pt", "--parity-tol", "0.5").code == 0
    assert built[0][0].parity_tolerance == (0.5, 0.0)


@pytest.mark.parametrize("arguments", [["pkg.mod:make"], ["--model", "pkg.mod:make"]])
def test_a_factory_alone_is_a_model(invoke: Invoke, built: list[Any], arguments: list[str]) -> None:
    assert invoke("--target", "x86-64", *arguments).code == 0
    assert (built[0][0].path, built[0][0].factory) == (None, "pkg.mod:make")


def test_a_file_with_a_colon_is_a_file(invoke: Invoke, built: list[Any]) -> None:
    Path("a:b").write_bytes(b"x")
    assert invoke("--target", "x86-64", "a:b").code == 0
    assert (built[0][0].path, built[0][0].factory) == ("a:b", None)


def test_progress_goes_to_stderr_and_the_summary_to_stdout(invoke: Invoke, built: list[Any]) -> None:
    result = invoke("--target", "x86-64", "m.pt")
    assert result.err == "export: torch.export\nnote: x is assumed\n"
    for said in ("digits.x86-64.edge", "x:float32[batch,3]", "torch.export", "conv-batch-norm 3", "2.1e-07 at y[0,3]"):
        assert said in result.out
    for said in ("original in PyTorch", "0.415 ms", "0.0814 ms", "5.1x", "native", "29.6 MiB", "edgebuild run digits"):
        assert said in result.out
    assert "\x1b" not in result.out
    assert "identity" not in result.out  # a pass that did not fire


def test_json_build_prints_the_report_and_no_progress(invoke: Invoke, built: list[Any]) -> None:
    result = invoke("--target", "x86-64", "m.pt", "--json")
    assert result.err == ""
    assert result.json["schema"] == "edgebuild.build/1"
    assert result.json["exit_code"] == 0
    assert result.json["variants"][0]["speed_up"] == 5.1


def test_json_holds_no_nan(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    report = build_report(parity=(check(max_abs_error=float("nan")), check(max_abs_error=float("inf"))))
    monkeypatch.setattr(import_module("edgebuild.build"), "build_from_request", lambda *args: report)
    result = invoke("--target", "x86-64", "m.pt", "--json")
    assert "NaN" not in result.out
    assert [p["max_abs_error"] for p in result.json["parity"]] == [None, None]


def test_targets_lists_all_and_shows_one(invoke: Invoke) -> None:
    listed = invoke("targets")
    for spec in list_targets():
        assert spec.name in listed.out
        shown = invoke("targets", spec.name)
        assert shown.code == 0
        assert spec.toolchain.triple in shown.out
        assert all(backend.version in shown.out for backend in spec.runtime)
    assert invoke("targets", "--json").json["targets"][0]["name"] == list_targets()[0].name
    one = invoke("targets", "jetson", "--json").json
    assert (one["schema"], one["name"], one["exit_code"]) == ("edgebuild.target/1", "jetson-orin", 0)


@pytest.mark.parametrize("directory", [False, True])
def test_inspect_tells_of_any_architecture(invoke: Invoke, make_bundle: Callable[..., Path], directory: bool) -> None:
    path = make_bundle(arch="riscv64", directory=directory)
    text = invoke("inspect", str(path)).out
    for said in (
        "m.board",
        "riscv64",
        "x:float32[batch,3]",
        "y:int64[batch]",
        "reference-float32",
        "batch = 1 or more",
    ):
        assert said in text
    data = invoke("inspect", str(path), "--json").json
    assert data["schema"] == "edgebuild.inspect/1"
    assert data["path"] == str(path)
    assert data["signature"]["inputs"][0]["type"]["shape"] == ["batch", 3]
    assert data["variants"][0]["model_bytes"] == 5
    assert data["size_bytes"] == sum(entry["size"] for entry in data["files"].values())


def test_inspect_of_a_damaged_bundle_is_exit_3(invoke: Invoke, make_bundle: Callable[..., Path]) -> None:
    path = make_bundle()
    data = bytearray(path.read_bytes())
    data[data.index(b'"format"') + 1] ^= 1
    path.write_bytes(data)
    result = invoke("inspect", str(path), "--json")
    assert result.code == 3
    assert result.json["error"]["code"] == "corrupt bundle"


@pytest.mark.parametrize("directory", [False, True])
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["verify"], []),
        (["verify", "--all-variants", "--json"], ["--all-variants", "--json"]),
        (["run", "--inputs", "a b.npz", "--outputs=o.npz"], ["--inputs=a b.npz", "--outputs=o.npz"]),
        (["run", "--input", "x=-1", "--input", "y=--json"], ["--input=x=-1", "--input=y=--json"]),
        (["bench", "--threads", "2", "--seconds", "0.5", "--profile", "-v"],
         ["--threads=2", "--seconds=0.5", "--profile", "--verbose"]),
        (["bench", "--backend", "b", "--option", "k=v", "--deadline", "3", "--no-fallback"],
         ["--backend=b", "--no-fallback", "--option=k=v", "--deadline=3.0"]),
        (["run", "--no-tuning", "--state-dir", "s"], ["--no-tuning", "--state-dir=s"]),
        (["prepare", "--variant", "v", "--all", "--anew", "--option", "workspace_mib=64", "--state-dir", "s"],
         ["--variant=v", "--option=workspace_mib=64", "--all", "--anew", "--state-dir=s"]),
        (["tune", "--threads", "1,default", "--state-dir", "s", "--seconds", "0"],
         ["--threads=1,default", "--seconds=0.0", "--state-dir=s"]),
    ],
)  # fmt: skip
def test_runner_commands_hand_over_flags_output_and_exit_code(
    invoke: Invoke, make_bundle: Callable[..., Path], arguments: list[str], told: list[str], directory: bool
) -> None:
    path = make_bundle(code=7, directory=directory)
    result = invoke(arguments[0], str(path), *arguments[1:])
    lines = result.out.splitlines()
    assert result.code == 7, result.err
    assert lines[0] == arguments[0]
    assert Path(lines[1]).name == "m.board"
    assert lines[2:] == told
    assert result.err == "to stderr\n"


@pytest.mark.parametrize("command", ["verify", "run", "bench", "tune", "prepare"])
@pytest.mark.parametrize("arch", ["riscv64", "of-nobody"])  # an emulator might be had, and none can be known
def test_a_foreign_bundle_is_incompatible_and_says_what_to_do(
    invoke: Invoke, make_bundle: Callable[..., Path], command: str, arch: str
) -> None:
    result = invoke(command, str(make_bundle(arch=arch)))
    assert result.code == 5
    assert arch in result.err
    assert f"tar xf m.board.edge, then bin/edgerun {command}" in result.err


def test_a_bundle_without_a_runner_and_one_with_a_damaged_runner_are_corrupt(
    invoke: Invoke, make_bundle: Callable[..., Path]
) -> None:
    result = invoke("verify", str(make_bundle(runner=False)))
    assert result.code == 3
    assert "no runner" in result.err
    folder = make_bundle(directory=True)
    runner = folder / "bin" / "edgerun"
    runner.write_bytes(runner.read_bytes().replace(b"stderr", b"STDERR"))
    result = invoke("verify", str(folder))
    assert result.code == 3
    assert result.out == ""  # it was not started
