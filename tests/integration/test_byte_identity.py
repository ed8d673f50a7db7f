"""Two builds of one model for a board, by other users in other surroundings, are one bundle to the last byte: float and INT8.

The second build has an empty cache of its own, so nothing of it is the first one's but the decisions, the runner and the downloads.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from emulated_tools import BOARD_MARKS
from offline_build import BOARD, Offline
from torch import nn

from edgebuild import Bundle

SHAPE = (1, 3, 16, 16)
INT8 = ("--int8", "--calib", "calib", "--effort", "fast", "--min-agreement", "0.5", "--min-sqnr", "10")
NOBODY = 65534

pytestmark = BOARD_MARKS


@pytest.fixture(scope="module")
def top() -> Iterator[Path]:
    """A folder that another user may enter, which pytest's own ones are not."""
    folder = Path(tempfile.mkdtemp(prefix="edgebuild-identity-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def first(top: Path) -> Offline:
    """The first build, INT8 and float, in this test's own surroundings."""
    made = Offline(top / "first")
    torch.manual_seed(11)
    body = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()]
    net = nn.Sequential(*body, nn.Flatten(), nn.Linear(32 * 64, 10)).eval()
    torch.jit.save(torch.jit.trace(net, torch.zeros(SHAPE)), made.work / "net.pt")
    (made.work / "calib").mkdir()
    generator = np.random.default_rng(5)
    for index in range(24):
        np.savez(made.work / "calib" / f"{index:02}.npz", input=generator.normal(size=SHAPE).astype(np.float32))
    made.build("--target", BOARD, "net.pt", *INT8, "--verify", "emulator", "--json")
    return made


def as_nobody() -> list[str] | None:
    """What starts a program as another user; None: this process can't. The interpreter may lie in a folder of root's."""
    probe = "import subprocess, sys, torch; subprocess.run([sys.executable, '-c', ''], check=True)"
    own = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    for command in (own, [*own, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]):
        try:
            done = subprocess.run([*command, sys.executable, "-c", probe], capture_output=True, check=False)
        except OSError:
            return None
        if done.returncode == 0:
            return command
    return None


SURROUNDINGS = {
    "LC_ALL": "tr_TR.UTF-8",
    "LANG": "de_DE.UTF-8",
    "TZ": "Pacific/Kiritimati",
    "PYTHONHASHSEED": "4711",
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "40",
    "PATH": f"{os.environ['PATH']}:/a/folder/of/this/test",
}


@pytest.mark.parametrize("int8", [True, False], ids=["int8", "float"])
def test_another_folder_time_locale_umask_and_user_give_the_same_bytes(top: Path, first: Offline, int8: bool) -> None:
    """The user is another one where this process can start programs as one (setpriv), as root can; all else differs anywhere."""
    prefix = as_nobody()
    other_user = prefix is not None
    here = top / f"ein anderer Ort ü {int8}"
    other = Offline(here, model=first.work / "net.pt")
    os.utime(other.work / "net.pt", (978_307_200, 978_307_200))
    shutil.copytree(first.work / "calib", other.work / "calib")
    shutil.copyfile(first.work / f"net.{BOARD}.decisions.json", other.work / "decided.json")
    shutil.copytree(first.cache, here / "theirs", symlinks=True)  # for the runner and the downloads
    (here / "home").mkdir()
    # One thread here, where the first build had as many as there are.
    other.environment = {
        **SURROUNDINGS,
        "HOME": str(here / "home"),
        "EDGEBUILD_TEST_CACHE": str(here / "theirs"),
        "TMPDIR": str(here / "home"),
    }
    if other_user:
        for path in (here, *here.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    line = [
        "--target",
        BOARD,
        "net.pt",
        *(("--calib", "calib", "--decisions", "decided.json") if int8 else ()),
        *(("--int8",) if int8 else ()),
    ]
    other.build(*line, "--verify", "none", "--json", prefix=["sh", "-c", 'umask 077; exec "$@"', "sh", *(prefix or [])])
    if int8:
        expected = first.work / f"net.{BOARD}.edge"
    else:
        expected = first.work / "float.edge"
        if not expected.exists():
            first.build("--target", BOARD, "net.pt", "--verify", "none", "--json", "-o", str(expected))
    made = other.work / f"net.{BOARD}.edge"
    assert made.stat().st_uid == (NOBODY if other_user else os.getuid())
    differing = differences(made, expected)
    if (
        not has_fixed_addresses()
    ):  # seccomp of some containers: the engine's own format then has the same content in another order
        differing = [name for name in differing if not name.endswith(".ort")]
    assert differing == []
    assert made.read_bytes() == expected.read_bytes() or not has_fixed_addresses()


def has_fixed_addresses() -> bool:
    """Whether the system lets a program switch off the randomisation of its addresses (edgebuild.backends.ort_format)."""
    code = "import ctypes, sys; sys.exit(ctypes.CDLL(None).personality(0x0040000) == -1)"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def differences(one: Path, other: Path) -> list[str]:
    """Parts of two bundles' manifests that differ: files by name, else keys."""
    manifests = [json.loads(Bundle.open(path).manifest.to_bytes()) for path in (one, other)]
    files = [manifest.pop("files") for manifest in manifests]
    found = [name for name in sorted({*files[0], *files[1]}) if files[0].get(name) != files[1].get(name)]
    return found + [
        f"{key}: {manifests[0][key]} and {manifests[1][key]}"
        for key in manifests[0]
        if manifests[0][key] != manifests[1][key]
    ]
