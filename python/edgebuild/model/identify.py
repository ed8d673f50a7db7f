from dataclasses import dataclass
from enum import Enum
from pathlib import Path
class FileKind(Enum):
    TORCHSCRIPT="ts"; TORCH_EXPORT="x"; ONNX="o"; STATE_DICT="s"; PICKLE="p"
@dataclass
class I: 
    kind: FileKind
    description: str=""
    hint: str=""
def identify(p: Path): return I(FileKind.TORCHSCRIPT)
