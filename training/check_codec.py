"""Does Kaiwa say what PyTorch says? ``python -m training.check_codec --work DIR``.

Encodes and decodes speech of callers that the exported codec has not met, with PyTorch and with
Kaiwa, and compares codes and audio. Fails if they differ by
more than the order of sums explains.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import kaiwa
from training import clips, mixing
from training.codec import Codec, CodecSize, export, restore

Array = NDArray[np.float32]

#: Share of codes that may differ: a sum in another order can fall on the other side of an edge.
CODES = 0.005
#: Largest difference of audio decoded from the same codes, where speech peaks at about 0.6.
AUDIO = 2e-5
SECONDS = 4


@torch.no_grad()
def made_up(audio: Array, seed: int) -> Codec:
    """Random weights, far from their starting values so that none is forgotten unnoticed."""
    torch.manual_seed(seed)
    codec = Codec(CodecSize(bins=64))
    for name, value in codec.named_parameters():
        if name.endswith("scale") or "norm" in name:
            value.add_(torch.randn_like(value) * 0.3)
    latent = codec.latent(torch.from_numpy(audio)[:, None]).transpose(0, 1).flatten(1)
    codec.quantizer.rvq_first.fit(latent[None])
    codec.quantizer.rvq_rest.fit(latent[None])
    return codec.eval()


def scenes(work: Path, count: int, seed: int) -> Array:
    """Speech ``[count, samples]`` of held-out callers through microphones and rooms."""
    held_out = clips.load(work / "clips_held_out.npz")
    rng = np.random.default_rng(seed)
    frames = int(SECONDS * 12.5)
    return np.stack([mixing.codec_scene(rng, held_out, held_out, frames)[0] for _ in range(count)])


def main() -> None:
    """Prints what differs and ends with 1 if it is too much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("training/work"))
    parser.add_argument("--codec", type=Path, help="folder (default: WORK/codec)")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--random", type=int, metavar="SEED", help="random weights instead")
    options = parser.parse_args()
    audio = scenes(options.work, options.count, 1)
    random = options.random is not None
    folder = options.codec or options.work / "codec"
    codec = made_up(audio, options.random) if random else restore(folder).eval()
    with tempfile.TemporaryDirectory() as exported:
        export(codec, Path(exported))
        mimi = kaiwa.Mimi.from_pretrained(exported, num_codebooks=codec.size.books, device="cpu")
        stream = mimi.stream(options.count)
        said = stream.encode(audio[:, None])
        with torch.no_grad():
            wanted = codec.encode(torch.from_numpy(audio)[:, None]).numpy()
            again = codec.decode(torch.from_numpy(said).long()).numpy()
        # Both decode Kaiwa's codes, so that a code that differs does not count twice.
        spoken = stream.decode(said)
        differ = (said != wanted).mean((0, 2))
        far = float(np.abs(spoken - again).max())
    print("codes that differ, by codebook:", " ".join(f"{100 * d:.2f} %" for d in differ))
    print(f"codes in use: {len(np.unique(said[:, 0]))} of {mimi.cardinality} semantic")
    print(f"largest difference of audio: {far:.1e} of a peak of {np.abs(again).max():.2f}")
    if differ.mean() > CODES or far > AUDIO:
        sys.exit("Kaiwa and PyTorch do not agree: training with this arithmetic would be wasted")


if __name__ == "__main__":
    main()
