"""What NVIDIA's own tool says of the first card; nothing where there is none."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping


def query(fields: Mapping[str, str], seconds: float = 15.0) -> dict[str, str]:
    """Facts by our name.

    Args:
        fields: our name, and the tool's (`nvidia-smi --help-query-gpu`).
        seconds: after which a driver that hangs is given up.
    """
    asked = ",".join(fields.values())
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(fields, values, strict=False))
