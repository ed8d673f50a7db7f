"""From an exporter's exception to one line: the operator it stumbled on and the line of the model's code, if known."""

import re

_OPERATOR = re.compile(
    r"(?<![\w.])((?:aten|prim|torchvision|quantized|prims|onnx|torch_scatter|_caffe2)(?:::|\.)[A-Za-z_]\w*)"
)
_FILE_LINE = re.compile(r'File "([^"]+)", line (\d+)(?:, in (\w+))?')
_ANSI = re.compile(r"\x1b\[[0-9;]*m|\[\d+m")
_LIBRARY = (
    "/torch/",
    "/onnxscript/",
    "/onnx_ir/",
    "/onnx/",
    "/onnxruntime/",
    "/edgebuild/",
    "<frozen",
    "<string>",
    "<eval",
    "/concurrent/",
)


def failed_operator(error: BaseException) -> str | None:
    """The first operator that the exception (or what caused it) names."""
    for part in _causes(error):
        named = getattr(part, "operator", None)
        if isinstance(named, str):
            return named
        found = _OPERATOR.search(_ANSI.sub("", str(part)))
        if found:
            return found.group(1).replace(".", "::", 1).split(".")[0]
    return None


def failed_location(error: BaseException) -> str | None:
    """``file:line`` of the model's own code: the innermost frame that is not torch's or ours."""
    for part in _causes(error):
        named = getattr(part, "location", None)
        if isinstance(named, str):
            return named
    for part in _causes(error):
        frames = _FILE_LINE.findall(str(part))
        traceback = part.__traceback__
        while traceback is not None:
            code = traceback.tb_frame.f_code
            frames.append((code.co_filename, str(traceback.tb_lineno), code.co_name))
            traceback = traceback.tb_next
        own = [(name, line) for name, line, _ in frames if not any(part_ in name for part_ in _LIBRARY)]
        own = [(name, line) for name, line in own if not name.endswith("runpy.py") and "/multiprocessing/" not in name]
        if own:
            return f"{own[-1][0]}:{own[-1][1]}"
    return None


def source_location(source_range: str) -> str | None:
    """``file:line`` out of a TorchScript node's source range; the file is that of the machine that saved the model."""
    frames = [(name, line) for name, line, _ in _FILE_LINE.findall(source_range)]
    own = [(name, line) for name, line in frames if "/torch/" not in name]
    chosen = own or frames
    return f"{chosen[0][0]}:{chosen[0][1]}" if chosen else None


def summary(error: BaseException, limit: int = 300) -> str:
    """The exception in one line; of a chain the part that says most (the root cause)."""
    chain = list(_causes(error))
    text = ""
    for part in reversed(chain):
        text = _first_sentence(_ANSI.sub("", str(part)))
        if text:
            name = type(part).__name__
            text = text if name in ("DisagreementError", "UnsuitableError", "RefusedError") else f"{name}: {text}"
            break
    text = text or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _first_sentence(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines()]
    return next((" ".join(line.split()) for line in lines if line), "")


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found and len(found) < 16:
        found.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found
