"""The install tree: found by CMake and by pkg-config after it was moved, linked into the examples, run on real bundles."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "runtime"))

import runtime_bundles as bundles

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).parents[2]
_TOOLS = Path(sys.executable).parent
_ENVIRONMENT = {**os.environ, "PATH": f"{_TOOLS}{os.pathsep}{os.environ.get('PATH', '')}"}


def _run(*command: object, environment: dict[str, str] | None = None) -> str:
    process = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env={**_ENVIRONMENT, **(environment or {})},
    )
    assert process.returncode == 0, f"{command}\n{process.stdout}\n{process.stderr}"
    return process.stdout


@pytest.fixture(scope="module")
def prefix(module_folder: Callable[[str], Path]) -> Path:
    """An install tree, in another folder than it was installed into: of the build that the tests are given a runner of, else a new one."""
    if shutil.which("cmake", path=_ENVIRONMENT["PATH"]) is None:
        pytest.skip("cmake is not here")
    folder = module_folder("embedding")
    build = _given_build()
    if build is None:
        build = folder / "build"
        _build_library(build)
    _run("cmake", "--install", build, "--component", "library", "--prefix", folder / "installed", "--strip")
    if build.parent == folder:
        shutil.rmtree(build)
    moved = folder / "elsewhere" / "edgebuild"
    moved.parent.mkdir()
    (folder / "installed").rename(moved)
    return moved


def _given_build() -> Path | None:
    """The folder in which EDGEBUILD_TEST_EDGERUN was built, if it holds the library too and is of these sources."""
    edgerun = Path(os.environ.get("EDGEBUILD_TEST_EDGERUN", "/")).resolve()
    for folder in edgerun.parents:
        if (folder / "CMakeCache.txt").is_file():
            cache = (folder / "CMakeCache.txt").read_text(encoding="utf-8").splitlines()
            wanted = {
                f"CMAKE_HOME_DIRECTORY:INTERNAL={_ROOT}",
                "EDGEBUILD_LIBRARY:BOOL=ON",
                "CMAKE_INSTALL_LIBDIR:PATH=lib",
            }
            return folder if wanted <= set(cache) else None
    return None


def _build_library(build: Path) -> None:
    third_party = _ROOT / "build" / "third_party"
    _run(
        *("cmake", "-S", _ROOT, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_UNITY_BUILD=ON"),
        *("-DCMAKE_INSTALL_LIBDIR=lib", "-DEDGEBUILD_APPS=OFF"),
        *([f"-DEDGEBUILD_THIRD_PARTY_DIR={third_party}"] if third_party.is_dir() else []),
    )
    _run("cmake", "--build", build, "--parallel", "2")


@pytest.fixture(scope="module")
def bundle(module_folder: Callable[[str], Path]) -> Path:
    return bundles.affine(module_folder("bundle") / "b")


def _check_run(program: Path, bundle: Path, library_path: Path) -> None:
    lines = _run(program, bundle, environment={"LD_LIBRARY_PATH": str(library_path)}).splitlines()
    assert re.fullmatch(r"edgebuild \S+, variant float32, onnxruntime 1\.\S+", lines[0])
    assert lines[1:], "no output was described"
    for line in lines[1:]:
        assert re.fullmatch(r"\S+ \w+\[[\d,]*\]", line)
    missing = subprocess.run(
        [program, bundle / "nothing"],
        capture_output=True,
        text=True,
        check=False,
        env={**_ENVIRONMENT, "LD_LIBRARY_PATH": str(library_path)},
    )
    assert missing.returncode == 2
    assert "nothing" in missing.stderr


@pytest.mark.parametrize("language", ["c", "cpp"])
def test_an_example_builds_with_find_package_and_runs_a_bundle(
    language: str, prefix: Path, bundle: Path, tmp_path: Path
) -> None:
    source = _ROOT / "examples" / language
    _run("cmake", "-S", source, "-B", tmp_path, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}")
    _run("cmake", "--build", tmp_path)
    _check_run(tmp_path / f"embed_{language}", bundle, prefix / "lib")


@pytest.mark.parametrize(("language", "compiler"), [("c", ["cc", "-std=c11"]), ("cpp", ["c++", "-std=c++20"])])
def test_an_example_builds_with_pkg_config_and_runs_a_bundle(
    language: str, compiler: list[str], prefix: Path, bundle: Path, tmp_path: Path
) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("pkg-config is not here")
    flags = _run(
        *("pkg-config", "--define-prefix", "--cflags", "--libs", "edgebuild"),
        environment={"PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig")},
    ).split()
    source = _ROOT / "examples" / language / f"main.{language}"
    program = tmp_path / f"embed_{language}"
    _run(*compiler, "-Wall", "-Wextra", "-Werror", source, *flags, "-o", program)
    _check_run(program, bundle, prefix / "lib")


def test_the_library_exports_nothing_but_its_own_names(prefix: Path) -> None:
    if shutil.which("nm") is None:
        pytest.skip("nm is not here")
    table = _run("nm", "-D", "--defined-only", "--demangle", prefix / "lib" / "libedgebuild.so")
    names = [line.split(" ", 2)[2] for line in table.splitlines()]
    ours = re.compile(r"eb_\w+(@.*)?|edgebuild::.*|EDGEBUILD_0(@.*)?")
    assert [name for name in names if not ours.fullmatch(name)] == []
    assert any(name.startswith("eb_runner_run") for name in names)
    assert any(name.startswith("edgebuild::Runner::run(") for name in names)


@pytest.mark.parametrize("plugin", ["onnxruntime", "reference"])
def test_a_plugin_exports_its_query_function_alone(plugin: str, prefix: Path) -> None:
    if shutil.which("nm") is None:
        pytest.skip("nm is not here")
    table = _run("nm", "-D", "--defined-only", prefix / "lib" / "edgebuild" / f"libedgebuild_{plugin}.so")
    assert [line.split()[-1].split("@")[0] for line in table.splitlines()] == ["edgebuild_backend_query"]


def test_no_path_of_the_build_machine_is_in_the_install_tree(prefix: Path) -> None:
    files = [path for path in prefix.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        for folder in (_ROOT, prefix.parents[1]):
            assert str(folder).encode() not in content, path
