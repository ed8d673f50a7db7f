"""An emulator that is a script: which board it is for, what it answers."""

import json

from edgebuild.cache import Cache
from edgebuild.devices.place import Place, choose_place
from edgebuild.machine import machine_arch
from edgebuild.report import SilentProgress
from edgebuild.targets import TargetSpec

FOREIGN = "generic-riscv64" if machine_arch() == "aarch64" else "raspberrypi4"
PROGRAM = "qemu-riscv64" if machine_arch() == "aarch64" else "qemu-aarch64"
GOOD = 'shift 4; exec "$@"'
"""Does as an emulator does: runs the program behind ``-cpu MODEL -L ROOT``."""


def answering(answer: object, code: int = 0) -> str:
    return f"#!/bin/sh\necho '{json.dumps(answer)}'\nexit {code}\n"


VERIFIED = {"variants": [{"variant": "v", "result": "ok", "outputs": []}], "exit_code": 0}


def place(target: TargetSpec, cache: Cache, verify: str | None = None) -> Place:
    return choose_place(target, verify, cache, SilentProgress())
