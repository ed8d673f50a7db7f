"""Calibration data from Python, random data, hashes, splits, limits, memory."""

import gc
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibration_tools import DYNAMIC, IMAGE, TEXT, images, opened, signature, stacked, staged

from edgebuild.cache import Cache
from edgebuild.errors import CalibrationError, EdgebuildError, UsageError


def test_a_generator_is_spooled_and_can_be_read_again(cache: Cache) -> None:
    want = images(6)
    data = opened(({"x": want[i : i + 1]} for i in range(6)), IMAGE, cache)
    for _ in range(2):
        np.testing.assert_array_equal(stacked(data), want)
    assert len(staged(cache)) == 1
    data.close()
    assert not staged(cache)


def test_a_spool_goes_with_its_last_reader(cache: Cache) -> None:
    data = opened((images(1) for _ in range(8)), IMAGE, cache)
    parts = data.split()
    del data
    gc.collect()
    assert staged(cache)
    del parts
    gc.collect()
    assert not staged(cache)


def test_a_failed_source_leaves_no_spool(cache: Cache) -> None:
    def broken() -> Iterator[Any]:
        yield images(1)
        msg = "the disk of the user\nmore about it"
        raise ValueError(msg)

    with pytest.raises(CalibrationError, match="batch 1 of the generator: the source failed: ValueError: the disk of"):
        opened(broken(), IMAGE, cache)
    assert not staged(cache)


def test_ctrl_c_leaves_no_spool(cache: Cache) -> None:
    def interrupted() -> Iterator[Any]:
        yield images(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(interrupted(), IMAGE, cache)
    assert not staged(cache)


def test_a_process_that_ends_leaves_no_spool(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
import numpy as np
from edgebuild.cache import Cache
from edgebuild.model.signature import *
from edgebuild.data.calibration import open_calibration
cache = Cache(Path(sys.argv[1]))
sig = Signature(inputs=(ValueSpec(name="x", type=TensorType(dtype="float32", shape=(1, 2))),), outputs=())
data = open_calibration((np.zeros((1, 2), np.float32) for _ in range(3)), sig, cache=cache)
assert len(list((cache.root / "staging").iterdir())) == 1
raise KeyboardInterrupt
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "KeyboardInterrupt" in done.stderr
    assert list((tmp_path / "staging").iterdir()) == []


def test_a_data_loader_gives_inputs_and_its_labels_are_left_aside(cache: Cache) -> None:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    want = images(10)
    loader = DataLoader(TensorDataset(torch.from_numpy(want), torch.arange(10)), batch_size=4)
    data = opened(loader, IMAGE, cache)
    np.testing.assert_array_equal(stacked(data), want)
    assert data.count == 10
    assert any("the first element was taken as the inputs" in note for note in data.notes)
    dataset = opened(loader.dataset, IMAGE, cache)  # map-style: samples without a batch axis
    np.testing.assert_array_equal(stacked(dataset), want)
    assert dataset.sha256 == data.sha256


@pytest.mark.parametrize("wrap", [tuple, list, lambda pair: (tuple(pair), 7), lambda pair: (*pair, 7)])
def test_tuples_are_in_the_order_of_the_signature(cache: Cache, wrap: Any) -> None:
    pairs = [(np.full((1, 4), i), np.ones((1, 4), np.int64)) for i in range(3)]
    data = opened([wrap(pair) for pair in pairs], TEXT, cache)
    assert [int(b["ids"][0, 0]) for b in data.batches()] == [0, 1, 2]
    assert [int(b["mask"][0, 0]) for b in data.batches()] == [1, 1, 1]


def test_bfloat16_tensors_keep_their_bits(cache: Cache) -> None:
    import torch

    want = torch.randn(5, 1, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    data = opened(iter(want), signature(("x", "bfloat16", (1, 3))), cache)
    np.testing.assert_array_equal(stacked(data).astype(np.float32), want.reshape(5, 3).float().numpy())


def test_strings_are_taken(cache: Cache) -> None:
    sig = signature(("words", "string", (1, 2)))
    data = opened([{"words": [["a", "b"]]}, {"words": np.array([["ä", ""]])}], sig, cache)
    assert [b["words"].tolist() for b in data.batches()] == [[["a", "b"]], [["ä", ""]]]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ([], "empty calibration set"),
        ([(images(1), 1, 2, 3)] and [("a", "b")], "input 'x'"),
        (5, "expected something that yields batches, got int"),
        ([None], "input 'x': expected an array, got NoneType"),
    ],
)
def test_sources_that_give_nothing_usable_are_refused(cache: Cache, source: Any, text: str) -> None:
    with pytest.raises(CalibrationError, match=text):
        opened(source, IMAGE, cache)


def test_module_callable_is_found_in_the_search_path(tmp_path: Path, cache: Cache) -> None:
    name = f"calib_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "import numpy as np\n"
        "def batches():\n"
        f"    import {name}_helper\n"
        "    for i in range(4):\n"
        "        yield {'x': np.full((1, 3, 4, 5), i, np.float32)}\n"
        "several = [np.zeros((1, 3, 4, 5), np.float32)] * 2\n"
        "def needs(a): pass\n"
        "text = 'calib'\n"
    )
    (tmp_path / f"{name}_helper.py").write_text("")
    before = list(sys.path)
    data = opened(f"{name}:batches", IMAGE, cache, search_path=(str(tmp_path),))
    assert data.description == f"4 samples from {name}:batches"
    assert stacked(data)[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert opened(f"{name}:several", IMAGE, cache, search_path=(str(tmp_path),)).count == 2
    for attribute, text in (
        ("needs", "TypeError"),
        ("nothing", "has no 'nothing'"),
        ("text", "yields batches, got the text"),
    ):
        with pytest.raises(CalibrationError, match=text):
            opened(f"{name}:{attribute}", IMAGE, cache, search_path=(str(tmp_path),))
    with pytest.raises(CalibrationError, match="module 'no_such_module_of_ours' was not found"):
        opened("no_such_module_of_ours:f", IMAGE, cache)
    with pytest.raises(UsageError, match=r"expected package\.module:callable"):
        opened(":f", IMAGE, cache)
    assert sys.path == before


# Random, hash, split, limits


def test_random_is_only_taken_by_name_and_marked(cache: Cache) -> None:
    data = opened("random", TEXT, cache, seed=3)
    assert data.random
    assert data.count == 32
    assert {b["ids"].shape for b in data.batches()} == {(1, 8)}
    assert opened("random", TEXT, cache, seed=3).sha256 == data.sha256
    assert opened("random", TEXT, cache, seed=4).sha256 != data.sha256
    examples = [{"ids": np.array([[3, 900]])}]
    drawn = stacked(opened("random", TEXT, cache, examples=examples), "ids")
    assert drawn.min() >= 3
    assert 100 < drawn.max() <= 900
    assert all(part.random for part in data.split() if part is not None)


def test_the_hash_is_that_of_the_content(tmp_path: Path, cache: Cache) -> None:
    want = images(4)
    np.save(tmp_path / "all.npy", want)
    data = opened(tmp_path / "all.npy", IMAGE, cache)
    assert opened(iter(want), IMAGE, cache).sha256 == data.sha256
    other = want.copy()
    other[3, 0, 0, 0] = np.nextafter(other[3, 0, 0, 0], 9, dtype=np.float32)
    assert opened(other, IMAGE, cache).sha256 != data.sha256
    assert opened(want[::-1], IMAGE, cache).sha256 != data.sha256
    assert opened(want[:3], IMAGE, cache).sha256 != data.sha256


@pytest.mark.parametrize(("count", "apart"), [(2, 1), (3, 1), (4, 1), (8, 2), (9, 2), (32, 8), (33, 8)])
def test_a_split_is_interleaved_and_complete(cache: Cache, count: int, apart: int) -> None:
    data = opened(np.arange(count * 3, dtype=np.float32).reshape(count, 3), signature(("x", "float32", (1, 3))), cache)
    first, second = data.split()
    assert second is not None
    assert (first.count, second.count) == (count - apart, apart)
    both = np.concatenate([stacked(first), stacked(second)])
    np.testing.assert_array_equal(np.sort(both[:, 0]), np.arange(count) * 3)
    places = stacked(second)[:, 0] / 3
    gaps = np.diff(np.concatenate([[-1], places, [count]]))
    assert gaps.max() <= 2 * count / apart  # spread over the whole set
    assert data.split()[0].sha256 == first.sha256 != second.sha256
    assert "held out" in second.description


def test_one_sample_can_not_be_split(cache: Cache) -> None:
    data = opened(images(1), IMAGE, cache)
    assert data.split() == (data, None)


def test_one_stacked_batch_of_a_dynamic_model_leaves_something_to_hold_out(cache: Cache) -> None:
    _, held_out = opened([np.zeros((6, 3), np.float32)], DYNAMIC, cache).split()
    assert held_out is not None


def test_limits_spread_over_files_and_end_endless_sources(tmp_path: Path, cache: Cache) -> None:
    for index in range(10):
        np.save(tmp_path / f"{index}.npy", np.full((1, 3, 4, 5), index, np.float32))
    data = opened(tmp_path, IMAGE, cache, max_samples=4)
    assert stacked(data)[:, 0, 0, 0].tolist() == [0, 2, 5, 7]
    assert "4 of 10 files are used, evenly spaced" in data.notes[0]
    rows = np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1) + np.zeros((1, 3, 4, 5), np.float32)
    assert stacked(opened(rows, IMAGE, cache, max_samples=4))[:, 0, 0, 0].tolist() == [0, 2, 5, 7]

    def endless() -> Iterator[Any]:
        while True:
            yield images(1)

    data = opened(endless(), IMAGE, cache, max_samples=5)
    assert data.count == 5
    assert any("only the first 5 samples" in note for note in data.notes)


def test_progress_hears_the_samples(cache: Cache) -> None:
    heard: list[int] = []
    opened(images(3), IMAGE, cache, progress=heard.append)
    assert heard == [1, 2, 3]


def test_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from edgebuild.cache import Cache
from edgebuild.model.signature import *
from edgebuild.data.calibration import open_calibration
sig = Signature(inputs=(ValueSpec(name="x", type=TensorType(dtype="float32", shape=(1, 100000))),), outputs=())
count = int(sys.argv[2])
source = sys.argv[3] if sys.argv[3] != "stream" else (np.zeros((1, 100000), np.float32) for _ in range(count))
with open_calibration(source, sig, cache=Cache(Path(sys.argv[1])), max_samples=count) as data:
    assert sum(1 for _ in data.batches()) == count
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

    def peak(count: int, source: str) -> int:
        command = [sys.executable, "-c", code, str(tmp_path / "cache"), str(count), source]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    np.save(tmp_path / "all.npy", np.zeros((200, 100000), np.float32))  # 80 MB
    np.savez_compressed(tmp_path / "all.npz", x=np.zeros((200, 100000), np.float32))
    small = peak(10, "stream")
    for source in ("stream", str(tmp_path / "all.npy"), str(tmp_path / "all.npz")):
        assert peak(200, source) < small * 1.15, source


def test_every_error_is_ours(cache: Cache) -> None:
    rng = np.random.default_rng(0)
    names = ["x", "y"]
    for _ in range(200):
        shape = tuple(int(s) for s in rng.choice([0, 1, 2, 3, 4, 5], size=rng.integers(0, 6)))
        dtype = rng.choice(["float32", "float64", "int8", "uint64", "bool", "complex64", "U3"])
        given = {str(rng.choice(names)): np.ones(shape).astype(dtype)}
        with suppress(EdgebuildError):  # any other exception fails the test
            data = opened([given], IMAGE, cache)
            assert {batch["x"].shape for batch in data.batches()} == {(1, 3, 4, 5)}
