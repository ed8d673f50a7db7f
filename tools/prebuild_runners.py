#!/usr/bin/env python3
"""Compiles the runners of all targets for a wheel: ``tools/prebuild_runners.py FOLDER [TARGET …]`` (default: every target).

`make wheel-prebuilt` puts them into a wheel, whose users then need no compiler.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))


def main() -> None:
    """Fills the folder."""
    from edgebuild.cache import Cache, content_key
    from edgebuild.native.prebuilt import write_prebuilt
    from edgebuild.native.runner import build_runner, libcxx_licence
    from edgebuild.native.sources import find_sources
    from edgebuild.report import SilentProgress
    from edgebuild.targets import list_targets, load_target

    if len(sys.argv) < 2:
        sys.exit(__doc__)
    targets = [load_target(name) for name in sys.argv[2:]] or [target for target in list_targets() if target.portable]
    runners = []
    for target in targets:
        print(f"{target.name}: {target.toolchain.triple}", flush=True)
        runners.append((target, build_runner(target, Cache.default(), SilentProgress())))
    digest = content_key(find_sources().digest())
    for line in write_prebuilt(Path(sys.argv[1]), digest, runners, libcxx_licence()):
        print(line)


if __name__ == "__main__":
    main()
