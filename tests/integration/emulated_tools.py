"""What tests of foreign boards share: the command line as a user types it, with the board's own runner."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgebuild import Bundle
from edgebuild.cache import Cache
from edgebuild.devices.emulator import find_emulator
from edgebuild.machine import machine_arch
from edgebuild.targets import load_target

BOARD_MARKS = [
    pytest.mark.skipif(
        machine_arch() != "x86_64", reason="the board is no foreign one here: this is no x86-64 machine"
    ),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.slow,
    pytest.mark.timeout(2400),  # the first test may compile the board's runner
]


def edgebuild(folder: Path, *arguments: object, code: int = 0) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "edgebuild.cli.main", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == code, f"exit {done.returncode}, expected {code}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def starts_under_debian_11(bundle: Path, folder: Path) -> None:
    """Unpacks a bundle as a board's user does and starts its runner on nothing but Debian 11's libraries, as the board's CPU."""
    opened = Bundle.open(bundle)
    subprocess.run(["tar", "xf", bundle], cwd=folder, check=True)
    board = load_target(opened.manifest.target.name)
    emulator = find_emulator(board.soc.arch, board.soc.cpu, "2.31", Cache.default(), fetch=True)
    assert emulator.system == "debian-11 (glibc 2.31)"
    top = folder / opened.manifest.top
    done = subprocess.run(
        emulator.command([str(top / "bin" / "edgerun"), "inspect", str(top), "--json"]),
        env=emulator.environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["id"] == opened.id
