"""The wheel works from an environment that knows nothing of the checkout: command line, Runner, and a whole build."""

import base64
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgebuild.native.elf import read_elf

ROOT = Path(__file__).resolve().parent.parent.parent

DEPENDENCIES = Path(str(importlib.util.find_spec("torch").origin)).parents[1]  # type: ignore[union-attr]
CARRIED = ("x86-64", "raspberrypi4")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def run(*command: str, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(module_folder: Callable[[str], Path]) -> Path:
    """Made in the build folder of the checkout's own installation: what that compiled is not compiled again."""
    folder = module_folder("wheel")
    flags = ["--no-deps", "--no-build-isolation", "--quiet"]
    run(sys.executable, "-m", "pip", "wheel", *flags, "--wheel-dir", str(folder), str(ROOT), cwd=folder)
    (found,) = folder.glob("edgebuild-*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, module_folder: Callable[[str], Path]) -> Path:
    """A new environment with the wheel; its dependencies are those of the tests, not installed a second time."""
    folder = module_folder("environment")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # A plain path: .pth files behind it, such as the checkout's editable hook, are not followed.
    (packages / "dependencies.pth").write_text(f"{DEPENDENCIES}\n")
    flags = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    python = str(folder / "venv" / "bin" / "python")
    run(sys.executable, "-m", "pip", "--python", python, "install", *flags, str(wheel), cwd=folder)
    for tool in ("cmake", "ninja"):
        (folder / "venv" / "bin" / tool).symlink_to(Path(sys.executable).parent / tool)
    return folder / "venv" / "bin"


def test_the_wheel_holds_targets_sources_headers_and_licences_but_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "edgebuild/_data/targets/x86-64.toml",
        "edgebuild/_data/toolchains/zig/aarch64-linux-gnu.cmake",
        "edgebuild/_data/CMakeLists.txt",
        "edgebuild/_data/cpp/apps/edgerun/main.cpp",
        "edgebuild/_data/third_party/include/nlohmann/json.hpp",
        "edgebuild/bundle/manifest.schema.json",
        "edgebuild/native/engines.toml",
    ):
        assert wanted in names
    assert any(name.startswith("edgebuild/_data/third_party/licenses/") for name in names)
    assert any(name.startswith("edgebuild/_runtime.") for name in names)
    assert not [name for name in names if "/tests/" in name or name.endswith((".pyc", ".o"))]


def test_the_package_comes_from_the_wheel(environment: Path, tmp_path: Path) -> None:
    where = run(str(environment / "python"), "-c", "import edgebuild; print(edgebuild.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(environment.parent)


def test_a_model_is_built_and_run_outside_the_source_tree(environment: Path, tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(model), str(tmp_path / "net.pt"))
    edgebuild = str(environment / "edgebuild")
    assert "x86-64" in run(edgebuild, "targets", cwd=tmp_path)
    run(edgebuild, "--target", "x86-64", "net.pt", "--no-measure", cwd=tmp_path)
    run(edgebuild, "verify", "net.x86-64.edge", cwd=tmp_path)
    script = (
        "import edgebuild, numpy\n"
        "with edgebuild.Runner('net.x86-64.edge') as runner:\n"
        "    (name,) = [spec.name for spec in runner.signature.inputs]\n"
        "    (y,) = runner.run({name: numpy.full((1, 6), 0.5, 'float32')}).values()\n"
        "print(*y.ravel())\n"
    )
    got = [float(word) for word in run(str(environment / "python"), "-c", script, cwd=tmp_path).split()]
    with torch.inference_mode():
        expected = model(torch.full((1, 6), 0.5)).ravel().tolist()
    assert got == pytest.approx(expected, abs=1e-6)


def repacked(wheel: Path, module: Path, folder: Path) -> Path:
    tool = str(ROOT / "tools" / "board_wheel.py")
    return Path(run(sys.executable, tool, str(wheel), str(module), str(folder), cwd=folder).strip())


def test_a_wheel_with_another_module_is_one_that_pip_takes(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as given:
        (name,) = [name for name in given.namelist() if name.startswith("edgebuild/_runtime.c")]
        given.extract(name, tmp_path)
        whole = set(given.namelist())
    made = repacked(wheel, tmp_path / name, tmp_path)
    assert re.search(r"-cp3\d+-cp3\d+-manylinux_2_\d+_x86_64\.whl$", made.name)
    assert made.read_bytes() == repacked(wheel, tmp_path / name, tmp_path).read_bytes()
    with zipfile.ZipFile(made) as archive:
        assert set(archive.namelist()) == whole
        (record,) = [name for name in archive.namelist() if name.endswith("/RECORD")]
        for line in archive.read(record).decode().splitlines():
            path, digest, size = line.rsplit(",", 2)
            if path != record:
                data = archive.read(path)
                assert len(data) == int(size)
                told = base64.urlsafe_b64decode(digest.removeprefix("sha256=") + "=")
                assert told == hashlib.sha256(data).digest()
    flags = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "install", *flags, "--target", str(tmp_path / "there"), str(made), cwd=tmp_path)
    environment = {
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "there"), str(DEPENDENCIES)]),
        "PATH": os.environ["PATH"],
    }
    command = [
        sys.executable,
        "-S",
        "-c",
        "import edgebuild, edgebuild._runtime as r; edgebuild.Runner; print(r.__file__)",
    ]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "there")


def test_a_board_s_wheel_is_called_after_its_module(wheel: Path, ready_made: Path, tmp_path: Path) -> None:
    (program,) = [p for p in (ready_made.parents[1] / "prebuilt").rglob("edgerun") if read_elf(p).machine == 183]
    module = tmp_path / "_runtime.cpython-311-aarch64-linux-gnu.so"
    shutil.copyfile(program, module)  # any file of that architecture
    made = repacked(wheel, module, tmp_path)
    assert re.search(r"-cp311-cp311-manylinux_2_(17|2\d)_aarch64\.whl$", made.name)
    flags = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    platform = made.stem.rpartition("-")[2]  # pip takes an older one only for the machine that it runs on
    flags += ["--platform", platform, "--python-version", "311", "--implementation", "cp"]
    run(sys.executable, "-m", "pip", "install", *flags, "--target", str(tmp_path / "there"), str(made), cwd=tmp_path)
    assert (tmp_path / "there" / "edgebuild" / module.name).is_file()
    assert not (tmp_path / "there" / "edgebuild" / "_data" / "prebuilt").exists()
    shutil.copyfile(program, tmp_path / "runtime.so")
    tool = [sys.executable, str(ROOT / "tools" / "board_wheel.py"), str(wheel), str(tmp_path / "runtime.so")]
    done = subprocess.run(tool, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "expected a file called _runtime.cpython-3XX-ARCH-linux-gnu.so" in done.stderr


@pytest.fixture(scope="module")
def ready_made(wheel: Path, module_folder: Callable[[str], Path]) -> Path:
    """An environment with a wheel that carries two boards' runners, in which zig, cmake and ninja can't be found.

    The wheel is made after the plain one: nothing is compiled again.
    """
    folder = module_folder("ready-made")
    run(sys.executable, str(ROOT / "tools" / "prebuild_runners.py"), str(folder / "prebuilt"), *CARRIED, cwd=folder)
    flags = ["--no-deps", "--no-build-isolation", "--quiet"]
    flags.append(f"--config-settings=cmake.define.EDGEBUILD_PREBUILT_DIR={folder / 'prebuilt'}")
    run(sys.executable, "-m", "pip", "wheel", *flags, "--wheel-dir", str(folder), str(ROOT), cwd=folder)
    (carrying,) = folder.glob("edgebuild-*.whl")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    hide = (
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('ziglang', 'cmake', 'ninja'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    (packages / "hidden_tools.py").write_text(hide)
    (packages / "dependencies.pth").write_text(f"{DEPENDENCIES}\nimport hidden_tools\n")
    flags = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(folder / "venv/bin/python"),
        "install",
        *flags,
        str(carrying),
        cwd=folder,
    )
    return folder / "venv" / "bin"


def test_a_wheel_with_ready_made_runners_builds_without_any_compiler(ready_made: Path, tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(6, 5).eval()), str(tmp_path / "net.pt"))
    environment = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": str(tmp_path / "empty")}

    def edgebuild(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(ready_made / "python"), "-m", "edgebuild.cli.main", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    for target in CARRIED:
        built = edgebuild("--target", target, "net.pt", "--no-measure", "--verify", "none")
        assert built.returncode == 0, built.stderr
        assert "compiling" not in built.stderr
        assert edgebuild("inspect", f"net.{target}.edge").returncode == 0
    assert edgebuild("verify", "net.x86-64.edge").returncode == 0
    with tarfile.open(tmp_path / "net.raspberrypi4.edge") as bundle:
        bundle.extract("net.raspberrypi4/bin/edgerun", tmp_path, filter="data")
    assert read_elf(tmp_path / "net.raspberrypi4" / "bin" / "edgerun").machine == 183
    other = edgebuild("--target", "raspberrypi2", "net.pt", "--no-measure", "--verify", "none")
    assert other.returncode == 10, "the wheel of this test has no runner for it"
    assert "ziglang" in other.stderr
