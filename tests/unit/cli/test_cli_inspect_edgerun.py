import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgebuild.bundle.manifest import Engine, Loader
from edgebuild.bundle.reader import Bundle
from edgebuild.bundle.writer import BundleFile, write_bundle

from command_line import Invoke  # isort: skip

_BUILT = Path(__file__).parents[3] / "build/dev/cpp/apps/edgerun/edgerun"


@pytest.fixture
def edgerun() -> Path:
    path = Path(os.environ.get("EDGEBUILD_TEST_EDGERUN", _BUILT))
    if not path.is_file():
        pytest.skip(f"{path} is not built (set EDGEBUILD_TEST_EDGERUN to a built edgerun)")
    return path


def native(edgerun: Path, *arguments: str) -> tuple[int, dict[str, object]]:
    done = subprocess.run([str(edgerun), *arguments], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("directory", [False, True])
def test_inspect_prints_the_same_json_as_the_native_runner(
    invoke: Invoke, make_bundle: Callable[..., Path], edgerun: Path, directory: bool
) -> None:
    path = str(make_bundle(directory=directory))
    code, data = native(edgerun, "inspect", path, "--json")
    mine = invoke("inspect", path, "--json")
    assert mine.code == code == 0
    assert mine.json == data


def test_a_c_library_of_the_bundle_s_own_is_shown_alike(
    invoke: Invoke, make_bundle: Callable[..., Path], edgerun: Path, tmp_path: Path
) -> None:
    sound = Bundle.open(make_bundle(directory=True))
    (variant, *_) = sound.manifest.variants
    write_bundle(
        tmp_path / "own",
        name="m",
        target=replace(
            sound.manifest.target, loader=Loader(program="lib/ld.so", libraries=("lib/libc.so.6",), glibc="2.41")
        ),
        signature=sound.manifest.signature,
        variants=[
            replace(variant, engine=Engine(name="e", version="1", library="lib/a.so", needed=("lib/b.so", "lib/c.so")))
        ],
        files=[
            *(
                BundleFile(path=path, source=sound.directory() / path, executable=entry.executable)
                for path, entry in sound.manifest.files.items()
                if path.startswith("model/")
            ),
            *(BundleFile(path=f"lib/{name}.so", source=name.encode()) for name in "abc"),
            BundleFile(path="lib/ld.so", source=b"loader", executable=True),
            BundleFile(path="lib/libc.so.6", source=b"libc"),
        ],
        directory=True,
    )
    code, data = native(edgerun, "inspect", str(tmp_path / "own"), "--json")
    mine = invoke("inspect", str(tmp_path / "own"), "--json")
    assert mine.code == code == 0
    assert mine.json == data
    assert data["target"]["loader"]["glibc"] == "2.41"  # type: ignore[index]


def test_both_give_a_damaged_bundle_the_same_code(
    invoke: Invoke, make_bundle: Callable[..., Path], edgerun: Path
) -> None:
    path = make_bundle()
    data = bytearray(path.read_bytes())
    data[600] ^= 4
    path.write_bytes(data)
    code, theirs = native(edgerun, "inspect", str(path), "--json")
    mine = invoke("inspect", str(path), "--json")
    assert mine.code == code == 3
    assert mine.json["schema"] == theirs["schema"]
    assert mine.json["exit_code"] == theirs["exit_code"]
    assert mine.json["error"]["code"] == theirs["error"]["code"]  # type: ignore[index]
