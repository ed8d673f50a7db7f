"""The command line with a runner that was compiled before: cross-compiling one takes minutes on a small machine.

``EDGEBUILD_TEST_EDGERUN`` names the runner. What was imported is written to ``EDGEBUILD_TEST_MODULES``, if that is set.
"""

import os
import sys
from importlib import import_module
from pathlib import Path

from edgebuild.cli.main import main


def _compiled(*_: object) -> Path:
    return Path(os.environ["EDGEBUILD_TEST_EDGERUN"])


import_module("edgebuild.build").build_runner = _compiled  # the name edgebuild.build is the function
# That runner is this machine's own, of its compiler: only what else is in a bundle is held to the target.
_pack = import_module("edgebuild.bundle.pack")
_check = _pack.check_native_files
_pack.check_native_files = lambda files, target: _check([f for f in files if f.path != "bin/edgerun"], target)
code = main()
if "EDGEBUILD_TEST_MODULES" in os.environ:
    Path(os.environ["EDGEBUILD_TEST_MODULES"]).write_text("\n".join(sorted(sys.modules)), encoding="utf-8")
sys.exit(code)
