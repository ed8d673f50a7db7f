"""The command line, whose downloads and compilations come from another cache, that of whoever runs the tests; each is logged.

``EDGEBUILD_TEST_CACHE`` is that cache: what it lacks is downloaded or compiled into it, as a build does. ``EDGEBUILD_TEST_LOG`` gets a line
for each. ``EDGEBUILD_TEST_RUNNER`` is given as any board's runner; ``EDGEBUILD_TEST_STEP_S`` is the time limit of one emulated step.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from edgebuild.cache import Cache
from edgebuild.cli.main import main
from edgebuild.devices import proof
from edgebuild.native import debian, engines, runner

THEIRS = Cache(Path(os.environ["EDGEBUILD_TEST_CACHE"]))
_compile, _copy_from_wheel, _download = runner.compile_native, engines._copy_from_wheel, debian._download


def _log(what: str) -> None:
    with Path(os.environ["EDGEBUILD_TEST_LOG"]).open("a", encoding="utf-8") as log:
        log.write(what + "\n")


def compile_runner(target: Any, sources: Any, cache: Cache, folder: Path, progress: Any) -> None:
    _log(f"compile {target.toolchain.triple}")
    runner.compile_native = _compile
    program = os.environ.get("EDGEBUILD_TEST_RUNNER") or runner.build_runner(target, THEIRS, progress)
    runner.compile_native = compile_runner
    shutil.copy(program, folder / "edgerun")


def copy_from_wheel(pin: engines.EnginePin, folder: Path) -> None:
    _log(f"download {pin.distribution} for {pin.platform}")
    engines._copy_from_wheel = _copy_from_wheel
    files = engines.fetch_engine(pin, THEIRS)
    engines._copy_from_wheel = copy_from_wheel
    for path in (files.library, *files.licences.values()):
        shutil.copyfile(path, folder / path.name)


def download(package: debian.DebianPackage, deb: Path, progress: Any) -> None:
    _log(f"download {package.name} for {package.arch}")
    kept = THEIRS.get_or_make(
        *debian._download_entry(package), lambda folder: _download(package, folder / deb.name, progress)
    )
    shutil.copyfile(next(kept.glob("*.deb")), deb)


runner.compile_native = compile_runner
engines._copy_from_wheel = copy_from_wheel
if "EDGEBUILD_DEBIAN_MIRROR" not in os.environ:
    debian._download = download
proof._EMULATED_STEP_S = float(os.environ.get("EDGEBUILD_TEST_STEP_S", proof._EMULATED_STEP_S))
sys.exit(main())
