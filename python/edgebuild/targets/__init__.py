"""Targets: what edgebuild knows about a board, read from one TOML file each (docs/targets.md).

A board is data. The files of this project lie in ``targets/``; a user adds a board by writing a file and passing its
path. Every key is checked: an unknown one, a wrong type, unit or choice is an error that names the file and the key.
"""

import re
import shlex
from difflib import get_close_matches
from pathlib import Path

from edgebuild.errors import IncompatibleError, UsageError
from edgebuild.targets.file import load_target_file, read_toml
from edgebuild.targets.spec import (
    Accelerator,
    BackendSpec,
    Limits,
    OperatingSystem,
    Precision,
    QuantizationScheme,
    Soc,
    TargetSpec,
    Toolchain,
)

__all__ = [
    "Accelerator",
    "BackendSpec",
    "Limits",
    "OperatingSystem",
    "Precision",
    "QuantizationScheme",
    "Soc",
    "TargetSpec",
    "Toolchain",
    "list_targets",
    "load_target",
    "load_target_file",
    "target_argument",
    "targets_folder",
]


def targets_folder() -> Path:
    """The folder with the project's own target files, in the source tree or in the installed package.

    Raises:
        UsageError: Neither is there: the installation is broken.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_data" / "targets", package.parent.parent / "targets"):
        if folder.is_dir():
            return folder
    msg = f"no target files beside {package.name}: the installation is incomplete"
    raise UsageError(msg, hint="install edgebuild again")


def list_targets() -> tuple[TargetSpec, ...]:
    """All targets of the project, by name; ``host`` as this machine fills it in, left out where it can't be."""
    targets = []
    for file in sorted(targets_folder().glob("*.toml")):
        try:
            targets.append(load_target_file(file))
        except IncompatibleError:
            continue
    return tuple(targets)


def load_target(name: str) -> TargetSpec:
    """The target of that name or alias, or the one in that file.

    Args:
        name: ``raspberrypi4``, ``jetson``, or a path (with a ``/`` or the suffix ``.toml``).

    Raises:
        UsageError: There is none (with the nearest name), or its file is wrong.
        IncompatibleError: ``host`` on a machine of an architecture that has no base.
    """
    if "/" in name or name.endswith(".toml"):
        return load_target_file(Path(name))
    folder = targets_folder()
    names: dict[str, Path] = {file.stem: file for file in sorted(folder.glob("*.toml"))}
    if name in names:
        return load_target_file(names[name])
    own = list(names)
    for file in list(names.values()):
        for alias in read_toml(file).get("aliases", ()):
            names.setdefault(alias, file)
    if name in names:
        return load_target_file(names[name])
    # A user types "Pi4" or "rpi-4" as readily as the name; compare without case and punctuation too.
    plain = {_plain(known): known for known in (*names, *own)}  # a name goes before an alias that reads the same
    near = (
        [plain[_plain(name)]]
        if _plain(name) in plain
        else get_close_matches(name.lower(), list(names), n=1, cutoff=0.5)
    )
    near = near or [plain[p] for p in get_close_matches(_plain(name), list(plain), n=1)]
    hint = f"did you mean {near[0]}? " if near else ""
    msg = f"unknown target {name!r}"
    raise UsageError(msg, hint=f"{hint}`edgebuild targets` lists them; a file of your own is passed by its path")


def target_argument(spec: TargetSpec) -> str:
    """What a user types after ``--target`` to get this target, quoted for a shell: its name, or the path of a file of the user's own."""
    ours = targets_folder() / f"{spec.name}.toml"
    return spec.name if spec.source.resolve() == ours.resolve() else shlex.quote(str(spec.source))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
