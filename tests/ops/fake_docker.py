#!/usr/bin/env python3
"""In the place of `docker` for tests of deploy.sh: a Swarm on which a stack runs whose images have
digests. A deployment is written to FAKE_DOCKER_DEPLOYED, with the variables that it had."""

import os
import sys
from pathlib import Path

DIGEST = "@sha256:" + "0123456789abcdef" * 4


def answer(words: list[str]) -> str:
    """What it prints."""
    text = " ".join(words)
    if words[:2] == ["stack", "deploy"]:
        chosen = {n: v for n, v in os.environ.items() if n.endswith("_IMAGE") or "REVISION" in n}
        lines = "".join(f"{name}={value}\n" for name, value in chosen.items())
        Path(os.environ["FAKE_DOCKER_DEPLOYED"]).write_text(lines)
        return ""
    for asked, told in (
        ("version", "20.10"),
        ("LocalNodeState", "active"),
        ("ControlAvailable", "true"),
        ("NCPU", "8"),
        ("MemTotal", str(64 << 30)),
        ("StopGracePeriod", "6m30s"),
        ("UpdateConfig.Order", "start-first"),
        ("NanoCPUs", "1000000000"),
        ("ContainerSpec.Image", words[-1].partition("_")[2] + ":1" + DIGEST),
        ("ContainerSpec.Env", "KAIWA_REVISION=abc\nKAIWA_MODEL=me/mine"),
    ):
        if asked in text:
            return told
    return "1" if words[1:2] == ["inspect"] else ""


if __name__ == "__main__":
    print(answer(sys.argv[1:]))
