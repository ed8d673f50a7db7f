"""How this stage runs a graph without knowing who does it: it is handed a function that opens one."""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray


class GraphRunner(Protocol):
    """A loaded graph."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run once.

        Args:
            inputs: By the graph's own names, C-contiguous, of the graph's dtypes.

        Returns:
            Its outputs by name; they stay valid as long as somebody holds them.

        Raises:
            SignatureError: An input's name, dtype or rank does not fit.
            InternalError: The engine failed.
        """
        ...


class OpenGraph(Protocol):
    """Opens an ONNX file, whose external data lies beside it, optimised by the engine, on one thread."""

    def __call__(self, path: Path, *, unordered: Collection[str] = ()) -> AbstractContextManager[GraphRunner]:
        """Open.

        Args:
            path: The file.
            unordered: Outputs whose elements may come in any order, if that is cheaper.
        """
        ...
