"""The voice of the demonstration model: ``python -m training.train_decoder --work DIR``.

Goes on training what follows the codes (decoder, its transformer, output projections), mostly on
the words of the model itself as conversations have them. Encoder and codebooks stay as they are, so
codes keep their meaning: this may be done before, beside or after the training of the language
model. The newest state is ``decoder.pt`` in the work folder; ``codec`` gets the new weights.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

import kaiwa
from training import clips, distributed, mixing
from training.clips import DIGITS, WORDS, Clips
from training.codec import FILE, Codec, restore
from training.progress import Progress, load, save
from training.train_codec import SpectralLoss
from training.voice import Codes, Voice

#: Parts of the network that are trained.
PARTS = ("decoder.", "decoder_transformer.", "upsample.")
PROJECTION = "output_proj"
#: Share of own answers that are broken off.
CUT = 0.15


class Others(IterableDataset[Any]):
    """Batches of scenes of all sorts, as they are heard and without noise."""

    def __init__(self, options: argparse.Namespace, first: int) -> None:
        self.options, self.first = options, first

    def __iter__(self) -> Any:
        options = self.options
        train = clips.load(options.work / "clips_train.npz")
        own = clips.load(options.work / "clips_own.npz")
        step = self.first
        while True:
            rng = np.random.default_rng((options.seed, step, distributed.rank()))
            made = [
                mixing.codec_scene(rng, train, own, options.frames)[:2]
                for _ in range(options.batch - options.own)
            ]
            yield tuple(torch.from_numpy(np.stack(part)) for part in zip(*made, strict=True))
            step += 1


def own_scene(rng: np.random.Generator, own: Clips, frames: int) -> Voice:
    """The model's own words as it says them in conversations, now and then broken off."""
    voice = Voice(own, frames)
    frame = int(rng.integers(0, 6))
    while frame < frames:
        # Digits are what it says most.
        kind = WORDS if rng.random() < 0.3 else DIGITS
        said = [int(rng.integers(len(kind))) for _ in range(int(rng.integers(1, 7)))]
        end = voice.say(frame, said)
        if rng.random() < CUT and frame + 1 < frames:
            end = int(rng.integers(frame + 1, min(end, frames) + 1))
            voice.stop(end)
        frame = end + int(rng.integers(2, 8))
    return voice


class Own:
    """Scenes of the model's own words with their codes."""

    def __init__(self, codec: Codec, options: argparse.Namespace) -> None:
        own = clips.load(options.work / "clips_own.npz")
        codes = Codes(kaiwa.Mimi.from_pretrained(options.work / "codec", device="cpu"), own)
        rng = np.random.default_rng((options.seed, 1 << 32))
        made = [own_scene(rng, own, options.frames) for _ in range(options.scenes)]
        said = clips.load(options.say) if options.say else own
        self.audio = torch.from_numpy(np.stack([voice.audio_of(said) for voice in made]))
        frames = torch.from_numpy(np.stack([codes.of(voice.parts) for voice in made]))
        quantizer = codec.quantizer
        self.codes = [
            quantizer.rvq_first.lookup(frames[:, :1]).detach(),
            quantizer.rvq_rest.lookup(frames[:, 1:]).detach(),
        ]

    def some(self, rng: np.random.Generator, count: int) -> tuple[Tensor, list[Tensor]]:
        """Audio and codes, by their vectors, of a few scenes."""
        chosen = torch.from_numpy(rng.integers(len(self.audio), size=count))
        return self.audio[chosen], [codes[chosen] for codes in self.codes]


@torch.no_grad()
def coded(codec: Codec, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Quantised vectors of audio ``[B, samples]``, before the projections: semantic, the rest."""
    latent = codec.latent(audio[:, None])
    return codec.quantizer.rvq_first(latent)[0], codec.quantizer.rvq_rest(latent)[0]


def is_trained(name: str) -> bool:
    """Whether a tensor follows the codes."""
    return name.startswith(PARTS) or PROJECTION in name


def write(codec: Codec, folder: Path) -> None:
    """Replaces the trained tensors of an exported codec; the others stay bit for bit."""
    found = load_file(folder / FILE)
    for name, value in codec.state_dict().items():
        if is_trained(name):
            found[name] = value.to(found[name].dtype).contiguous()
    temporary = folder / "unfinished"
    save_file(found, temporary)
    temporary.replace(folder / FILE)


def work(options: argparse.Namespace) -> None:
    """Trains until the last step."""
    torch.manual_seed(options.seed)
    half = partial(torch.autocast, "cpu", torch.bfloat16, enabled=not options.f32)

    path, folder = options.work / "decoder.pt", options.work / "codec"
    codec = restore(folder).eval()
    state = load(path)
    trained = []
    for name, value in codec.named_parameters():
        value.requires_grad_(is_trained(name))
        if is_trained(name):
            trained.append(value)
    optimiser = torch.optim.AdamW(trained, options.lr, betas=(0.9, 0.99), weight_decay=1e-3)
    step = 0
    if state:
        codec.load_state_dict(state["decoder"], strict=False)
        if "optimiser" in state:
            optimiser.load_state_dict(state["optimiser"])
        step = int(state["step"])
    count = sum(p.numel() for p in trained)
    print(f"{count / 1e6:.2f} M parameters of the decoder, from step {step}", flush=True)
    spectral = SpectralLoss()
    mine, own = Own(codec, options), options.own
    others = iter(DataLoader(Others(options, step), batch_size=None, num_workers=1))
    run = Progress(options.work / "decoder.csv", options, step)
    while run.goes_on:
        run.begin(optimiser)
        draws = np.random.default_rng((options.seed, run.step, distributed.rank(), 1))
        clean, codes = mine.some(draws, own)
        if own < options.batch:
            audio, wanted = next(others)
            clean = torch.cat((clean, wanted))
            codes = [torch.cat(pair) for pair in zip(codes, coded(codec, audio), strict=True)]
        with half():
            out = codec.synthesise(*codes)[:, 0]
        out = out.float()
        parts: dict[str, Tensor] = {"own_spectral": spectral(out[:own], clean[:own])}
        if own < options.batch:
            parts["spectral"] = spectral(out[own:], clean[own:])
        parts["own_wave"] = F.l1_loss(out[:own], clean[:own]) / clean[:own].abs().mean()
        loss = parts["own_spectral"] + parts.get("spectral", torch.zeros(()))
        loss = loss + options.wave * parts["own_wave"]
        optimiser.zero_grad()
        loss.backward()
        distributed.average(trained)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        run.end(parts)
        if distributed.rank():
            continue
        run.report()
        if run.save_due():
            kept = {n: v for n, v in codec.state_dict().items() if is_trained(n)}
            save(path, {"decoder": kept, "optimiser": optimiser.state_dict(), "step": run.step})
            write(codec, folder)


def main() -> None:
    """Reads the settings and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("training/work"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=6, help="of each process")
    parser.add_argument("--own", type=int, default=5, help="of them, of the model's own words")
    parser.add_argument("--scenes", type=int, default=500, help="of the model's own words")
    parser.add_argument(
        "--say", type=Path, help="own clips to be heard, if not those that the codes are of"
    )
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--wave", type=float, default=1.0, help="weight of own waveforms")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    parser.add_argument("--f32", action="store_true", help="networks in f32, not bfloat16")
    parser.add_argument("--minutes", type=float, default=5, help="between checkpoints")
    distributed.run(work, parser.parse_args())


if __name__ == "__main__":
    main()
