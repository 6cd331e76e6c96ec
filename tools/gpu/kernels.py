"""What NVIDIA's compiler says of the kernels: registers, spills and shared memory, for docs/gpu.md.

Usage: nvcc ... --resource-usage 2>&1 | python -m tools.gpu.kernels [--write]
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from dataclasses import dataclass

from tools.gpu.page import PAGE

_BEGIN, _END = "<!-- kernels: begin -->\n", "<!-- kernels: end -->\n"
_COMPILES = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)a?'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass
class Kernel:
    """One kernel for one architecture."""

    name: str
    architecture: int
    registers: int = 0
    #: Bytes of registers that do not fit and are stored and loaded again.
    spilled: int = 0
    #: Bytes of shared memory that the kernel always has.
    shared: int = 0


def parse(text: str) -> list[Kernel]:
    """The kernels in what ptxas printed.

    Raises:
        ValueError: It names no kernel, or one without its registers.
    """
    found: list[Kernel] = []
    for line in text.splitlines():
        if match := _COMPILES.search(line):
            found.append(Kernel(match[1], int(match[2])))
        elif found and (match := _STACK.search(line)):
            found[-1].spilled = int(match[2]) + int(match[3])
        elif found and (match := _USED.search(line)):
            found[-1].registers = int(match[1])
            shared = _SHARED.search(line)
            found[-1].shared = int(shared[1]) if shared else 0
    if not found:
        raise ValueError("nothing that ptxas prints with --resource-usage was given")
    for kernel in found:
        if not kernel.registers:
            raise ValueError(f"ptxas printed no registers of {kernel.name}")
    return found


def table(kernels: list[Kernel]) -> str:
    """A row for each kernel; spills are named below it, if there are any."""
    architectures = sorted({kernel.architecture for kernel in kernels})
    by_name: dict[str, dict[int, Kernel]] = defaultdict(dict)
    for kernel in kernels:
        by_name[kernel.name][kernel.architecture] = kernel
    names = ", ".join(f"sm_{a}" for a in architectures)
    lines = [f"| Kernel | Registers: {names} | Shared memory, bytes |", "|---|---|---|"]
    for name, of in sorted(by_name.items()):
        registers = ", ".join(str(of[a].registers) if a in of else "-" for a in architectures)
        lines.append(f"| `{name}` | {registers} | {max(kernel.shared for kernel in of.values())} |")
    spilled = [kernel for kernel in kernels if kernel.spilled]
    listed = ", ".join(f"`{k.name}` on sm_{k.architecture} ({k.spilled} bytes)" for k in spilled)
    lines += ["", f"Spilled registers: {listed or 'none'}."]
    return "\n".join(lines)


def rendered(page: str, text: str) -> str:
    """The page with its table replaced.

    Raises:
        ValueError: The page has no place for it.
    """
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the page lacks {_BEGIN.strip()} or {_END.strip()}")
    return f"{before}{begin}\n{text}\n\n{end}{after}"


def main() -> int:
    """Prints the table, or writes it into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/gpu.md")
    args = parser.parse_args()
    kernels = parse(sys.stdin.read())
    text = table(kernels)
    if args.write:
        PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
    else:
        print(text)
    return 1 if any(kernel.spilled for kernel in kernels) else 0


if __name__ == "__main__":
    sys.exit(main())
