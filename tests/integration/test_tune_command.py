"""`edgerun tune`, and what runners then do with what it kept."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "runtime"))

import runtime_bundles as bundles

from edgebuild import Runner
from edgebuild.bundle.manifest import Requirements
from edgebuild.bundle.reader import GoldenArrays
from edgebuild.bundle.writer import BundleFile
from edgebuild.model.signature import Signature

_BUILT = Path(__file__).parents[2] / "build/dev/cpp/apps/edgerun/edgerun"
EDGERUN = Path(os.environ.get("EDGEBUILD_TEST_EDGERUN", _BUILT))

pytestmark = pytest.mark.skipif(not EDGERUN.exists(), reason=f"{EDGERUN} is not built")

SIZE = 160
STEPS = 12


def edgerun(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EDGERUN, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def product(steps: int, scale: float = 1.0) -> bytes:
    """``y = x @ p`` with a cyclic permutation p of order 3, 3 * ``steps`` + 1 times over: always the same result."""
    names = ["x", *(f"t{i}" for i in range(3 * steps)), "y"]
    nodes = [helper.make_node("MatMul", [a, "p"], [b]) for a, b in pairwise(names)]
    permutation = np.zeros((SIZE, SIZE), np.float32)
    for first in range(0, SIZE - 2, 3):
        for offset in range(3):
            permutation[first + offset, first + (offset + 1) % 3] = scale
    for last in range(SIZE - SIZE % 3, SIZE):
        permutation[last, last] = scale
    info = [bundles.tensor_info(name, "float32", [SIZE, SIZE]) for name in ("x", "y")]
    return bundles.make_model(nodes, info[:1], info[1:], [onnx.numpy_helper.from_array(permutation, "p")])


def make(path: Path, models: Sequence[tuple[str, bytes]], requires: dict[str, Requirements] | None = None) -> Path:
    """A bundle whose variants, in this order, are different models of the same function."""
    signature = Signature(
        inputs=(bundles.spec("x", "float32", [SIZE, SIZE]),),
        outputs=(bundles.spec("y", "float32", [SIZE, SIZE]),),
        output_structure={"tensor": 0},
    )
    x = np.random.default_rng(5).standard_normal((SIZE, SIZE), dtype=np.float32)
    order = [*range(SIZE)]
    for first in range(0, SIZE - 2, 3):
        order[first : first + 3] = [first + 2, first, first + 1]
    return bundles.make_bundle(
        path,
        models[0][1],
        signature,
        goldens=[GoldenArrays(inputs={"x": x}, outputs={"y": x[:, order]})],
        variants=[(name, (requires or {}).get(name, Requirements())) for name, _ in models],
        models={name: f"model/{name}.onnx" for name, _ in models},
        files=[BundleFile(path=f"model/{name}.onnx", source=model) for name, model in models],
    )


@pytest.fixture(scope="module")
def slow_first(module_folder: Callable[[str], Path]) -> Path:
    return make(module_folder("slow") / "b", [("slow", product(STEPS)), ("fast", product(0))])


def tuned(bundle: Path, state: Path, *arguments: object, code: int = 0) -> dict[str, Any]:
    done = edgerun("tune", bundle, "--state-dir", state, "--seconds", 0, "--json", *arguments)
    assert done.returncode == code, done.stderr
    data: dict[str, Any] = json.loads(done.stdout)
    assert (data["schema"], data["exit_code"]) == ("edgebuild.tune/1", code)
    return data


def test_the_faster_variant_is_tried_first_by_program_and_python_and_only_where_it_was_tuned(
    slow_first: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state" / "deep"
    with Runner(slow_first, state_dir=state) as runner:
        assert runner.variant == "slow"
        assert runner.variant_order.startswith("the target's: not tuned on this machine")
    data = tuned(slow_first, state)
    (tuning,) = data["tunings"]
    assert (tuning["order"], tuning["changed"], tuning["threads"]) == (["fast", "slow"], True, 0)
    slow, fast = tuning["variants"]
    assert slow["median_s"] > fast["median_s"] > 0
    assert fast["p25_s"] <= fast["median_s"] <= fast["p75_s"]
    assert fast["rounds"] >= 7
    assert slow["speed"] == {"ratio": 1.0, "low": 1.0, "high": 1.0}
    assert 1 < fast["speed"]["low"] <= fast["speed"]["ratio"] <= fast["speed"]["high"]
    assert data["cpu"]["load_before"] >= 0
    assert Path(tuning["file"]) == state / "tuning-default.json"
    assert [p.name for p in state.iterdir()] == ["tuning-default.json"]

    np.savez(tmp_path / "in.npz", x=np.eye(SIZE, dtype=np.float32))
    run = ["run", slow_first, "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "o.npz", "--json"]
    for extra, variant, is_tuned in (
        ([], "fast", True),
        (["--no-tuning"], "slow", False),
        (["--option", "intra_op_threads=2"], "slow", False),
    ):
        answer = json.loads(edgerun(*run, "--state-dir", state, *extra).stdout)
        assert (answer["variant"], answer["order"]["tuned"]) == (variant, is_tuned), answer["order"]
        assert answer["passed_over"] == []
    with Runner(slow_first, state_dir=state) as runner:
        assert runner.variant == "fast"
        assert (
            runner.variant_order
            == f"as tuned on this machine for the variants' own threads ({state}/tuning-default.json)"
        )
    with Runner(slow_first, state_dir=state, tuning=False) as runner:
        assert runner.variant == "slow"
    with Runner(slow_first, state_dir=state, variant="slow") as runner:
        assert runner.variant == "slow"


def test_each_thread_count_has_a_tuning_of_its_own(slow_first: Path, tmp_path: Path) -> None:
    data = tuned(slow_first, tmp_path, "--threads", "1,2")
    assert [t["threads"] for t in data["tunings"]] == [1, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tuning-1.json", "tuning-2.json"]
    for options, variant in (({}, "slow"), ({"intra_op_threads": 1}, "fast"), ({"intra_op_threads": 3}, "slow")):
        with Runner(slow_first, state_dir=tmp_path, options=options) as runner:
            assert runner.variant == variant


def test_without_a_folder_given_it_is_kept_in_the_users_state_by_the_bundles_id(
    slow_first: Path, tmp_path: Path
) -> None:
    environment = {"XDG_STATE_HOME": str(tmp_path)}
    done = edgerun("tune", slow_first, "--seconds", 0, environment=environment)
    assert done.returncode == 0, done.stderr
    bundle_id = (slow_first / "manifest.sha256").read_text().strip()
    file = tmp_path / "edgebuild" / bundle_id / "tuning-default.json"
    assert f"kept in {file}" in done.stdout
    assert "order: fast, slow (not the target's)" in done.stdout
    content = json.loads(file.read_text())
    assert (content["bundle_id"], [v["name"] for v in content["variants"]]) == (bundle_id, ["fast", "slow"])
    for command in (["inspect"], ["verify"]):
        text = edgerun(*command, slow_first, environment=environment).stdout
        assert "fast, slow\n  as tuned on this machine" in text
        data = json.loads(edgerun(*command, slow_first, "--json", environment=environment).stdout)
        assert data["order"] == {
            "variants": ["fast", "slow"],
            "tuned": True,
            "why": f"as tuned on this machine for the variants' own threads ({file})",
        }
    nowhere = edgerun("tune", slow_first, environment={"XDG_STATE_HOME": "", "HOME": ""})
    assert nowhere.returncode == 2
    assert "give --state-dir DIR" in nowhere.stderr


@pytest.mark.parametrize("damage", ["cut", "flipped", "of another CPU", "of another bundle", "huge", "a link"])
def test_a_file_that_cannot_be_used_is_said_and_stops_nothing(slow_first: Path, tmp_path: Path, damage: str) -> None:
    tuned(slow_first, tmp_path)
    file = tmp_path / "tuning-default.json"
    text = file.read_text()
    other = make(tmp_path / "other", [("slow", product(1)), ("fast", product(0))])
    bundle = other if damage == "of another bundle" else slow_first
    if damage == "cut":
        file.write_text(text[:-9])
    elif damage == "flipped":
        file.write_text(text.replace("fast", "fest"))
    elif damage == "of another CPU":
        body = text[: text.rindex(',"sha256"')].replace('"cpu_model":"', '"cpu_model":"Not ')
        digest = subprocess.run(["sha256sum"], input=body, capture_output=True, text=True, check=True).stdout[:64]
        file.write_text(f'{body},"sha256":"{digest}"}}\n')
    elif damage == "huge":
        file.write_text(text + " " * 70_000)
    elif damage == "a link":
        file.rename(tmp_path / "real")
        file.symlink_to("real")
    reason = {
        "cut": "it is damaged",
        "flipped": "it is damaged: its hash is another",
        "of another CPU": "it was measured on the CPU 'Not ",
        "of another bundle": "it was measured with the bundle '",
        "huge": "at most 65536 are read",
        "a link": "it is a link",
    }[damage]
    with Runner(bundle, state_dir=tmp_path) as runner:
        assert runner.variant == "slow"
        assert runner.variant_order.startswith(f"the target's: {file} is ignored: ")
        assert reason in runner.variant_order
    done = edgerun("bench", bundle, "--state-dir", tmp_path, "--seconds", 0, "-v")
    assert done.returncode == 0
    assert f"info: order of the variants: the target's: {file} is ignored: " in done.stderr


def test_a_variant_with_wrong_numbers_is_not_measured_and_tried_last_and_the_exit_code_is_6(tmp_path: Path) -> None:
    bundle = make(tmp_path / "b", [("wrong", product(0, scale=1.5)), ("slow", product(STEPS)), ("fast", product(0))])
    data = tuned(bundle, tmp_path / "state", code=6)
    assert "variant wrong, output 'y', golden 0: " in data["error"]["message"]
    (tuning,) = data["tunings"]
    assert tuning["order"] == ["fast", "slow", "wrong"]
    assert [(v["result"], v["rounds"] > 0) for v in tuning["variants"]] == [
        ("outside", False),
        ("ok", True),
        ("ok", True),
    ]
    with Runner(bundle, state_dir=tmp_path / "state") as runner:
        assert runner.variant == "fast"
    text = edgerun("tune", bundle, "--state-dir", tmp_path / "state", "--seconds", 0)
    assert text.returncode == 6
    assert "it is tried last from now on" in text.stderr


def test_a_variant_that_cannot_run_here_is_skipped_and_keeps_its_place(tmp_path: Path) -> None:
    needs = {"never": Requirements(cpu_features=("antigravity",))}
    bundle = make(
        tmp_path / "b", [("never", product(0)), ("slow", product(STEPS)), ("fast", product(0))], requires=needs
    )
    (tuning,) = tuned(bundle, tmp_path / "state")["tunings"]
    assert tuning["variants"][0] == {
        "variant": "never", "result": "skipped", "reason": "this CPU lacks antigravity", "rounds": 0,
    }  # fmt: skip
    assert tuning["order"] == ["fast", "slow"]
    inspected = json.loads(edgerun("inspect", bundle, "--state-dir", tmp_path / "state", "--json").stdout)
    assert inspected["order"]["variants"] == ["never", "fast", "slow"]
    alone = make(tmp_path / "n", [("never", product(0))], requires=needs)
    done = edgerun("tune", alone, "--state-dir", tmp_path / "state", "--json")
    assert done.returncode == 5
    assert "no variant can run here: never: this CPU lacks antigravity" in json.loads(done.stdout)["error"]["message"]


def test_variants_that_do_not_fit_into_memory_together_are_measured_one_after_the_other(tmp_path: Path) -> None:
    megabytes = (
        int(next(line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in line))
        // 1024
    )
    # Each alone has what it asks for; the first, once loaded, leaves less than the second asks for.
    needs = {"fast": Requirements(memory_bytes=(megabytes - 40) << 20)}
    bundle = make(tmp_path / "b", [("slow", product(STEPS)), ("fast", product(0))], requires=needs)
    (tuning,) = tuned(bundle, tmp_path / "state")["tunings"]
    results = {v["variant"]: v["result"] for v in tuning["variants"]}
    assert results["slow"] == "ok"
    if results["fast"] == "ok":  # other programs may have taken the memory
        assert tuning["order"] == ["fast", "slow"]
    else:
        assert "MiB of memory" in tuning["variants"][1]["reason"]


def test_a_folder_that_cannot_be_written_to_is_an_error_with_its_name(slow_first: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = edgerun("tune", slow_first, "--state-dir", tmp_path / "file", "--seconds", 0)
    assert done.returncode == 2
    assert str(tmp_path / "file") in done.stderr


def test_tuning_goes_by_inputs_that_are_given_and_refuses_wrong_ones(slow_first: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.zeros((SIZE, SIZE), np.float32))
    assert tuned(slow_first, tmp_path / "s", "--inputs", tmp_path / "in.npz")["tunings"][0]["order"] == ["fast", "slow"]
    np.savez(tmp_path / "in.npz", z=np.zeros((SIZE, SIZE), np.float32))
    done = edgerun("tune", slow_first, "--state-dir", tmp_path / "s", "--inputs", tmp_path / "in.npz")
    assert done.returncode == 4
    assert "'z'" in done.stderr
