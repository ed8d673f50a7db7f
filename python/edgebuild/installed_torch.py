"""The torch package of this environment, found without importing it."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

_VERSION = re.compile(r"""^__version__\s*=\s*['"]([^'"]+)['"]""", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class InstalledTorch:
    """The torch package of this environment.

    Args:
        root: Its folder, with ``include/`` and ``lib/``.
        version: E.g. "2.13.0+cpu".
    """

    root: Path
    version: str

    @property
    def release(self) -> str:
        """The version without what names the build."""
        return self.version.partition("+")[0]

    @property
    def library_folder(self) -> Path:
        return self.root / "lib"


def find_torch() -> InstalledTorch | None:
    """The torch package of this environment, which is not imported; None: there is none."""
    try:
        spec = importlib.util.find_spec("torch")
    except (ImportError, ValueError):  # a finder refuses it, or something that is no module goes by its name
        return None
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    try:
        found = _VERSION.search((root / "version.py").read_text(encoding="utf-8"))
    except OSError:
        return None
    return InstalledTorch(root=root, version=found.group(1)) if found else None
