"""Which headers of TensorRT are taken, and how they are fetched: from a mirror in a folder, without the network."""

import hashlib
import re
from pathlib import Path

import pytest

from edgebuild.cache import Cache
from edgebuild.errors import ToolError, UsageError
from edgebuild.native import tensorrt
from edgebuild.native.sources import find_sources
from edgebuild.report import SilentProgress
from edgebuild.targets import load_target

ORIN = load_target("jetson-orin")
THOR = load_target("jetson-thor")
CUDA = load_target("x86-64-cuda")


@pytest.fixture(autouse=True)
def nothing_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "_SYSTEM", ())
    for name in ("TENSORRT_ROOT", "EDGEBUILD_TENSORRT_HEADERS_URL"):
        monkeypatch.delenv(name, raising=False)


def put_headers(folder: Path, version: str, *, enterprise: bool = False, parser: bool = True) -> Path:
    include = folder / "include"
    include.mkdir(parents=True)
    major, minor = version.split(".")
    lines = [f"#define NV_TENSORRT_MAJOR {major} //!< major", f"#define NV_TENSORRT_MINOR {minor}"]
    if enterprise:
        lines = [f"#define TRT_MAJOR_ENTERPRISE {major}", f"#define TRT_MINOR_ENTERPRISE {minor}"]
        lines += ["#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE", "#define NV_TENSORRT_MINOR TRT_MINOR_ENTERPRISE"]
    (include / "NvInferVersion.h").write_text("\n".join(lines))
    (include / "NvInfer.h").write_text("// core")
    if parser:
        (include / "NvOnnxParser.h").write_text("// parser")
    return folder


@pytest.mark.parametrize(
    ("version", "target", "fits"),
    [
        ("10.3", ORIN, True),
        ("10.0", ORIN, True),
        ("10.4", ORIN, False),  # compiled against it, the plugin would not run with the board's 10.3
        ("10.4", THOR, True),
        ("11.0", ORIN, False),
        ("11.0", CUDA, True),
        ("10.13", CUDA, False),
        ("8.6", ORIN, False),
    ],
)
@pytest.mark.parametrize("enterprise", [False, True])
def test_headers_fit_that_are_of_the_target_s_major_and_no_newer(
    version: str, target: object, fits: bool, enterprise: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(target, type(ORIN))
    put_headers(tmp_path / "sdk", version, enterprise=enterprise)
    cache = Cache(tmp_path / "cache")
    assert tensorrt.find_headers(target, cache) is None
    for root in ("sdk", "sdk/include"):
        monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path / root))
        headers = tensorrt.find_headers(target, cache)
        assert (headers is not None) == fits
        if headers is not None:
            assert headers.version == tuple(map(int, version.split(".")))
            assert set(headers.digest) == {"NvInfer.h", "NvInferVersion.h", "NvOnnxParser.h"}


def test_headers_without_the_parser_s_or_without_a_version_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path / "cache")
    put_headers(tmp_path / "half", "10.3", parser=False)
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path / "half"))
    assert tensorrt.find_headers(ORIN, cache) is None
    put_headers(tmp_path / "odd", "10.3")
    (tmp_path / "odd/include/NvInferVersion.h").write_text("// nothing")
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path / "odd"))
    assert tensorrt.find_headers(ORIN, cache) is None


def pins(major: int) -> list[tuple[str, str, str]]:
    """(commit, path, SHA-256) of every file that is fetched for a major."""
    text = (find_sources().root / "cmake" / "TensorRTHeaders.cmake").read_text(encoding="utf-8")
    body = re.search(rf"set\(_edgebuild_tensorrt_{major}\s(.*?)\)", text, re.DOTALL)
    assert body is not None
    words = body[1].split()
    return list(zip(words[::3], words[1::3], words[2::3], strict=True))


@pytest.mark.parametrize("major", tensorrt.MAJORS)
def test_every_header_is_pinned_by_commit_and_hash(major: int) -> None:
    pinned = pins(major)
    assert {"LICENSE", "include/NvInfer.h", "include/NvInferVersion.h", "include/NvOnnxParser.h"} <= {
        p for _, p, _ in pinned
    }
    for commit, _, digest in pinned:
        assert re.fullmatch("[0-9a-f]{40}", commit)
        assert re.fullmatch("[0-9a-f]{64}", digest)


def test_what_is_fetched_is_checked_against_its_hash_and_nothing_of_a_failure_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path / "cache")
    mirror = tmp_path / "mirror"
    monkeypatch.setenv("EDGEBUILD_TENSORRT_HEADERS_URL", mirror.as_uri())
    with pytest.raises(ToolError, match="TensorRT's headers") as missing:
        tensorrt.fetch_headers(ORIN, cache, SilentProgress())
    assert tensorrt.find_headers(ORIN, cache) is None
    for commit, path, _ in pins(10):
        (mirror / commit / path).parent.mkdir(parents=True, exist_ok=True)
        (mirror / commit / path).write_text("other bytes")
    with pytest.raises(ToolError) as wrong:
        tensorrt.fetch_headers(ORIN, cache, SilentProgress())
    digest = hashlib.sha256(b"other bytes").hexdigest()
    told = f"{wrong.value.message} {wrong.value.hint}"
    assert digest in told, told
    assert "could not be fetched" in f"{missing.value.message} {missing.value.hint}"
    assert tensorrt.find_headers(ORIN, cache) is None


def test_a_build_without_headers_leaves_tensorrt_out_and_names_the_one_command(tmp_path: Path) -> None:
    from edgebuild.backend_choice import choose_backends

    cache = Cache(tmp_path)
    chosen = choose_backends(ORIN, [], {}, cache)
    assert [spec.name for spec in chosen.specs] == ["onnxruntime"]
    (note,) = chosen.notes
    assert "`edgebuild doctor --target jetson-orin --fetch` gets them" in note
    with pytest.raises(ToolError, match=r"headers of TensorRT 10\.3 are not here") as asked:
        choose_backends(ORIN, ["tensorrt"], {}, cache)
    assert "--fetch" in str(asked.value.hint)


def test_a_folder_that_was_named_and_does_not_fit_is_told_with_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_headers(tmp_path / "sdk", "11.1")
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path / "sdk"))
    assert "(TENSORRT_ROOT holds those of 11.1; 10.0 to 10.3 fit)" in tensorrt.why_without_headers(ORIN)
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path))
    assert f"(TENSORRT_ROOT={tmp_path} holds none)" in tensorrt.why_without_headers(ORIN)


def test_options_go_to_the_backends_that_know_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgebuild.backend_choice import choose_backends

    put_headers(tmp_path / "sdk", "10.3")
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path / "sdk"))
    cache = Cache(tmp_path / "cache")
    chosen = choose_backends(ORIN, [], {"intra_op_threads": "2", "sparsity": "1"}, cache)
    assert [spec.name for spec in chosen.specs] == ["tensorrt", "onnxruntime"]
    assert chosen.options["onnxruntime"] == {"intra_op_threads": "2"}
    assert chosen.options["tensorrt"] == {"sparsity": "1", "workspace_mib": "1024"}
    with pytest.raises(UsageError, match="has no option 'speed'"):
        choose_backends(ORIN, [], {"speed": "11"}, cache)
    with pytest.raises(UsageError, match="option workspace_mib: expected a number from 0 to 1048576, got '-1'"):
        choose_backends(ORIN, [], {"workspace_mib": "-1"}, cache)
