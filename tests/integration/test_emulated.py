"""A board that this machine can't run: built, proved under the emulator, and used there, with what a build itself downloads.

The user's own cache serves: the first runner for a board takes minutes to compile, an emulator is 70 MB. Nothing else is mocked.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulated_tools import BOARD_MARKS, edgebuild, starts_under_debian_11
from torch import nn

from edgebuild import Bundle
from edgebuild.cache import Cache
from edgebuild.devices.emulator import find_emulator
from edgebuild.devices.feeds import run_feeds
from edgebuild.devices.local import query_edgerun
from edgebuild.native.elf import read_elf
from edgebuild.native.elf_check import NativeFile, check_native_files
from edgebuild.targets import load_target

BOARD = "raspberrypi4"
SHAPE = (1, 3, 16, 16)

pytestmark = BOARD_MARKS


class Net(nn.Module):
    """Large enough that quantising it pays."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64, 10)),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.body(image)
        return scores


@pytest.fixture(scope="module")
def work(module_folder: Callable[[str], Path]) -> Path:
    return module_folder("emulated")


@pytest.fixture(scope="module")
def cnn(work: Path) -> nn.Module:
    torch.manual_seed(11)
    module = Net().eval()
    torch.jit.save(torch.jit.trace(module, torch.zeros(SHAPE)), work / "cnn.pt")
    (work / "calib").mkdir()
    generator = np.random.default_rng(5)
    for index in range(24):
        np.savez(work / "calib" / f"{index:02}.npz", image=generator.normal(size=SHAPE).astype(np.float32))
    return module


@pytest.fixture(scope="module")
def report(work: Path, cnn: nn.Module) -> dict[str, Any]:
    flags = [
        "--int8",
        "--calib",
        "calib",
        "--effort",
        "fast",
        "--min-agreement",
        "0.5",
        "--min-sqnr",
        "10",
        "--verify",
        "emulator",
        "--json",
    ]
    found: dict[str, Any] = json.loads(edgebuild(work, "--target", BOARD, "cnn.pt", *flags)[0])
    return found


@pytest.fixture(scope="module")
def bundle(work: Path, report: dict[str, Any]) -> Path:
    return work / f"cnn.{BOARD}.edge"


def test_every_variant_is_proved_as_the_board_s_cpu_and_no_speed_is_claimed(report: dict[str, Any]) -> None:
    proof = report["proof"]
    assert (proof["kind"], proof["arch"], proof["cpu"]) == ("emulator", "aarch64", "cortex-a72")
    assert proof["system"] == "debian-11 (glibc 2.31)"
    assert {variant["precision"] for variant in report["variants"]} == {"int8", "float32"}
    for variant in report["variants"]:
        assert variant["proof"] == "emulator"
        assert variant["latency_ms"] is variant["speed_up"] is None
        assert variant["checks"]
        assert all(check["passed"] for check in variant["checks"])
    assert {"runner", "libraries", "model"} <= set(report["sizes"])
    steps = report["next_steps"]
    assert not [step for step in steps if step.startswith("edgebuild bench")], "the emulator's times are nobody's"


def test_int8_decisions_are_compared_on_the_board_s_instruction_set(report: dict[str, Any]) -> None:
    (int8,) = [variant for variant in report["variants"] if variant["precision"] == "int8"]
    assert {entry["on"] for entry in int8["decisions"]} == {"goldens", "held out"}
    for entry in int8["decisions"]:
        assert entry["decisions"] + entry["near_ties"] >= 1
        assert 0 <= entry["flipped"] <= entry["decisions"]
        assert entry["sqnr_db"] > 10


def test_no_variant_asks_for_memory_that_was_not_measured_on_the_board(bundle: Path) -> None:
    assert all(variant.requires.memory_bytes is None for variant in Bundle.open(bundle).manifest.variants)


def test_the_runner_is_small_and_starts_under_debian_11(bundle: Path, tmp_path: Path) -> None:
    starts_under_debian_11(bundle, tmp_path)
    program = Bundle.open(bundle).directory() / "bin" / "edgerun"
    needs = [need.version.partition("GLIBC_2.")[2] for need in read_elf(program).version_needs]
    assert max(int(minor.partition(".")[0]) for minor in needs if minor) <= 28
    assert program.stat().st_size <= 3 * 10**6


def test_the_emulated_bundle_computes_what_pytorch_does(work: Path, bundle: Path, cnn: nn.Module) -> None:
    image = np.random.default_rng(9).normal(size=SHAPE).astype(np.float32)
    np.savez(work / "in.npz", image=image)
    flags = ["--variant", "onnxruntime-float32", "--inputs", "in.npz", "--outputs", "out.npz"]
    _, told = edgebuild(work, "run", bundle, *flags)
    assert "run under qemu-aarch64" in told
    (name,) = [spec.name for spec in Bundle.open(bundle).signature.outputs]
    with torch.no_grad():
        expected = cnn(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(np.load(work / "out.npz")[name], expected, rtol=1e-4, atol=1e-4)


def test_the_runner_tells_how_many_of_its_inferences_are_done(bundle: Path, tmp_path: Path) -> None:
    board = load_target(BOARD)
    emulator = find_emulator(board.soc.arch, board.soc.cpu, board.os.glibc, Cache.default(), fetch=True)
    opened = Bundle.open(bundle)
    goldens, variants = len(opened.manifest.goldens), len(opened.manifest.variants)
    heard: list[tuple[int, int]] = []
    query_edgerun(opened, ["verify"], emulator=emulator, hear=lambda *told: heard.append(told), total=1)
    assert heard[-1] == (goldens * variants, goldens * variants)
    heard.clear()
    image = np.zeros(SHAPE, np.float32)
    name = opened.signature.inputs[0].name
    feeds = [{name: image}] * 3
    run_feeds(opened, opened.manifest.variants[0].name, feeds, emulator=emulator, hear=lambda *told: heard.append(told))
    assert heard[-1] == (3, 3)


def test_verify_runs_every_variant_and_bench_says_whose_times_these_are(work: Path, bundle: Path) -> None:
    verified = json.loads(edgebuild(work, "verify", bundle, "--json")[0])
    assert [variant["result"] for variant in verified["variants"]] == ["ok", "ok"]
    out, told = edgebuild(work, "bench", bundle, "--seconds", "0.1", "--json")
    benched = json.loads(out)
    assert benched["runs"] >= 1
    assert benched["emulator"]["cpu"] == "cortex-a72"
    out, _ = edgebuild(work, "bench", bundle, "--variant", "no-such", "--json", code=2)
    assert json.loads(out)["error"]["message"].startswith("the bundle has no variant 'no-such'")
    assert "the emulator's, NOT the board's" in told


def test_a_second_model_for_the_board_compiles_and_downloads_nothing(work: Path, report: dict[str, Any]) -> None:
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()), work / "second.pt")
    out, told = edgebuild(work, "--target", BOARD, "second.pt", "--input", "float32[1,4]", "--json")
    second = json.loads(out)
    assert second["proof"]["kind"] == "emulator"
    assert "runner" in second["cached"] or second["seconds"]["runner"] < 5
    assert "compiling" not in told
    assert "downloading" not in told


def test_the_programs_of_one_board_are_refused_for_another(bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(bundle)
    paths = [path for path in opened.manifest.files if path.startswith(("bin/", "lib/"))]
    natives = [NativeFile(path=path, source=opened.directory() / path) for path in paths]
    assert len(natives) >= 2
    check_native_files(natives, load_target(BOARD))
    check_native_files(natives, load_target("raspberrypi5"))
    for other in ("x86-64", "raspberrypi2", "generic-riscv64"):
        with pytest.raises(Exception, match="it is for aarch64, 64 bits") as caught:
            check_native_files(natives, load_target(other))
        assert caught.typename == "IncompatibleError"


def test_a_damaged_foreign_bundle_is_not_started(work: Path, bundle: Path) -> None:
    damaged = bytearray(bundle.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (work / "damaged.edge").write_bytes(damaged)
    _, told = edgebuild(work, "verify", "damaged.edge", code=3)
    assert "SHA-256" in told or "hash" in told


def test_an_instruction_that_the_board_lacks_ends_in_one_line_that_says_so(tmp_path: Path) -> None:
    from edgebuild.bundle.manifest import Target, Variant
    from edgebuild.bundle.writer import BundleFile, write_bundle
    from edgebuild.cache import Cache
    from edgebuild.devices.emulator import find_emulator
    from edgebuild.devices.local import query_edgerun
    from edgebuild.errors import IncompatibleError
    from edgebuild.model.signature import Signature
    from edgebuild.native.toolchain import find_zig

    # One atomic instruction of ARMv8.1, in place of a runner.
    (tmp_path / "m.c").write_text(
        '#include <stdio.h>\nint n;\nint main() { __atomic_fetch_add(&n, 1, 5); puts("{\\"exit_code\\": 0}"); return 0; }\n'
    )
    zig = [str(find_zig()[0]), "cc", "-target", "aarch64-linux-gnu.2.28", "-mcpu=cortex_a76", "-O1"]
    caches = {f"ZIG_{kind}_CACHE_DIR": str(Cache.default().root / "zig" / kind.lower()) for kind in ("GLOBAL", "LOCAL")}
    subprocess.run([*zig, "m.c", "-o", "edgerun"], cwd=tmp_path, env={**os.environ, **caches}, check=True)
    bundle = write_bundle(
        tmp_path / "m.edge",
        name="m",
        target=Target(name=BOARD, arch="aarch64", triple="aarch64-linux-gnu"),
        signature=Signature(inputs=(), outputs=(), output_structure={"tuple": []}),
        variants=[
            Variant(
                name="v",
                backend="reference",
                precision="float32",
                model="model/m",
                inputs=(),
                outputs=(),
                tolerances={},
            )
        ],
        files=[
            BundleFile(path="model/m", source=b"m"),
            BundleFile(path="bin/edgerun", source=tmp_path / "edgerun", executable=True),
        ],
    )
    younger, older = (
        find_emulator("aarch64", cpu, "2.31", Cache.default(), fetch=True) for cpu in ("cortex-a76", "cortex-a72")
    )
    assert query_edgerun(bundle, ["verify"], emulator=younger) == {"exit_code": 0}
    with pytest.raises(IncompatibleError, match="used an instruction that cortex-a72 lacks"):
        query_edgerun(bundle, ["verify"], emulator=older)
