import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgebuild.bundle.manifest import Target, Tolerance, Variant
from edgebuild.bundle.reader import Bundle, GoldenArrays
from edgebuild.bundle.writer import BundleFile, write_bundle
from edgebuild.cache import Cache
from edgebuild.model.signature import Signature, TensorType, ValueSpec
from edgebuild.targets import TargetSpec, load_target

sys.path.insert(0, str(Path(__file__).parent))

from emulator_tools import FOREIGN, GOOD, PROGRAM, VERIFIED, answering


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
