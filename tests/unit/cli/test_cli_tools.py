import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command_line import Invoke, run_process  # isort: skip


def test_cache_info_and_clean(invoke: Invoke, tmp_path: Path) -> None:
    data = invoke("cache", "info", "--json").json
    assert data["bytes"] == 0
    root = Path(data["path"])
    assert root.is_relative_to(tmp_path)
    for section in ("export", "proof"):
        (root / section / "key").mkdir(parents=True)
        (root / section / "key" / "f").write_bytes(b"x" * 1000)
    assert invoke("cache", "info", "--json").json["bytes"] == 2000
    assert "2.0 KiB" in invoke("cache", "info").out
    assert invoke("cache", "clean", "proof", "--json").json["freed_bytes"] == 1000
    assert invoke("cache", "clean").out == "freed 1000 B\n"
    assert invoke("cache", "info", "--json").json["bytes"] == 0


@pytest.mark.parametrize(
    ("arguments", "answer", "freed"),
    [([], "n\n", False), ([], "\n", False), ([], "y\n", True), (["--yes"], "", True), (["native"], "n\n", False)],
)
def test_cache_clean_asks_on_a_terminal(tmp_path: Path, arguments: list[str], answer: str, freed: bool) -> None:
    entry = tmp_path / "edgebuild" / "native" / "key"
    entry.mkdir(parents=True)
    (entry / "edgerun").write_bytes(b"x" * 1000)
    ours, theirs = pty.openpty()
    os.write(ours, answer.encode())
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgebuild.cli.main", "cache", "clean", *arguments],
            env={
                **os.environ,
                "XDG_CACHE_HOME": str(tmp_path),
                "PYTHONPATH": str(Path(__file__).parents[3] / "python"),
            },
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    finally:
        os.close(theirs)
        os.close(ours)
    assert entry.exists() is not freed
    assert ("compiled runners (1000 B)" in done.stderr and "minutes" in done.stderr) is bool(answer)
    assert done.stdout == f"freed {1000 if freed else 0} B\n"


def test_doctor_finds_what_is_missing_and_exits_10(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    from edgebuild.cli import checks

    real = metadata.version

    def version(name: str) -> str:
        if name == "ziglang":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(checks.metadata, "version", version)
    result = invoke("doctor")
    assert result.code == 10
    assert "pip install 'edgebuild[cross]'" in result.out
    data = invoke("doctor", "--json").json
    assert data["exit_code"] == 10
    assert [c["state"] for c in data["checks"] if c["name"] == "ziglang"] == ["missing"]


def test_doctor_of_this_machine_s_target_finds_a_missing_engine(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import metadata

    from edgebuild.cli import checks

    real = metadata.version

    def version(name: str) -> str:
        if name == "onnxruntime":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(checks.metadata, "version", version)
    states = {c["name"]: c["state"] for c in invoke("doctor", "--target", "x86-64", "--json").json["checks"]}
    assert states["onnxruntime"] == "missing"
    assert states["onnxruntime 1.31.1"] == "absent"


def test_fetching_for_int8_gets_the_engine_that_judges_it_too(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgebuild import quantization
    from edgebuild.cli import checks
    from edgebuild.devices import emulator
    from edgebuild.native import engines, runner
    from edgebuild.report import SilentProgress
    from edgebuild.targets import load_target

    fetched: list[str] = []
    monkeypatch.setattr(engines, "fetch_engine", lambda pin, *_: fetched.append(f"{pin.version} {pin.arch}"))
    monkeypatch.setattr(
        quantization, "judging_engine", lambda target, spec, cache: fetched.append(f"judge {spec.version}")
    )
    monkeypatch.setattr(emulator, "find_emulator", lambda *_, **__: None)
    monkeypatch.setattr(runner, "build_runner", lambda *_: None)
    checks.fetch(load_target("raspberrypi2"), SilentProgress())
    assert fetched == ["1.21.0 armv7l", "judge 1.21.0"]
    fetched.clear()
    checks.fetch(load_target("generic-riscv64"), SilentProgress())
    assert fetched == ["1.21.0 riscv64"]


def test_doctor_reports_a_cache_that_can_not_be_written(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("file").absolute() / "below"))
    result = invoke("doctor", "--json")
    assert result.code == 10
    assert [c["state"] for c in result.json["checks"] if c["name"] == "cache"] == ["missing"]


def test_doctor_of_a_target_speaks_of_its_engine_and_emulator(invoke: Invoke) -> None:
    data = invoke("doctor", "--target", "jetson", "--json").json
    states = {c["name"]: c["state"] for c in data["checks"]}
    assert data["target"] == "jetson-orin"
    assert states["toolchain"] == "ok"
    assert states["tensorrt 10.3"] == "absent"
    assert states["runner"] == states["onnxruntime 1.31.1"] == states["emulator"] == "absent"
    get = {c["name"]: c["get"] for c in data["checks"]}
    assert get["runner"] == "the first build compiles it, which takes minutes"
    assert "--target jetson-orin --fetch" in invoke("doctor", "--target", "jetson").out


def test_doctor_sees_what_no_build_can_do_with_a_target_file(invoke: Invoke) -> None:
    from edgebuild.targets import targets_folder

    text = (targets_folder() / "raspberrypi4.toml").read_text(encoding="utf-8")
    Path("old.toml").write_text(re.sub(r'(?m)^glibc = ".*"', 'glibc = "2.17"', text))
    result = invoke("doctor", "--target", "old.toml", "--json")
    (engine,) = [check for check in result.json["checks"] if check["name"].startswith("onnxruntime ")]
    assert engine["state"] == "missing"
    assert "the target's oldest system has 2.17" in engine["found"]
    assert result.code == 10


def test_the_advice_for_a_target_file_names_the_file_and_works_as_it_is_printed(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgebuild.targets import targets_folder

    monkeypatch.setenv("PATH", "/nowhere")
    Path("my boards").mkdir()
    Path("my boards/mine.toml").write_text((targets_folder() / "generic-riscv64.toml").read_text(encoding="utf-8"))
    said = invoke("doctor", "--target", "my boards/mine.toml").out
    (advised,) = [line.strip() for line in said.splitlines() if "--fetch" in line]
    words = shlex.split(advised)
    assert words == ["edgebuild", "doctor", "--target", "my boards/mine.toml", "--fetch"]
    again, before = (re.sub(r"[\d.]+ GiB free", "", text) for text in (invoke(*words[1:-1]).out, said))
    assert again == before


def test_doctor_misses_no_compiler_where_the_runner_came_with_edgebuild(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgebuild.errors import ToolError
    from edgebuild.native import runner, toolchain

    def no_zig() -> Any:
        msg = "no ziglang"
        raise ToolError(msg, hint="pip install it")

    (tmp_path / "edgerun").write_bytes(b"")
    monkeypatch.setattr(toolchain, "find_zig", no_zig)
    states = {c["name"]: c["state"] for c in invoke("doctor", "--target", "raspberrypi4", "--json").json["checks"]}
    assert (states["toolchain"], states["runner"]) == ("missing", "absent")
    monkeypatch.setattr(runner, "find_prebuilt", lambda *_: tmp_path / "edgerun")
    states = {c["name"]: c["state"] for c in invoke("doctor", "--target", "raspberrypi4", "--json").json["checks"]}
    assert (states["toolchain"], states["runner"]) == ("absent", "ok")


def test_doctor_looks_and_makes_nothing(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    assert invoke("doctor", "--target", "raspberrypi2").code in (0, 10)
    assert not (tmp_path / "new").exists()


def test_runtime_pack_fills_a_folder_for_thin_bundles(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    from edgebuild.native import engines

    library = tmp_path / "lib.so"
    library.write_bytes(b"engine")

    def fetch_engine(pin: Any, cache: Any) -> Any:
        return engines.EngineFiles(pin=pin, library=library, licences={"onnxruntime-LICENSE": library})

    monkeypatch.setattr(engines, "fetch_engine", fetch_engine)
    result = invoke("runtime", "pack", "--target", "jetson", "-o", "out", "--json")
    assert result.code == 0, result.err
    (engine,) = result.json["engines"]
    packed = Path("out") / engine["file"]
    assert packed.read_bytes() == b"engine"
    assert engine["sha256"] == hashlib.sha256(b"engine").hexdigest()
    assert "tensorrt" in result.json["skipped"][0]
    assert (Path("out") / "licenses" / "onnxruntime-LICENSE").is_file()
    assert not list(Path("out").rglob(".*"))
    assert "EDGEBUILD_RUNTIME_PATH" in invoke("runtime", "pack", "--target", "x86-64", "-o", "out").out
    assert invoke("runtime", "pack", "--target", "jetson", "--backend", "tensorrt", "-o", "out").code == 5
    Path("file").write_text("")
    assert invoke("runtime", "pack", "--target", "x86-64", "-o", "file").code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_our_program(invoke: Invoke, shell: str) -> None:
    result = invoke("completion", shell)
    assert result.code == 0
    assert "_EDGEBUILD_COMPLETE" in result.out


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_completion_knows_commands_targets_and_options(tmp_path: Path) -> None:
    def complete(line: str) -> list[str]:
        env = {"_EDGEBUILD_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        done = run_process(cwd=tmp_path, env=env)
        return [word.split(",", 1)[1] for word in done.stdout.split()]

    assert complete("edgebuild insp") == ["inspect"]
    assert complete("edgebuild build --target raspberrypi") == [f"raspberrypi{n}" for n in (2, 3, 4, 5)]
    assert "--parity-tol" in complete("edgebuild build --pari")
    assert complete("edgebuild --tar") == ["--target"]
    assert complete("edgebuild --target raspberrypi") == [f"raspberrypi{n}" for n in (2, 3, 4, 5)]
    assert "--parity-tol" in complete("edgebuild model.pt --pari")


def test_json_output_is_a_single_object_for_every_light_command(invoke: Invoke) -> None:
    for arguments in (["targets"], ["targets", "host"], ["doctor"], ["cache", "info"], ["cache", "clean"]):
        result = invoke(*arguments, "--json")
        assert result.json["exit_code"] == result.code
        assert json.loads(result.out)["schema"].startswith("edgebuild.")
