"""`edgebuild run`, `verify` and `tune` on archives, which the bundle's own runner sees as folders of the cache."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "runtime"))

import runtime_bundles as bundles

from edgebuild.bundle.manifest import Requirements
from edgebuild.bundle.writer import BundleFile

_BUILT = Path(__file__).parents[2] / "build/dev/cpp/apps/edgerun/edgerun"
EDGERUN = Path(os.environ.get("EDGEBUILD_TEST_EDGERUN", _BUILT))

pytestmark = pytest.mark.skipif(not EDGERUN.exists(), reason=f"{EDGERUN} is not built")


def archive(folder: Path, *variants: tuple[str, Requirements]) -> Path:
    runner = BundleFile(path="bin/edgerun", source=EDGERUN, executable=True)
    return bundles.affine(folder / "m.edge", variants=variants, directory=False, files=[runner])


def edgebuild(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgebuild.cli.main", *arguments],
        cwd=folder,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "XDG_STATE_HOME": str(folder / "state")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_messages_name_the_bundle_as_the_user_did(tmp_path: Path) -> None:
    archive(tmp_path, ("never", Requirements(glibc="9.9")))
    np.savez(tmp_path / "in.npz", **bundles.affine_inputs(2))
    done = edgebuild(tmp_path, "run", "m.edge", "--inputs", "in.npz", "--outputs", "out.npz")
    assert done.returncode == 5
    _, _, message = done.stderr.splitlines()[-1].partition("edgerun: error: ")
    assert message.startswith("m.edge: no variant can run here: never: ")
    assert "9.9" in message
    done = edgebuild(tmp_path, "run", "m.edge", "--inputs", "in.npz", "--outputs", "out.npz", "--json")
    assert json.loads(done.stdout)["error"]["message"] == message
    assert str(tmp_path / "cache") not in done.stdout + done.stderr


def test_why_a_variant_was_skipped_is_said_once(tmp_path: Path) -> None:
    archive(tmp_path, ("never", Requirements(cpu_features=("antigravity",))), ("float32", Requirements()))
    done = edgebuild(tmp_path, "verify", "m.edge", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["variants"][0]["reason"] == "this CPU lacks antigravity"


def test_tune_runs_the_bundles_own_runner_and_inspect_says_what_holds(tmp_path: Path) -> None:
    archive(tmp_path, ("one", Requirements()), ("other", Requirements()))
    before = json.loads(edgebuild(tmp_path, "inspect", "m.edge", "--json").stdout)["order"]
    assert (before["variants"], before["tuned"]) == (["one", "other"], False)
    done = edgebuild(tmp_path, "tune", "m.edge", "--seconds", "0", "--json")
    assert done.returncode == 0, done.stderr
    order = json.loads(done.stdout)["tunings"][0]["order"]
    assert sorted(order) == ["one", "other"]
    after = json.loads(edgebuild(tmp_path, "inspect", "m.edge", "--json").stdout)["order"]
    assert (after["variants"], after["tuned"]) == (order, True)
    text = edgebuild(tmp_path, "inspect", "m.edge").stdout
    assert "as tuned on this machine" in text
    off = json.loads(edgebuild(tmp_path, "inspect", "m.edge", "--no-tuning", "--json").stdout)["order"]
    assert off == {"variants": ["one", "other"], "tuned": False, "why": "the target's: tuning is switched off"}
