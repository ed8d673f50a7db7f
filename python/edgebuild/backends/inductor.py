"""AOTInductor: compiles a torch.export program into a library of kernels for one kind of CPU, in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgebuild.installed_torch import find_torch
from edgebuild.machine import machine_arch, this_machine
from edgebuild.native.elf import read_elf
from edgebuild.native.elf_check import newest_versions
from edgebuild.native.elf_strip import copy_stripped
from edgebuild.targets import TargetSpec

_LIMIT_S = 1800.0
_LEAST_GLIBCXX = (3, 4, 29)
"""What is compiled needs this of libstdc++ (read from its symbols; GCC 12 makes it 3.4.30), and boards may be older."""
_LEVELS = {
    "x86-64-v4": ("avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"),
    "x86-64-v3": ("abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"),
}
"""Features by the x86-64 psABI's micro-architecture levels, beyond the level before."""


@dataclass(frozen=True, kw_only=True)
class CpuKind:
    """What is compiled for.

    Args:
        march: As compilers name it; "native": this very CPU.
        width: Of its vectors in bits; 0: the widest.
        features: That a CPU must have for it.
    """

    march: str
    width: int
    features: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CompiledProgram:
    """A library of kernels with the weights.

    Args:
        path: The library, stripped.
        cpu_features: What a CPU must have for it.
        glibc: The oldest C library that it runs on.
    """

    path: Path
    cpu_features: tuple[str, ...]
    glibc: str


def cpu_kind(target: TargetSpec) -> CpuKind | None:
    """The kind of CPU that this machine can compile for on behalf of a target; None: it can't.

    Of a portable target, the highest level of its architecture that this machine itself has, since what is compiled is run here.
    """
    here = set(this_machine().features)
    if target.soc.arch != machine_arch() or not set(target.soc.features) <= here:
        return None
    if not target.portable:
        return CpuKind(march="native", width=0, features=())
    if _number(target.os.glibcxx) < _LEAST_GLIBCXX:
        return None
    lower: tuple[str, ...] = _LEVELS["x86-64-v3"]
    if target.soc.arch != "x86_64" or not set(lower) <= here:
        return None
    if set(_LEVELS["x86-64-v4"]) <= here:
        return CpuKind(march="x86-64-v4", width=512, features=(*lower, *_LEVELS["x86-64-v4"]))
    return CpuKind(march="x86-64-v3", width=256, features=lower)


def compile_program(
    program: Path,
    samples: Sequence[Path],
    tolerances: Sequence[tuple[float, float]],
    target: TargetSpec,
    cxx: Path,
    path: Path,
) -> CompiledProgram | str:
    """Compiles, runs the samples, and holds the results to the original's.

    Args:
        program: As ``export.program`` wrote it.
        samples: Files of inputs "in.I" and outputs "out.I".
        tolerances: (atol, rtol) of each output.
        target: What for.
        cxx: A C++ compiler whose library is libstdc++.
        path: Where the library is written.

    Returns:
        The library, or why there is none.
    """
    kind = cpu_kind(target)
    if kind is None:
        return f"this machine can't compile for {target.name}"
    with tempfile.TemporaryDirectory(prefix="edgebuild-compile-") as scratch:
        folder = Path(scratch)
        job = {
            "program": str(program),
            "samples": [str(sample) for sample in samples],
            "tolerances": [list(pair) for pair in tolerances],
            "march": kind.march,
            "width": kind.width,
        }
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        answer = _run(folder, cxx)
        if isinstance(answer, str):
            return answer
        copy_stripped(Path(answer["library"]), path)
    features, unknown = _features(answer["flags"])
    if unknown:
        return f"it was compiled with {unknown}, and no CPU feature of that name is known"
    elf = read_elf(path)
    newest = newest_versions(elf)
    floor = target.os.glibcxx
    if target.portable and _number(newest.get("GLIBCXX", "0")) > _number(floor):
        return f"{cxx.name} of this machine needs GLIBCXX_{newest['GLIBCXX']}, {target.name} promises {floor}"
    return CompiledProgram(
        path=path, cpu_features=tuple(sorted({*kind.features, *features})), glibc=newest.get("GLIBC", target.os.glibc)
    )


def _run(folder: Path, cxx: Path) -> "dict[str, str] | str":
    """The worker's answer, or why it has none."""
    torch = find_torch()
    assert torch is not None  # or there would be no LibTorch variant
    compiler = folder / "g++"
    # The compiler under a name of ours: without paths of this machine in what it makes, and with no library that is not used.
    compiler.write_text(
        f"#!{sys.executable} -IS\nimport os, sys\n"
        "words = [w for w in sys.argv[1:] if not w.startswith(('-Wl,-rpath', '-g'))]\n"
        f"maps = ['-ffile-prefix-map={folder}=build', '-ffile-prefix-map={torch.root}=torch']\n"
        "link = ['-Wl,--as-needed'] if '-shared' in words else []\n"
        f"os.execv({str(cxx)!r}, [{str(cxx)!r}, *link, *maps, *words])\n",
        encoding="utf-8",
    )
    compiler.chmod(0o755)
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH") if name in os.environ}
    environment |= {
        "CXX": str(compiler),
        "TMPDIR": str(folder),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(filter(None, sys.path))),
        "LC_ALL": "C",
    }
    command = [sys.executable, "-P", "-m", "edgebuild.backends.inductor_worker", str(folder / "job.json")]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"AOTInductor took longer than {_LIMIT_S:.0f} s"
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return f"AOTInductor can't compile it: {said[-1][:200] if said else f'exit {done.returncode}'}"
    answer: dict[str, str] = json.loads(lines[-1])
    if "refused" in answer:
        return answer["refused"]
    kept = folder / "kept.so"
    shutil.copyfile(answer["library"], kept)
    return {**answer, "library": str(kept)}


def _features(flags: str) -> tuple[set[str], str]:
    """CPU features of a compiler's -m flags by the kernel's names, and the first flag that has none."""
    known = this_machine().features
    found: set[str] = set()
    for flag in flags.split():
        name = flag.removeprefix("-m").replace("-", "_")
        names = [name, name.replace("avx512", "avx512_", 1)]
        feature = next((candidate for candidate in names if candidate in known), None)
        if feature is None:
            return found, flag
        found.add(feature)
    return found, ""


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def identity(target: TargetSpec) -> Mapping[str, object]:
    """What a compiled program depends on beside the program."""
    kind = cpu_kind(target)
    return {"kind": None if kind is None else vars(kind), "here": list(this_machine().features)}
