"""Training of the demonstration codec: ``python -m training.train_codec --work DIR``.

Stops and goes on at any time: the newest state is ``codec.pt`` in the work folder, replaced
whole every few minutes; a run that finds one goes on from it.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from training import clips, mixing
from training.codec import (
    Codec,
    CodecSize,
    as_state,
    export,
    hann_mel,
    parameters,
    restore,
    size_of,
)
from training.progress import Progress, load, save


class Scenes(IterableDataset[Any]):
    """Random crops without end; a function of the seed and the step, so that runs can go on."""

    def __init__(self, work: Path, options: argparse.Namespace, first: int) -> None:
        self.work, self.options, self.first = work, options, first

    def __iter__(self) -> Any:
        train = clips.load(self.work / "clips_train.npz")
        own = clips.load(self.work / "clips_own.npz")
        step = self.first
        while True:
            rng = np.random.default_rng((self.options.seed, step))
            made = [
                mixing.codec_scene(rng, train, own, self.options.frames)
                for _ in range(self.options.batch)
            ]
            yield tuple(torch.from_numpy(np.stack(part)) for part in zip(*made, strict=True))
            step += 1


class SpectralLoss(nn.Module):
    """How far two signals are apart in the logarithm of their mel spectra and in their spectra."""

    def __init__(self) -> None:
        super().__init__()
        self.windows = ((2048, 80), (1024, 80), (512, 40), (256, 20))
        for window, mels in self.windows:
            self.register_buffer(f"hann{window}", torch.hann_window(window))
            self.register_buffer(f"mel{window}", hann_mel(window, mels))

    def spectrum(self, x: Tensor, window: int) -> Tensor:
        """Magnitudes ``[B, bins, frames]`` of ``[B, samples]``."""
        hann = self.get_buffer(f"hann{window}")
        found = torch.stft(x, window, window // 4, window=hann, return_complex=True)
        return (torch.view_as_real(found).square().sum(-1) + 1e-8).sqrt()

    def forward(self, got: Tensor, wanted: Tensor) -> Tensor:
        loss = got.new_zeros(())
        for window, _ in self.windows:
            mel = self.get_buffer(f"mel{window}")
            a, b = self.spectrum(got, window), self.spectrum(wanted, window)
            loss = loss + F.l1_loss((mel @ a + 1e-2).log(), (mel @ b + 1e-2).log())
            loss = loss + 0.5 * F.l1_loss(a, b) / b.mean().clamp(min=1e-2)
        return loss / len(self.windows)


def main() -> None:
    """Trains until the last step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("training/work"))
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain-steps", type=int, default=150, help="steps before quantisation")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--f32", action="store_true", help="networks in f32, not bfloat16")
    parser.add_argument("--minutes", type=float, default=5, help="between checkpoints")
    parser.add_argument("--hint", type=float, default=2.0, help="weight of hearing words")
    parser.add_argument("--start", type=Path, help="folder of an exported codec to start from")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    half = partial(torch.autocast, "cpu", torch.bfloat16, enabled=not options.f32)

    path = options.work / "codec.pt"
    state = load(path)
    codec = Codec(size_of(state) if state else CodecSize())
    if options.start and not state:
        codec = restore(options.start, codec.size)
    hint = nn.ModuleList([nn.Linear(codec.size.dimension, mixing.SILENCE + 1) for _ in range(2)])
    everything = nn.ModuleList([codec, hint])
    trained = [p for p in everything.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, options.lr, betas=(0.9, 0.99), weight_decay=1e-3)
    step = 0
    if state:
        codec.load_state_dict(state["codec"])
        hint.load_state_dict(state["hint"])
        if "optimiser" in state:
            optimiser.load_state_dict(state["optimiser"])
        step = int(state["step"])
    print(f"{parameters(codec) / 1e6:.2f} M parameters, from step {step}", flush=True)
    spectral = SpectralLoss()
    batches = iter(DataLoader(Scenes(options.work, options, step), batch_size=None, num_workers=1))
    seen: list[Tensor] = []
    run = Progress(options.work / "codec.csv", options, step)
    while run.goes_on:
        audio, clean, wanted = next(batches)
        run.begin(optimiser)
        quantize = bool(options.start) or run.step >= options.plain_steps
        with half():
            latent = codec.latent(audio[:, None])
        latent = latent.float()
        if not quantize and run.step >= options.plain_steps - 20:
            seen.append(latent.detach().transpose(0, 1).flatten(1))
            if run.step == options.plain_steps - 1:
                for group_ in (codec.quantizer.rvq_first, codec.quantizer.rvq_rest):
                    group_.fit(torch.cat(seen, 1)[None])
        first, _, commit_1 = codec.quantizer.rvq_first(latent, quantize)
        rest, _, commit_2 = codec.quantizer.rvq_rest(latent, quantize)
        semantic = codec.quantizer.rvq_first.output_proj(first)
        with half():
            out = codec.synthesise(first, rest)[:, 0]
        out = out.float()
        guess = hint[0](semantic.transpose(1, 2)).flatten(0, 1)
        early = hint[1](latent.transpose(1, 2)).flatten(0, 1)
        target = wanted.flatten()
        parts = {
            "spectral": spectral(out, clean),
            "wave": F.l1_loss(out, clean) / clean.abs().mean().clamp(min=1e-2),
            "commit": commit_1 + commit_2,
            "hint": F.cross_entropy(guess, target) + 0.5 * F.cross_entropy(early, target),
        }
        loss = parts["spectral"] + 0.1 * parts["wave"] + 0.25 * parts["commit"]
        loss = loss + options.hint * parts["hint"]
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        right = guess.argmax(1) == target
        spoken = target != mixing.SILENCE
        parts["state"] = right[spoken].float().mean() if spoken.any() else right.float().mean()
        run.end(parts)
        run.report()
        if run.save_due():
            save(
                path,
                {
                    "size": as_state(codec.size),
                    "codec": codec.state_dict(),
                    "hint": hint.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "step": run.step,
                },
            )
            export(codec, options.work / "codec", torch.bfloat16)


if __name__ == "__main__":
    main()
