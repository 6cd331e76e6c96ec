"""What options of a language model can be, for the command line and the server alike."""

from __future__ import annotations

#: Types that weights can be dequantised to.
DTYPES = ("float32", "bfloat16")

#: What matrices can be rounded to while loading.
QUANTIZE = ("int8", "int4")

#: How keys and values can be stored.
KV_DTYPES = ("float32", "bfloat16", "int8")
