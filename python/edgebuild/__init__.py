"""edgebuild turns a PyTorch model into a bundle that runs on an edge board, and proves that it does.

>>> import edgebuild
>>> report = edgebuild.build("model.pt", target="x86-64")
>>> runner = edgebuild.Runner(report.bundle)
>>> outputs = runner.run({"x": array})
"""

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# ONNX Runtime reads this when it is loaded, in this process or a child; unset, it keeps a device id and an event database
# in the user's cache folder. Here, because everything of ours that loads it comes through here first. A user's own value stays.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from edgebuild import errors as errors
    from edgebuild.build import build as build
    from edgebuild.bundle.reader import Bundle as Bundle
    from edgebuild.preparing import prepare as prepare
    from edgebuild.runtime import Cancellation as Cancellation
    from edgebuild.runtime import Runner as Runner
    from edgebuild.targets import load_target as load_target

__all__ = ["Bundle", "Cancellation", "Runner", "__version__", "build", "errors", "load_target", "prepare"]

# Imported on first use: a board runs bundles without ever paying for the builder.
_HOMES = {
    "Bundle": "edgebuild.bundle.reader",
    "Cancellation": "edgebuild.runtime",
    "Runner": "edgebuild.runtime",
    "build": "edgebuild.build",
    "load_target": "edgebuild.targets",
    "prepare": "edgebuild.preparing",
}


class _Package(ModuleType):
    """This package: ``edgebuild.build`` is the function, also after the module of the same name was imported.

    The import system binds a submodule as an attribute of its package, over whatever was found there before.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOMES and isinstance(value, ModuleType):
            value = getattr(value, name, value)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

if not TYPE_CHECKING:  # a type checker would take it for a promise of any name

    def __getattr__(name: str) -> Any:
        import importlib

        if name == "errors":
            return importlib.import_module("edgebuild.errors")
        if name in _HOMES:
            return getattr(importlib.import_module(_HOMES[name]), name)
        msg = f"module 'edgebuild' has no attribute {name!r}"
        raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
