"""Runs the examples of README.md and docs/: every ``sh`` block as it stands, every ``python`` block as a script.

The blocks of one page run in order in one folder that holds ``model.pt``, a small trained-like CNN on (1, 1, 8, 8), as the
README's reader has it after ``make demo``. A block that is not meant to be run is fenced as ``text``.
"""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    return [(match.group(1), match.group(2)) for match in FENCE.finditer(page.read_text(encoding="utf-8"))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    ).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The argument's name in the examples is x; nn.Sequential calls it input.
        wrapped = torch.jit.trace(named(model), torch.zeros(1, 1, 8, 8))
        torch.jit.save(wrapped, str(tmp_path / "model.pt"))
    return tmp_path


def named(model: object) -> object:
    import torch

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x)  # type: ignore[operator, no-any-return]

    return Named().eval()


def test_the_readme_has_examples() -> None:
    assert len(blocks(ROOT / "README.md")) >= 3


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_examples_of_a_page_run(page: Path, folder: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "NO_COLOR": "1",
    }
    for language, text in blocks(page):
        command = ["bash", "-eu", "-o", "pipefail", "-c", text] if language == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{page.name}:\n{text}\n-> exit {done.returncode}\n{done.stdout}{done.stderr}"


def test_the_c_example_of_the_readme_compiles(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```c\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    source = tmp_path / "example.c"
    source.write_text(
        '#include <stdio.h>\n#include "edgebuild/edgebuild.h"\nint main(void) {\nstatic float pixels[64], scores[10];\n'
        + example
        + "return 0;\n}\n"
    )
    command = [
        "cc",
        "-std=c11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fsyntax-only",
        f"-I{ROOT / 'cpp' / 'include'}",
        source,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
