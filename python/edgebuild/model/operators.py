"""TorchScript operators by what they do to the axes of their first operand."""


def _names(text: str) -> frozenset[str]:
    return frozenset(f"aten::{name}" for name in text.split())


BINARY = _names(
    "add sub mul div add_ mul_ sub_ div_ eq ne lt gt le ge maximum minimum pow remainder floor_divide where __and__ __or__ "
    "logical_and logical_or bitwise_and cosine_similarity cdist"
)
"""Elementwise on two operands, which therefore have the same shape or are broadcast."""

SAME = _names(
    "relu relu_ relu6 hardtanh hardtanh_ clamp clamp_ clamp_min clamp_max sigmoid tanh gelu silu silu_ elu leaky_relu "
    "leaky_relu_ softmax log_softmax dropout dropout_ feature_dropout contiguous detach clone neg abs exp log sqrt rsqrt sin cos "
    "erf round floor ceil softplus mish hardswish hardsigmoid hardswish_ square reciprocal log1p expm1 sign nan_to_num cumsum "
    "flip roll rsub masked_fill masked_fill_ alias requires_grad_ sort cpu cuda threshold logical_not bitwise_not type_as tril "
    "triu expand_as prelu real imag fft_fft fft_ifft fft_fft2 fft_ifft2 fft_fftn fft_ifftn log2 log10 atan tan cosh sinh frac trunc lift_fresh normalize"
)
"""The result has the operand's shape."""

RETYPED = _names("to float half long int bool double type _cast_Float isnan")
"""The result has the operand's shape and another element type."""

SPATIAL = _names(
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d upsample_nearest1d upsample_nearest2d "
    "upsample_bilinear2d upsample_bicubic2d upsample_nearest3d pad constant_pad_nd reflection_pad1d reflection_pad2d "
    "replication_pad1d replication_pad2d max_pool2d_with_indices _upsample_bilinear2d_aa"
)
"""Rank, batch and channels stay; the other sizes change."""

REDUCING = _names("mean sum amax amin max min argmax argmin norm std var prod logsumexp any all median")
"""Axes that are named as the second operand go."""

COMPARING = _names("eq ne lt gt le ge")
"""The result is boolean, so the operand's element type is free."""
