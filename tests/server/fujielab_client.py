"""Runs the genuine `MoshiClient` of the package fujielab-moshi-client: a tone frame by frame for
some seconds. Prints one JSON line with what came back.

Usage: fujielab_client.py PORT SECONDS
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from fujielab.moshi.moshi_client_lib import MoshiClient

FRAME = 1920


def main() -> None:
    port, seconds = int(sys.argv[1]), float(sys.argv[2])
    client = MoshiClient()
    client.connect(f"ws://127.0.0.1:{port}/api/chat")
    heard, pieces = [], []
    due = time.monotonic()
    for number in range(round(seconds / 0.08)):
        t = (np.arange(FRAME) + number * FRAME) / 24_000
        client.add_audio_input((0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32))
        due += 0.08
        while time.monotonic() < due:
            got = client.get_audio_output(timeout=max(0.0, min(0.02, due - time.monotonic())))
            if got is not None:
                heard.append(got)
            piece = client.get_text_output(timeout=0)
            if piece is not None:
                pieces.append(piece)
    connected = client.is_connected()
    client.disconnect()
    sound = np.concatenate(heard) if heard else np.zeros(1, np.float32)
    figures = {
        "connected": connected,
        "seconds": len(sound) / 24_000,
        "rms": float(np.sqrt(np.mean(np.square(sound)))),
        "pieces": len(pieces),
    }
    print(json.dumps(figures))


main()
