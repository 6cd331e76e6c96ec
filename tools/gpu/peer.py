"""PyTorch on the same card: what its package for this model takes for a step, and what the card
gives at best."""

from __future__ import annotations

import importlib
import os
import time
from typing import Any

from tools.gpu import timing
from tools.gpu.plan import Sizes
from tools.gpu.record import Record

#: The released 7B, as the package's own loader describes it; the ring of its attention always
#: reads all of the context.
_SEVEN = {
    "dim": 4096,
    "text_card": 32000,
    "existing_text_padding_id": 3,
    "n_q": 16,
    "dep_q": 8,
    "card": 2048,
    "num_heads": 32,
    "num_layers": 32,
    "hidden_scale": 4.125,
    "causal": True,
    "layer_scale": None,
    "context": 3000,
    "max_period": 10000,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "depformer_dim": 1024,
    "depformer_num_heads": 16,
    "depformer_num_layers": 6,
    "depformer_dim_feedforward": 4224,
    "depformer_multi_linear": True,
    "depformer_context": 8,
    "depformer_max_period": 10000,
    "depformer_gating": "silu",
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
    "delays": [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
}


def ceilings() -> dict[str, float]:
    """Bytes and operations a second that the card gives to PyTorch; empty without it."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    source = torch.randn(1 << 30, dtype=torch.bfloat16, device="cuda")
    target = torch.empty_like(source)
    left = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")

    def seconds(work: Any, count: int = 10) -> float:
        work()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(count):
            work()
        torch.cuda.synchronize()
        return (time.perf_counter() - began) / count

    copied = 2 * source.numel() * source.element_size()
    copy = seconds(lambda: target.copy_(source))
    product = seconds(lambda: left @ left)
    torch.cuda.empty_cache()
    return {"copy_gb_s": copied / copy / 1e9, "bf16_tflop_s": 2 * 8192**3 / product / 1e12}


def measure(device: str, sizes: Sizes, record: Record) -> None:
    """Steps of the package `moshi` with random bf16 weights, one conversation."""
    # Its compiler needs minutes; its CUDA graphs stay on.
    os.environ["NO_TORCH_COMPILE"] = "1"
    try:
        torch = importlib.import_module("torch")
        lm = importlib.import_module("moshi.models.lm")
    except ImportError as error:
        record.put(note=f"not measured: {error}")
        return
    if not device.startswith("cuda") or sizes.model != "7b":
        record.put(note="measured on a GPU only, at the size of the released model")
        return
    record.put(torch=torch.__version__)
    with torch.device("meta"):
        model = lm.LMModel(**_SEVEN, dtype=torch.bfloat16)
    model = model.to_empty(device="cuda").eval()
    generator = torch.Generator("cuda").manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02, generator=generator)
    step_of = lm.LMGen(model, temp=0.8, temp_text=0.7)
    codes = torch.randint(0, 2048, (64, 1, 8, 1), device="cuda", generator=generator)
    at = 0

    def step() -> None:
        nonlocal at
        at += 1
        step_of.step(codes[at % len(codes)])
        torch.cuda.synchronize()

    with torch.no_grad(), step_of.streaming(1):
        times = timing.milliseconds(step, sizes.steps, warm_up=8)
    record.row("rows", slots=1, format="bf16", step_ms=timing.summary(times))
