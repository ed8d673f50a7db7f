"""What a board costs that this machine can't run: ``foreign_boards.py [BOARD …] [--rounds N] [--warm]``; raspberrypi4 and raspberrypi2.

1. The first bundle (MobileNetV2), with an empty cache: what is downloaded is timed apart, the rest is the build, runner and proof included.
2. Another model for the same board against one for x86-64, in turn, nothing of it cached: wall time without the proof, and the proof's, which
   runs under the emulator.
3. The board's runner: its size, and the youngest C library that it asks for.

``--warm`` leaves out the first part and takes the user's own cache. The machine should have nothing else to do.
"""

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgebuild import Bundle
from edgebuild.native.elf import read_elf
from workbench import EDGEBUILD, WORK, show

BOARDS = ("raspberrypi4", "raspberrypi2")
FETCH = """
import sys
from edgebuild.cache import Cache
from edgebuild.devices.emulator import find_emulator
from edgebuild.native.engines import engine_pin, fetch_engine
from edgebuild.targets import load_target

board, cache = load_target(sys.argv[1]), Cache.default()
for runtime in board.runtime:
    if runtime.name == "onnxruntime":
        fetch_engine(engine_pin(runtime.name, runtime.version, board.soc.arch), cache)
find_emulator(board.soc.arch, board.soc.cpu, board.os.glibc, cache, fetch=True)
"""


@dataclass(frozen=True, kw_only=True)
class Build:
    """One build: wall and processor time in seconds, and what its report says."""

    wall_s: float
    cpu_s: float
    stages: dict[str, float]
    bundle: Path

    @property
    def rest_s(self) -> float:
        """Wall time without the proof."""
        return self.wall_s - self.stages["prove"]


def main(arguments: Sequence[str] = ()) -> None:
    """Prints three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("boards", nargs="*", metavar="BOARD", default=list(BOARDS))
    parser.add_argument(
        "--rounds", type=int, default=4, help="builds of each target in the second part; 0 leaves it out"
    )
    parser.add_argument("--warm", action="store_true", help="take the user's own cache and leave out the first part")
    chosen = parser.parse_args(arguments)
    if chosen.warm and not chosen.rounds:
        parser.error("--warm leaves out the first part, --rounds 0 the second: nothing is left")
    work = WORK / "foreign_boards"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        measure(chosen.boards, chosen.rounds, work, warm=chosen.warm)
    finally:
        shutil.rmtree(work)  # a cache is half a gigabyte


def measure(boards: Sequence[str], rounds: int, work: Path, *, warm: bool) -> None:
    """The three parts, in a folder."""
    models = networks(work)
    bundles: dict[str, Path] = {}
    caches: dict[str, dict[str, str]] = {
        board: {} if warm else {"XDG_CACHE_HOME": str(work / board)} for board in boards
    }
    if not warm:
        rows = []
        for board in boards:
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", FETCH, board], check=True, env={**os.environ, **caches[board]})
            fetched = time.perf_counter() - begin
            first = build(board, next(models), caches[board])
            bundles[board] = first.bundle
            stages = ", ".join(f"{name} {seconds:.0f}" for name, seconds in first.stages.items() if seconds >= 1)
            rows.append((board, f"{fetched:.0f}", f"{first.wall_s:.0f}", f"{first.cpu_s:.0f}", stages))
        title = f"First bundle with an empty cache, seconds on {os.cpu_count()} cores, load {os.getloadavg()[2]:.1f} (asked: 360)"
        show(title, ("board", "downloads", "build", "processor", "of it"), rows)

    targets = {"x86-64": {}, **caches} if rounds else {}
    made: dict[str, list[Build]] = {target: [] for target in targets}
    for turn in range(rounds + 1):  # the first is uncounted: it compiles what --warm found missing
        for target, cache in targets.items():
            done = build(target, next(models), cache)
            bundles[target] = done.bundle
            if turn:
                made[target].append(done)
    if rounds:
        further(made, rounds)

    rows = []
    for board in boards:
        program = Bundle.open(bundles[board]).directory() / "bin" / "edgerun"
        rows.append((board, f"{program.stat().st_size / 1e6:.2f} MB", glibc(program)))
    show("The board's edgerun, stripped (asked: at most 3 MB, glibc 2.28)", ("board", "size", "needs glibc"), rows)


def further(made: dict[str, list[Build]], rounds: int) -> None:
    """The second table."""
    rows = []
    for target, builds in made.items():
        ratios = [one.rest_s / native.wall_s for one, native in zip(builds, made["x86-64"], strict=True)]
        told = "" if target == "x86-64" else spread(ratios, "x", 2)
        rows.append(
            (
                target,
                spread([one.wall_s for one in builds]),
                spread([one.stages["prove"] for one in builds]),
                spread([one.cpu_s for one in builds]),
                told,
            )
        )
    load = f"load {os.getloadavg()[2]:.1f}"
    title = f"A further model, seconds ({load}): median (least to most) of {rounds}, in turn; without its proof at most 1.2x x86-64 is asked"
    show(title, ("target", "build", "of it the proof", "processor", "without proof, of x86-64's"), rows)


def networks(work: Path) -> Iterator[Path]:
    """MobileNetV2 as TorchScript, each time with other weights, so that no stage of a build is answered from a cache."""
    import torch

    from nets.mobilenet import mobilenet_v2

    net = mobilenet_v2().eval()
    *_, bias = net.parameters()
    torch.manual_seed(time.time_ns())
    for index in range(10**6):
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bias.add_(torch.randn_like(bias) * 0.01)
            torch.jit.save(torch.jit.trace(net, torch.zeros(1, 3, 224, 224)), str(work / f"net{index}.pt"))
        yield work / f"net{index}.pt"


def build(target: str, model: Path, cache: dict[str, str]) -> Build:
    """One command line to its end. Raises CalledProcessError if it fails."""
    output = model.with_suffix(f".{target}.edge")
    command = [
        str(EDGEBUILD),
        "--target",
        target,
        str(model),
        "--input",
        "float32[1,3,224,224]",
        "--json",
        "-o",
        str(output),
    ]
    if target != "x86-64":
        command += ["--verify", "emulator", "--backend", "onnxruntime"]
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, check=True, env={**os.environ, **cache}, stdout=subprocess.PIPE, text=True)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Build(wall_s=wall, cpu_s=cpu, stages=json.loads(done.stdout)["seconds"], bundle=output)


def spread(values: Sequence[float], unit: str = "", digits: int = 1) -> str:
    """Median with the least and the greatest: there are few."""
    middle, *ends = (f"{value:.{digits}f}{unit}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({' to '.join(ends)})"


def glibc(program: Path) -> str:
    """The highest version of the C library's symbols that a program asks for."""
    found = [re.fullmatch(r"GLIBC_([\d.]+)", need.version) for need in read_elf(program).version_needs]
    return max((match[1] for match in found if match), key=lambda version: [int(part) for part in version.split(".")])


if __name__ == "__main__":
    main(sys.argv[1:])
