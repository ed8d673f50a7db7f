"""``edgebuild verify`` judges the archive it was given, not what the cache once unpacked of a sound one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import Invoke  # isort: skip


def flip(path: Path, what: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(what)] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damaged", [b"12345", b"to stderr"])
def test_a_damaged_archive_is_corrupt_although_a_sound_one_of_the_same_id_was_unpacked(
    invoke: Invoke, make_bundle: Callable[..., Path], damaged: bytes
) -> None:
    path = make_bundle()
    assert invoke("verify", str(path)).code == 0
    flip(path, damaged)
    result = invoke("verify", str(path), "--json")
    assert result.code == 3
    assert result.json["error"]["code"] == "corrupt bundle"
    assert "SHA-256" in result.err


def test_a_damaged_copy_in_the_cache_is_unpacked_again_from_a_sound_archive(
    invoke: Invoke, make_bundle: Callable[..., Path]
) -> None:
    path = make_bundle()
    unpacked = Path(invoke("verify", str(path)).out.splitlines()[1])
    (unpacked / "model/m.bin").write_bytes(b"54321")
    assert invoke("verify", str(path)).code == 0
    assert (unpacked / "model/m.bin").read_bytes() == b"12345"
