"""Runners that a wheel carries ready-made, so that its users need no compiler (``make wheel-prebuilt``)."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from edgebuild.cache import content_key, file_sha256
from edgebuild.errors import ToolError
from edgebuild.native.sources import NativeSources
from edgebuild.native.toolchain import runner_glibc
from edgebuild.targets import TargetSpec

_INDEX = "runners.json"


def runner_settings(target: TargetSpec) -> dict[str, str]:
    """What of a target a compiled runner hangs on."""
    return {
        "triple": target.toolchain.triple,
        "glibc": runner_glibc(target),
        "cpu_flags": " ".join(target.toolchain.cpu_flags),
        "sysroot": target.toolchain.sysroot or "",
    }


def find_prebuilt(sources: NativeSources, digest: str, target: TargetSpec) -> Path | None:
    """The wheel's runner for a target; None: it has none that was compiled from these sources with these settings.

    Args:
        sources: Whose folder may lie in a wheel.
        digest: Of those sources.
        target: Only a target that takes zig is served: another compiler was chosen for a reason.

    Raises:
        ToolError: It is there, and damaged.
    """
    if sources.prebuilt is None or target.toolchain.family != "zig" or target.toolchain.file is not None:
        return None
    try:
        index = json.loads((sources.prebuilt / _INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for entry in index["runners"]:
        if index["sources"] == digest and entry["settings"] == runner_settings(target):
            program = sources.prebuilt / str(entry["folder"]) / "edgerun"
            if not program.is_file() or file_sha256(program) != entry["sha256"]:
                msg = f"the runner for {target.toolchain.triple} that came with edgebuild is damaged or gone: {program}"
                raise ToolError(msg, hint="install edgebuild again")
            return program
    return None


def write_prebuilt(
    folder: Path, digest: str, runners: Iterable[tuple[TargetSpec, Path]], licence: Path | None
) -> list[str]:
    """Fills a folder with runners for a wheel.

    Args:
        folder: Replaced if it is there.
        digest: Of the sources that they were compiled from.
        runners: Compiled programs by target; targets with equal settings share one.
        licence: Of the C++ library inside them.

    Returns:
        What was written, a line each.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    entries: dict[str, dict[str, object]] = {}
    for target, program in runners:
        settings = runner_settings(target)
        name = f"{settings['triple']}-{content_key(settings)[:12]}"
        if name not in entries:
            (folder / name).mkdir()
            shutil.copyfile(program, folder / name / "edgerun")
            (folder / name / "edgerun").chmod(0o755)
            entries[name] = {"folder": name, "settings": settings, "sha256": file_sha256(program)}
    if licence is not None:
        shutil.copyfile(licence, folder / "libcxx.txt")
    index = {"sources": digest, "runners": list(entries.values())}
    (folder / _INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return [f"{name}: {(folder / name / 'edgerun').stat().st_size} bytes" for name in entries]
