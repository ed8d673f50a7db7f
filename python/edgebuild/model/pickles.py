"""Reads pickles without executing them: which classes they would import, and what they make."""

import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_MAX_BYTES = 1 << 28
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_STATE_DICT_CLASSES = (
    "collections OrderedDict",
    "torch._utils _rebuild_",
    "torch._tensor _rebuild_",
    "torch _utils",
    "torch.serialization _get_layout",
    "torch.nn.parameter Parameter",
    "torch Size",
    "torch Tensor",
    "torch device",
    "_codecs encode",
    "numpy",
    "torch.storage ",
    "torch.torch_version TorchVersion",
)


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a pickle holds.

    Args:
        classes: Dotted names of all that it imports, in order.
        root: The class of the object itself, None if it is a plain dict or list.
        is_state_dict: It holds tensors in dicts, and only what PyTorch's weights-only loading allows.
        problem: Why it could not be read to its end.
    """

    classes: tuple[str, ...]
    root: str | None
    is_state_dict: bool
    problem: str | None = None


def scan(data: bytes) -> Scan:
    """Scans one pickle."""
    import io

    return _scan(io.BytesIO(data))


def scan_legacy(path: Path) -> Scan | None:
    """Scans a file that begins like a pickle: a plain one, or PyTorch's format before 1.6 (magic, version, sizes, object).

    Returns:
        None if the bytes are no pickle at all.
    """
    with path.open("rb") as file:
        try:
            first = list(pickletools.genops(file))
        except Exception as error:  # pickletools raises whatever the bytes provoke
            file.seek(0)
            ops = _readable(file)
            if ops < 4:
                return None
            return Scan(classes=(), root=None, is_state_dict=False, problem=str(error)[:200])
        if len(first) <= 5 and any(arg == _MAGIC_NUMBER for _, arg, _ in first):
            try:
                for _ in range(2):
                    for _ in pickletools.genops(file):
                        pass
            except Exception as error:  # as above
                return Scan(classes=(), root=None, is_state_dict=False, problem=str(error)[:200])
            return _scan(file)
        if len(first) < 3:
            return None
        file.seek(0)
        return _scan(file)


def _readable(file: IO[bytes]) -> int:
    count = 0
    try:
        for _ in pickletools.genops(file):
            count += 1
    except Exception:  # the number of operators before the fault is the answer
        return count
    return count


def _scan(file: IO[bytes]) -> Scan:
    classes: list[str] = []
    strings: list[str] = []
    memo: dict[int, Any] = {}
    root: str | None = None
    last: str | None = None
    persistent = built = 0
    first_container: str | None = None
    try:
        for opcode, argument, position in pickletools.genops(file):
            if (position or 0) > _MAX_BYTES:
                break
            name = opcode.name
            if name in ("GLOBAL", "INST"):
                last = ".".join(str(argument).split(" ", 1))
                classes.append(last)
            elif name == "STACK_GLOBAL":
                last = ".".join(strings[-2:])
                classes.append(last)
            elif isinstance(argument, str) and "UNICODE" in name:
                strings.append(argument)
            elif name in ("BINGET", "LONG_BINGET", "GET") and isinstance(argument, int | str):
                value = memo.get(int(argument))
                if isinstance(value, str):
                    strings.append(value)
            elif name in ("BINPERSID", "PERSID"):
                persistent += 1
            elif name in ("EMPTY_DICT", "EMPTY_LIST", "DICT", "LIST") and first_container is None:
                first_container = name
            if name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
                key = len(memo) if name == "MEMOIZE" else int(argument or 0)
                memo[key] = strings[-1] if strings else None
            if name == "BUILD":
                built += 1
            if root is None and classes and first_container is None:
                root = classes[0]
            if len(classes) > 100_000:
                break
    except Exception as error:  # pickletools raises whatever the bytes provoke
        return Scan(classes=tuple(dict.fromkeys(classes)), root=None, is_state_dict=False, problem=str(error)[:200])
    unique = tuple(dict.fromkeys(classes))
    plain = root is None or root == "collections.OrderedDict"
    allowed = all(_allowed(name) for name in unique)
    tensors = persistent > 0 or any("_rebuild_" in name for name in unique)
    return Scan(classes=unique, root=None if plain else root, is_state_dict=plain and allowed and tensors)


def _allowed(name: str) -> bool:
    head, _, tail = name.rpartition(".")
    spaced = f"{head} {tail}"
    return spaced.startswith(_STATE_DICT_CLASSES) or (
        head == "torch" and tail.endswith(("Storage", "16", "32", "64", "8"))
    )
