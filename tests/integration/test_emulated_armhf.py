"""A 32-bit ARM board, whose C library is too old for its engine: built and proved under the emulator, C library included.

As in test_emulated.py the user's own cache serves, and what a build downloads is downloaded.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulated_tools import BOARD_MARKS, edgebuild, starts_under_debian_11
from torch import nn

from edgebuild import Bundle, Runner
from edgebuild.errors import IncompatibleError
from edgebuild.native.elf import read_elf

pytestmark = BOARD_MARKS


@pytest.fixture(scope="module")
def work(module_folder: Callable[[str], Path]) -> Path:
    return module_folder("armhf")


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.Flatten(), nn.Linear(8 * 36, 7)).eval()


@pytest.fixture(scope="module")
def report(work: Path, module: nn.Module) -> dict[str, Any]:
    torch.jit.save(torch.jit.trace(module, torch.zeros(1, 3, 8, 8)), work / "net.pt")
    flags = ["--input", "input:float32[1,3,8,8]", "--verify", "emulator", "--json"]
    found: dict[str, Any] = json.loads(edgebuild(work, "--target", "raspberrypi2", "net.pt", *flags)[0])
    return found


@pytest.fixture(scope="module")
def bundle(work: Path, report: dict[str, Any]) -> Path:
    return work / "net.raspberrypi2.edge"


def test_it_is_proved_as_the_board_s_cpu(report: dict[str, Any]) -> None:
    assert (report["proof"]["arch"], report["proof"]["cpu"]) == ("armv7l", "cortex-a7")
    (variant,) = report["variants"]
    assert variant["proof"] == "emulator"
    assert all(check["passed"] for check in variant["checks"])


def test_it_brings_a_c_library_that_its_runner_does_not_need_to_start(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    loader = opened.manifest.target.loader
    assert loader is not None
    assert loader.program == "lib/ld-linux-armhf.so.3"
    assert opened.manifest.minor == 2
    (variant,) = opened.manifest.variants
    assert variant.engine is not None
    assert len(variant.engine.needed) > 30
    assert variant.requires.glibc == "2.38"
    folder = opened.directory()
    runner = read_elf(folder / "bin" / "edgerun")
    versions = [need.version for need in runner.version_needs if re.fullmatch(r"GLIBC_2\.\d+", need.version)]
    assert max(int(version.rpartition(".")[2]) for version in versions) <= 28, (
        "it is started on the board's own C library"
    )
    assert (folder / "bin" / "edgerun").stat().st_size <= 3 * 10**6
    # Started anew it has nothing but the bundle's C library.
    assert set(runner.needed) <= {Path(path).name for path in (loader.program, *loader.libraries)}
    provided = {read_elf(path).soname for path in (folder / "lib").iterdir()}
    for path in (folder / "lib").iterdir():
        assert set(read_elf(path).needed) <= provided, path.name
    names = {path.name for path in (folder / "licenses").iterdir()}
    assert {"debian-copyright-libc6", "debian-copyright-libonnxruntime1.21"} <= names


def test_its_runner_starts_on_the_c_library_of_debian_11(bundle: Path, tmp_path: Path) -> None:
    """Proofs start it through the bundle's own loader; a board starts it as any program, on whatever C library is there."""
    starts_under_debian_11(bundle, tmp_path)


def test_it_computes_what_pytorch_does_and_says_nothing_of_schemas(work: Path, bundle: Path, module: nn.Module) -> None:
    image = np.random.default_rng(9).normal(size=(1, 3, 8, 8)).astype(np.float32)
    (spec,) = Bundle.open(bundle).signature.inputs
    np.savez(work / "in.npz", **{spec.name: image})
    _, told = edgebuild(work, "run", bundle, "--inputs", "in.npz", "--outputs", "out.npz")
    assert "Schema error" not in told
    assert "" not in told.splitlines(), "the engine puts an empty line behind each"
    (name,) = [output.name for output in Bundle.open(bundle).signature.outputs]
    with torch.no_grad():
        expected = module(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(np.load(work / "out.npz")[name], expected, rtol=1e-4, atol=1e-4)


def test_python_refuses_it_here(bundle: Path) -> None:
    with pytest.raises(IncompatibleError, match="armv7l"):
        Runner(bundle)
