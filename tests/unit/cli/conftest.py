from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from command_line import RUNNER, SIGNATURE, Invoke, Result
from edgebuild.bundle.manifest import Requirements, Target, Tolerance, Variant
from edgebuild.bundle.writer import BundleFile, write_bundle
from edgebuild.cli.main import main
from edgebuild.machine import machine_arch


@pytest.fixture
def invoke(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs the command line in this process, in an empty folder with a cache of its own."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*arguments: str) -> Result:
        capfd.readouterr()
        code = main(arguments)
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return run


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small bundle whose runner is a shell script."""

    def make(
        *, arch: str = "", code: int = 0, runner: bool = True, directory: bool = False, features: Sequence[str] = ()
    ) -> Path:
        arch = arch or machine_arch()
        path = tmp_path / ("m.board" if directory else "m.board.edge")
        variant = Variant(
            name="reference-float32",
            backend="reference",
            precision="float32",
            model="model/m.bin",
            inputs=("x",),
            outputs=("y",),
            tolerances={"y": Tolerance(atol=0.0, rtol=0.0)},
            requires=Requirements(cpu_features=tuple(features)),
        )
        files = [BundleFile(path="model/m.bin", source=b"12345")]
        if runner:
            files.append(BundleFile(path="bin/edgerun", source=RUNNER.format(code=code).encode(), executable=True))
        write_bundle(
            path,
            name="m",
            target=Target(name="board", arch=arch, triple=f"{arch}-linux-gnu"),
            signature=SIGNATURE,
            variants=[variant],
            files=files,
            producer={"edgebuild": "0.1.0"},
            directory=directory,
        )
        return path

    return make
