"""Preprocessing in the runner: the same bits as in calibration, by Python, edgerun and both of a bundle's readers."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runtime_bundles as bundles

from edgebuild.cache import Cache
from edgebuild.data.calibration import open_calibration
from edgebuild.data.preprocess import Preprocess, parse_preprocess
from edgebuild.errors import SignatureError, UsageError
from edgebuild.model.signature import Signature
from edgebuild.runtime import Runner

_BUILT = Path(__file__).parents[3] / "build/dev/cpp/apps/edgerun/edgerun"
EDGERUN = Path(os.environ.get("EDGEBUILD_TEST_EDGERUN", _BUILT))
needs_edgerun = pytest.mark.skipif(not EDGERUN.exists(), reason=f"{EDGERUN} is not built")

SIGNATURE = Signature(inputs=(bundles.spec("x", "float32", (1, 3, 16, 12)),), outputs=())
SPEC = parse_preprocess(
    "resize=18,crop=16x12,interpolation=bicubic,mean=0.485;0.456;0.406,std=0.229;0.224;0.225"
).resolved(SIGNATURE)


def bundle(path: Path, spec: Preprocess = SPEC, shape: Any = (1, 3, 16, 12)) -> Path:
    return bundles.identity(path, spec.dtype or "", shape, preprocessing={"inputs": {"x": spec.to_json()}})


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("preprocess") / "b")


def picture(seed: int = 0, height: int = 37, width: int = 29) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_calibration_and_runner_make_the_same_bits(net: Path, tmp_path: Path) -> None:
    runner = Runner(net)
    photos = [picture(i, 20 + 7 * i, 60 - 5 * i) for i in range(5)]
    with open_calibration(photos, SIGNATURE, preprocess=SPEC, cache=Cache(tmp_path)) as data:
        for photo, batch in zip(photos, data.batches(), strict=True):
            made = runner.preprocess("x", photo)
            assert made.tobytes() == batch["x"].tobytes()
            assert runner.run({"x": made})["y"].tobytes() == made.tobytes()


def test_the_manifest_keeps_every_field(tmp_path: Path) -> None:
    texts = [
        "channels=bgr,layout=nhwc,resize=5x7,interpolation=bicubic,scale=1,mean=3;2;1,std=0.1;1;7",
        "channels=gray,resize=9,crop=4,mean=0.1,std=0.3",
        "scale=0.0173",
    ]
    for index, text in enumerate(texts):
        layout = "nhwc" in text
        shape = (1, None, None, 3) if layout else (1, None, None, None)
        spec = parse_preprocess(text).resolved(Signature(inputs=(bundles.spec("x", "float32", shape),), outputs=()))
        runner = Runner(bundle(tmp_path / str(index), spec, shape))
        assert runner.preprocess("x", picture()).tobytes() == spec.apply(picture()).tobytes()
        stored = json.loads((tmp_path / str(index) / "manifest.json").read_text())["preprocessing"]["inputs"]["x"]
        assert Preprocess.from_json("x", stored) == spec


def test_stacks_views_and_grays_are_images_too(net: Path) -> None:
    runner = Runner(net)
    stack = np.stack([picture(i) for i in range(3)])
    made = runner.preprocess("x", stack)
    assert made.shape == (3, 3, 16, 12)
    assert made[1:2].tobytes() == runner.preprocess("x", stack[1]).tobytes()
    flipped = stack[0][:, ::-1]
    assert runner.preprocess("x", flipped).tobytes() == runner.preprocess("x", flipped.copy()).tobytes()
    gray = picture()[..., 0]
    assert runner.preprocess("x", gray).tobytes() == runner.preprocess("x", np.dstack([gray] * 3)).tobytes()


def test_what_is_no_image_is_refused_by_name(net: Path, tmp_path: Path) -> None:
    runner = Runner(net)
    with pytest.raises(SignatureError, match="expected decoded images as uint8, got float64"):
        runner.preprocess("x", np.zeros((4, 4, 3)))
    with pytest.raises(SignatureError, match="input 'x': preprocessing: expected 1, 3 or 4 channels, got 2"):
        runner.preprocess("x", np.zeros((4, 4, 2), np.uint8))
    with pytest.raises(UsageError, match="no preprocessing for 'y'; it has it for 'x'"):
        runner.preprocess("y", picture())
    with pytest.raises(UsageError, match=r"no preprocessing for 'x'$"):
        Runner(bundles.identity(tmp_path / "plain", "float32", (1, 3, 2, 2))).preprocess("x", picture())
    runner.close()
    with pytest.raises(UsageError, match="closed"):
        runner.preprocess("x", picture())


def edgerun(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(EDGERUN), "run", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@needs_edgerun
def test_edgerun_makes_the_same_bits(net: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "photo.npy", picture())
    np.savez(tmp_path / "photo.npz", x=picture())
    want = Runner(net).preprocess("x", picture())
    for given in (("--inputs", tmp_path / "photo.npz"), ("--input", f"x={tmp_path / 'photo.npy'}")):
        done = edgerun(net, "--preprocess", *given, "--outputs", tmp_path / "out.npz")
        assert done.returncode == 0, done.stderr
        assert np.load(tmp_path / "out.npz")["y"].tobytes() == want.tobytes()


@needs_edgerun
def test_edgerun_runs_each_image_of_a_stack(net: Path, tmp_path: Path) -> None:
    stack = np.stack([picture(i) for i in range(3)])
    np.save(tmp_path / "stack.npy", stack)
    done = edgerun(
        net, "--preprocess", "--each", "--input", f"x={tmp_path / 'stack.npy'}", "--outputs", tmp_path / "out.npz"
    )
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "out.npz")["y"].tobytes() == Runner(net).preprocess("x", stack).tobytes()


@needs_edgerun
def test_edgerun_refuses_what_it_can_not_preprocess(net: Path, tmp_path: Path) -> None:
    plain = bundles.identity(tmp_path / "plain", "float32", (1, 3, 16, 12))
    np.save(tmp_path / "photo.npy", picture())
    np.save(tmp_path / "float.npy", np.zeros((1, 3, 16, 12), np.float32))
    (tmp_path / "photo.bin").write_bytes(picture().tobytes())
    out = ("--outputs", tmp_path / "out.npz")
    done = edgerun(plain, "--preprocess", "--input", f"x={tmp_path / 'photo.npy'}", *out)
    assert (done.returncode, "does not say how" in done.stderr) == (2, True), done.stderr
    done = edgerun(net, "--preprocess", "--input", f"x={tmp_path / 'float.npy'}", *out)
    assert (done.returncode, "'x'" in done.stderr) == (4, True), done.stderr
    done = edgerun(net, "--preprocess", "--input", f"x={tmp_path / 'photo.bin'}", *out)
    assert (done.returncode, "give a .npy" in done.stderr) == (2, True), done.stderr
    done = edgerun(net, "--input", f"x={tmp_path / 'photo.npy'}", *out)  # not asked for: an array of the wrong dtype
    assert done.returncode == 4, done.stderr
