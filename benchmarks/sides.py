"""A loaded model that can be asked for outputs and timed: in this process, or in a peer's own Python."""

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nets.net import Feed


class Side(Protocol):
    """What the stopwatch and the judge need."""

    def outputs(self, feeds: Sequence[Feed]) -> list[NDArray]:
        """The net's output for each feed."""

    def seconds(self, runs: int) -> float:
        """Processor time of one inference, one thread, over ``runs`` in a row."""

    def close(self) -> None:
        """Gives the model up."""


class Here:
    """A model in this process: .onnx and .ort under ONNX Runtime's own Python, a bundle under edgebuild's runner."""

    def __init__(self, path: Path, feed: Feed) -> None:
        self._feed = dict(feed)
        if path.suffix in {".onnx", ".ort"}:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            output = [session.get_outputs()[0].name]
            self._run = lambda feed: session.run(output, feed)[0]
            self._close = lambda: None
        else:
            import edgebuild

            runner = edgebuild.Runner(path, options={"intra_op_threads": "1"})
            self._run = lambda feed: next(iter(runner.run(feed).values()))
            self._close = runner.close
        self._run(self._feed)

    def outputs(self, feeds: Sequence[Feed]) -> list[NDArray]:
        """The net's output for each feed."""
        return [np.array(self._run(dict(feed))) for feed in feeds]

    def seconds(self, runs: int) -> float:
        """Processor time of one inference."""
        start = time.process_time()
        for _ in range(runs):
            self._run(self._feed)
        return (time.process_time() - start) / runs

    def close(self) -> None:
        """Gives the model up."""
        self._close()


class Peer:
    """A model in another Python: ``peer_openvino.py`` there answers one line of JSON for each line that it gets."""

    def __init__(self, python: Path, model: Path, precision: str, calibration: Path, *, transformer: bool) -> None:
        worker = Path(__file__).with_name("peer_openvino.py")
        command = [str(python), str(worker), str(model), precision, str(calibration)]
        if transformer:
            command.append("--transformer")
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.quantise_s: float | None = self._answer()["quantise_s"]

    def outputs(self, feeds: Sequence[Feed]) -> list[NDArray]:
        """The net's output for each feed."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            arrays = {f"{i}.{name}": array for i, feed in enumerate(feeds) for name, array in feed.items()}
            np.savez(Path(folder) / "in.npz", **arrays)
            self._ask({"outputs": folder, "count": len(feeds)})
            with np.load(Path(folder) / "out.npz") as made:
                return [made[str(i)] for i in range(len(feeds))]

    def seconds(self, runs: int) -> float:
        """Processor time of one inference."""
        measured: float = self._ask({"runs": runs})["seconds"]
        return measured

    def close(self) -> None:
        """Ends the other process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, question: dict[str, object]) -> dict:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # the rest is what the peer's libraries print
                answer: dict = json.loads(line)
                return answer
        msg = f"the peer ended with {self._process.wait()}"
        raise RuntimeError(msg)
