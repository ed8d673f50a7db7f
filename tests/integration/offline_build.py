"""Builds for a foreign board with a cache of their own, by ``offline_driver.py``."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgebuild.cache import user_cache_folder

BOARD = "raspberrypi4"
DRIVER = Path(__file__).with_name("offline_driver.py")


@dataclass
class Offline:
    """A folder to build in, with an empty cache; what was downloaded and compiled is noted."""

    folder: Path
    model: Path | None = None
    line: Sequence[str] = ("--target", BOARD, "net.pt", "--input", "float32[1,3,8,8]", "--json")
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.work.mkdir(parents=True)
        self.cache.mkdir(parents=True)
        if self.model is not None:
            shutil.copyfile(self.model, self.work / "net.pt")

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def cache(self) -> Path:
        return self.folder / "cache" / "edgebuild"

    def start(self, *arguments: str, prefix: Sequence[str] = ()) -> "subprocess.Popen[str]":
        own = {
            "XDG_CACHE_HOME": str(self.cache.parent),
            "EDGEBUILD_TEST_CACHE": str(user_cache_folder()),
            "EDGEBUILD_TEST_LOG": str(self.folder / "fetched"),
            "NO_COLOR": "1",
        }
        return subprocess.Popen(
            [*prefix, sys.executable, str(DRIVER), *arguments],
            cwd=self.work,
            env={**os.environ, **own, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def build(self, *arguments: str, code: int = 0, prefix: Sequence[str] = ()) -> str:
        """Runs the command line and holds it to an exit code; of a failure to one line. Gives what it said on stderr."""
        process = self.start(*arguments, prefix=prefix)
        out, err = process.communicate(timeout=2000)
        assert process.returncode == code, f"exit {process.returncode}, expected {code}\n{out}{err}"
        assert "Traceback" not in err
        if code:
            errors = [line for line in err.splitlines() if line.startswith("edgebuild: error: ")]
            assert len(errors) == 1, err
        return err

    def fetched(self) -> list[str]:
        """What was downloaded or compiled so far."""
        log = self.folder / "fetched"
        return log.read_text(encoding="utf-8").splitlines() if log.exists() else []

    def entries(self) -> list[Path]:
        """Everything that the cache holds: entries and unpacked bundles."""
        sections = [section for section in sorted(self.cache.iterdir()) if section.name not in ("staging", "zig")]
        return [e for section in sections for e in sorted(section.iterdir()) if e.is_dir() and e.name[0] != "."]

    def copy(self, folder: Path) -> "Offline":
        """The same with a copy of the cache."""
        other = Offline(folder / "other", model=self.work / "net.pt", environment=dict(self.environment))
        shutil.rmtree(other.cache)
        shutil.copytree(self.cache, other.cache, symlinks=True)
        return other
