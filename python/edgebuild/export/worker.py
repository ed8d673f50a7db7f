"""The child process that holds a model which is not ours yet.

    python -m edgebuild.export.worker REQUEST.json OUTDIR [--progress-fd FD]

It loads the model, exports it, checks parity and writes OUTDIR. Progress and a final error go to FD as JSON lines; the exit
code is that of the error.
"""

import argparse
import ctypes
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Asks the kernel to kill this process when its parent dies: nobody would read the result."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent or parent == 1:
        os._exit(1)


def main(arguments: list[str]) -> int:
    """Runs one export; returns the exit code."""
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    parser = argparse.ArgumentParser(prog="edgebuild.export.worker")
    parser.add_argument("request", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--progress-fd", type=int)
    options = parser.parse_args(arguments)

    from edgebuild.errors import EdgebuildError, InternalError, ResourceError, ToolError
    from edgebuild.export.protocol import encode_error, encode_progress
    from edgebuild.model.request import ModelRequest

    def send(line: bytes) -> None:
        if options.progress_fd is not None:
            os.write(options.progress_fd, line)

    if options.progress_fd is not None:
        os.set_inheritable(options.progress_fd, False)  # not for what the model starts
    try:
        request = ModelRequest.from_json(json.loads(options.request.read_text(encoding="utf-8")))
        send(encode_progress("loading torch"))
        from edgebuild.export.local import export_here

        export_here(request, options.directory, progress=lambda text: send(encode_progress(text)))
    except EdgebuildError as error:
        traceback.print_exc()
        send(encode_error(error))
        return error.exit_code
    except MemoryError:
        traceback.print_exc()
        failure: EdgebuildError = ResourceError(
            "memory ran out while the model was exported", hint="free memory, or build on a larger machine"
        )
        send(encode_error(failure))
        return failure.exit_code
    except OSError as problem:
        traceback.print_exc()
        what = f"{problem.strerror or problem}: {problem.filename or options.directory}"
        gone = not options.directory.is_dir()
        failure = (
            ToolError(f"{what}; the build's own folder was removed", hint="build again")
            if gone
            else ResourceError(what)
        )
        send(encode_error(failure))
        return failure.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as problem:
        traceback.print_exc()
        text = str(problem).strip().splitlines()
        internal = InternalError(
            f"{type(problem).__name__} in the export worker: {text[0] if text else ''}",
            hint="this is a bug; -v shows more",
        )
        send(encode_error(internal))
        return internal.exit_code
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a model's threads and exit handlers have no say
