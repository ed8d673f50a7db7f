"""LibTorch from the installed torch package: the very version, whole, for the CPU; stripped without a tool; a plugin only with a compiler."""

import base64
import ctypes
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from elf_craft import craft_elf

from edgebuild import installed_torch
from edgebuild.cache import Cache
from edgebuild.errors import IncompatibleError, ToolError
from edgebuild.installed_torch import find_torch
from edgebuild.native import libtorch, plugin
from edgebuild.native.elf import ElfError, read_elf
from edgebuild.native.elf_strip import copy_stripped
from edgebuild.native.engines import engine_pin, fetch_engine
from edgebuild.native.sources import find_sources
from edgebuild.targets import load_target

PIN = engine_pin("libtorch", "2.13.0", "x86_64")
LIBRARIES = {
    "libtorch_cpu.so": craft_elf(arch="x86_64", soname="libtorch_cpu.so", needed=["libc10.so"]),
    "libc10.so": craft_elf(arch="x86_64", soname="libc10.so"),
    "libgomp.so.1": craft_elf(arch="x86_64", soname="libgomp.so.1"),
}
Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes a torch package that is found in place of the real one."""

    def make(version: str = "2.13.0+cpu", **changed: bytes) -> Path:
        site = tmp_path / "site"
        root = site / "torch"
        info = site / f"torch-{version}.dist-info"
        files = {f"torch/lib/{name}": data for name, data in LIBRARIES.items()}
        files["torch/__init__.py"] = b"raise ImportError('nobody may import this')\n"
        files["torch/version.py"] = f"__version__ = '{version}'\ndebug = False\n".encode()
        files["torch/include/torch/script.h"] = b"#pragma once\n"
        files[f"{info.name}/licenses/LICENSE"] = b"free\n"
        files[f"{info.name}/licenses/third_party/x/LICENSE"] = b"freer\n"
        files[f"{info.name}/METADATA"] = f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n".encode()
        record = []
        for name, data in files.items():
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_bytes(data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(data)}\n")
        (info / "RECORD").write_text("".join(record))
        for name, data in changed.items():  # after the record was written
            (root / "lib" / f"{name}.so").write_bytes(data)
        monkeypatch.setattr(
            installed_torch.importlib.util,  # type: ignore[attr-defined]
            "find_spec",
            lambda name: type("Spec", (), {"origin": str(root / "__init__.py")}) if name == "torch" else None,
        )
        distribution = metadata.PathDistribution(info)
        monkeypatch.setattr(libtorch.metadata, "distribution", lambda _: distribution)  # type: ignore[attr-defined]
        return root

    return make


def test_the_libraries_come_stripped_with_their_needs_and_all_licences(install: Install, tmp_path: Path) -> None:
    install()
    files = fetch_engine(PIN, Cache(tmp_path / "cache"))
    assert list(files.needed) == ["libgomp.so.1", "libc10.so"]
    assert read_elf(files.library).soname == "libtorch_cpu.so"
    (licences,) = files.licences.values()
    assert re.findall(r"^(LICENSE|third_party/x/LICENSE)$", licences.read_text(), re.MULTILINE)[0] == "LICENSE"
    assert "freer" in licences.read_text()
    assert files.pin.sha256 == hashlib.sha256(LIBRARIES["libtorch_cpu.so"]).hexdigest()


def test_another_version_is_refused_naming_both(install: Install, tmp_path: Path) -> None:
    install("2.12.1+cpu")
    with pytest.raises(IncompatibleError, match=r"pins LibTorch 2\.13\.0, the installed torch is 2\.12\.1\+cpu"):
        fetch_engine(PIN, Cache(tmp_path / "cache"))


def test_without_torch_there_is_a_line_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(installed_torch.importlib.util, "find_spec", lambda _: None)  # type: ignore[attr-defined]
    with pytest.raises(ToolError, match="torch package, which is not installed") as caught:
        fetch_engine(PIN, Cache(tmp_path))
    assert caught.value.hint == "pip install 'edgebuild[build]'"


def test_a_library_that_was_changed_since_it_was_installed_is_refused(install: Install, tmp_path: Path) -> None:
    install(libc10=LIBRARIES["libc10.so"] + b"x")
    with pytest.raises(ToolError, match=r"libc10\.so has SHA-256 .*, its package says"):
        fetch_engine(PIN, Cache(tmp_path / "cache"))


def test_a_build_for_an_accelerator_is_refused_naming_what_its_cpu_library_needs(
    install: Install, tmp_path: Path
) -> None:
    install(libtorch_cpu=craft_elf(arch="x86_64", soname="libtorch_cpu.so", needed=["libc10.so", "libcudart.so.12"]))
    with pytest.raises(ToolError, match=r"its CPU library needs libcudart\.so\.12") as caught:
        fetch_engine(PIN, Cache(tmp_path / "cache"))
    assert "CPU-only" in (caught.value.hint or "")


def test_torch_is_found_without_being_imported() -> None:
    code = (
        "import sys; from edgebuild.installed_torch import find_torch; found = find_torch(); "
        "assert 'torch' not in sys.modules; print(found.version, found.library_folder)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == metadata.version("torch")
    assert (Path(said[1]) / "libtorch_cpu.so").is_file()


def test_what_only_goes_by_torchs_name_is_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> None:
        message = "torch.__spec__ is None"
        raise ValueError(message)

    monkeypatch.setattr(installed_torch.importlib.util, "find_spec", refuse)  # type: ignore[attr-defined]
    assert find_torch() is None


def test_a_stripped_library_loads_and_says_the_same_to_a_loader(tmp_path: Path) -> None:
    source = Path(sys.modules["_ctypes"].__file__ or "") if "_ctypes" in sys.modules else Path(ctypes.__file__)
    library = tmp_path / source.name
    copy_stripped(source, library)
    assert library.stat().st_size < source.stat().st_size
    before, after = read_elf(source), read_elf(library)
    assert (after.needed, after.soname, after.version_needs) == (before.needed, before.soname, before.version_needs)
    ctypes.CDLL(str(library))
    copy_stripped(library, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == library.read_bytes()


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"MZ" * 100, craft_elf(arch="riscv64", big_endian=True)])
def test_what_is_no_native_library_is_not_stripped(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ElfError):
        copy_stripped(tmp_path / "x", tmp_path / "y")


def test_a_library_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    data = LIBRARIES["libtorch_cpu.so"]
    for size in (len(data) - 1, len(data) // 2, 70):
        (tmp_path / "x").write_bytes(data[:size])
        with pytest.raises(ElfError):
            copy_stripped(tmp_path / "x", tmp_path / "y")


def test_without_a_compiler_the_error_names_what_was_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin.shutil, "which", lambda _: None)  # type: ignore[attr-defined]
    with pytest.raises(
        ToolError, match=r"needs a C\+\+ compiler with libstdc\+\+ .*none of g\+\+, .*clang\+\+"
    ) as caught:
        plugin.find_compilers(load_target("x86-64"))
    assert "apt install g++" in (caught.value.hint or "")
    assert caught.value.exit_code == 10


def test_a_plugin_is_compiled_anew_when_its_sources_change_and_a_runner_is_not(tmp_path: Path) -> None:
    sources = find_sources()
    assert "cpp/backends/libtorch/model.cpp" in sources.plugin_digest()
    assert "cpp/include/edgebuild/backend_plugin.h" in sources.plugin_digest()
    assert not [name for name in sources.digest() if "libtorch" in name.lower()]
    copied = type(sources)(root=tmp_path, third_party=tmp_path)
    for name in sources.plugin_digest():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sources.root / name, tmp_path / name)
    assert copied.plugin_digest() == sources.plugin_digest()
    (tmp_path / "cpp/backends/common/plugin.hpp").write_text("// other\n")
    assert copied.plugin_digest() != sources.plugin_digest()
