"""Runs a command and prints what it cost as JSON: ``process_cost.py COMMAND [ARGUMENT …]``.

A small process of its own: the kernel counts a child's memory from before it became the new program, so a parent that has
imported torch would see its own size.
"""

import json
import os
import sys
import time


def main() -> int:
    """Prints ``{"cpu_ms", "wall_ms", "peak_mib"}``; the command's output is dropped, its errors are not."""
    null = os.open(os.devnull, os.O_WRONLY)
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.dup2(null, 1)
        os.execvp(sys.argv[1], sys.argv[1:])
    _, status, usage = os.wait4(child, 0)
    wall = time.perf_counter() - start
    cost = {
        "cpu_ms": (usage.ru_utime + usage.ru_stime) * 1e3,
        "wall_ms": wall * 1e3,
        "peak_mib": usage.ru_maxrss / 1024,
    }
    sys.stdout.write(json.dumps(cost))
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
