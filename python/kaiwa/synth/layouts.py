"""The three published namings of one codec (docs/spec/mimi.md 6.1, 6.2)."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

#: Replacements that turn a released name into that of Hugging Face `transformers`.
_HF_RULES = (
    (r"^(encoder|decoder)\.model\.", r"\1.layers."),
    (r"^(encoder|decoder)_transformer\.transformer\.", r"\1_transformer."),
    (r"\.(conv|convtr)\.\1\.(weight|bias)$", r".conv.\2"),
    (r"^downsample\.conv\.conv\.", "downsample.conv."),
    (r"^upsample\.convtr\.conv\.", "upsample.conv."),
    (r"\.self_attn\.out_proj\.", ".self_attn.o_proj."),
    (r"\.norm1\.", ".input_layernorm."),
    (r"\.norm2\.", ".post_attention_layernorm."),
    (r"\.linear(\d)\.", r".mlp.fc\1."),
    (r"\.layer_scale_1\.", ".self_attn_layer_scale."),
    (r"\.layer_scale_2\.", ".mlp_layer_scale."),
    (r"\.rvq_first\.", ".semantic_residual_vector_quantizer."),
    (r"\.rvq_rest\.", ".acoustic_residual_vector_quantizer."),
    (r"\.vq\.layers\.(\d+)\._codebook\._initialized$", r".layers.\1.codebook.initialized"),
    (r"\.vq\.layers\.(\d+)\._codebook\.cluster_usage$", r".layers.\1.codebook.cluster_usage"),
    (r"\.vq\.layers\.(\d+)\._codebook\.embedding_sum$", r".layers.\1.codebook.embed_sum"),
)


def renamed(name: str, tensor: Array, layout: str, heads: int) -> Iterator[tuple[str, Array]]:
    """The tensors a released tensor becomes in `layout`: one, or three for fused attention."""
    if layout == "kyutai":
        yield name, tensor
    elif layout == "kyutai-current":
        name = name.replace(".self_attn.in_proj_weight", ".self_attn.in_projs.0.weight")
        yield name.replace(".self_attn.out_proj.", ".self_attn.out_projs.0."), tensor
    elif name.endswith(".self_attn.in_proj_weight"):
        stem = _hf_name(name.removesuffix("in_proj_weight"))
        for part, rows in zip("qkv", np.split(tensor, 3), strict=True):
            yield f"{stem}{part}_proj.weight", rows if part == "v" else _halves(rows, heads)
    else:
        yield _hf_name(name), tensor


def _hf_name(name: str) -> str:
    """A released name in the naming of `transformers`."""
    for pattern, replacement in _HF_RULES:
        name = re.sub(pattern, replacement, name)
    return name


def _halves(rows: Array, heads: int) -> Array:
    """Rows of each head from interleaved rotary pairs to halves: even rows first, then odd."""
    pairs = rows.reshape(heads, -1, 2, rows.shape[1])
    return np.ascontiguousarray(pairs.transpose(0, 2, 1, 3)).reshape(rows.shape)
