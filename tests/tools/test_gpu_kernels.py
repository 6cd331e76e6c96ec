"""What the compiler says of the kernels becomes the table of docs/gpu.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tools.gpu import kernels

ROOT = Path(__file__).parents[2]

PRINTED = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'kaiwa_norm' for 'sm_80'
ptxas info    : Function properties for kaiwa_norm
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 31 registers, used 1 barriers, 256 bytes smem, 392 bytes cmem[0]
ptxas info    : Compile time = 5.0 ms
ptxas info    : Compiling entry function 'kaiwa_norm' for 'sm_90'
ptxas info    : Function properties for kaiwa_norm
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 28 registers, used 1 barriers
"""


def test_registers_and_spills_are_read_for_each_architecture() -> None:
    """A spill is named, so that it cannot go unseen."""
    found = kernels.parse(PRINTED)
    assert found == [
        kernels.Kernel("kaiwa_norm", 80, registers=31, shared=256),
        kernels.Kernel("kaiwa_norm", 90, registers=28, spilled=20),
    ]
    text = kernels.table(found)
    assert "| `kaiwa_norm` | 31, 28 | 256 |" in text
    assert "`kaiwa_norm` on sm_90 (20 bytes)" in text
    assert kernels.table(found[:1]).endswith("Spilled registers: none.")


@pytest.mark.parametrize("printed", ["", "Compiling entry function 'kaiwa_norm' for 'sm_80'\n"])
def test_what_is_no_output_of_the_compiler_is_refused(printed: str) -> None:
    """An empty table would look like a good one."""
    with pytest.raises(ValueError, match="ptxas"):
        kernels.parse(printed)


def test_the_page_has_every_product_and_attention() -> None:
    """Kernels that are made by macros are easily forgotten."""
    page = (ROOT / "docs/gpu.md").read_text(encoding="utf-8")
    assert kernels.rendered(page, "x").count("x") >= 1
    folder = ROOT / "rust/kaiwa-core/cuda"
    forms = re.findall(r"^KAIWA_PRODUCTS?\((\w+),", (folder / "product.cu").read_text(), re.M)
    rings = re.findall(r"^KAIWA_ATTENTIONS\((\w+),", (folder / "attention.cu").read_text(), re.M)
    assert len(set(forms)) == 10
    assert len(rings) == 3
    for form in forms:
        assert f"`kaiwa_product_{form}_2x4`" in page
    for ring in rings:
        assert f"`kaiwa_attention_{ring}_128`" in page
    sources = "".join(path.read_text() for path in folder.glob("*.cu"))
    single = re.findall(r"^KAIWA_KERNEL\((\w+),", sources, re.M)
    assert {"embed", "norm", "sample"} <= set(single)
    for name in single:
        assert f"`kaiwa_{name}`" in page
    assert "Spilled registers: none." in page
