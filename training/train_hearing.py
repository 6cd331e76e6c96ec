"""The ears of the demonstration model: ``python -m training.train_hearing --work DIR``.

Goes on training what precedes the codes (encoder, its transformer, codebooks), without the decoder
and so several times faster: codes shall tell which word is being said, whoever says it. A small
head that reads the frame's spectrum from the codes keeps them those of a codec. Starts from
``codec`` in the work folder or from ``--start``; afterwards the decoder has to be trained
(:mod:`training.train_decoder`), since codes have got another meaning. The newest state is
``hearing.pt`` in the work folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from training import clips, distributed, mixing
from training.codec import Codec, export, hann_mel, restore
from training.mixing import FRAME
from training.progress import Progress, load, save

#: Parts of a frame whose spectra are read from its codes, the window and the bands of a spectrum.
SPECTRA, WINDOW, MELS = 4, 1024, 40
#: Share of scenes in the model's own voice.
OWN = 0.15


class Scenes(IterableDataset[Any]):
    """Batches of crops; a function of seed, process and step."""

    def __init__(self, options: argparse.Namespace, first: int) -> None:
        self.options, self.first, self.rank = options, first, distributed.rank()

    def __iter__(self) -> Any:
        options = self.options
        train = clips.load(options.work / "clips_train.npz")
        own = clips.load(options.work / "clips_own.npz")
        step = self.first
        while True:
            rng = np.random.default_rng((options.seed, step, self.rank))
            rows = []
            for _ in range(options.batch):
                sound, clean, words = mixing.crop(rng, train, own, options.frames, OWN)
                states = mixing.labels(words, options.frames)
                rows.append((sound, clean, states, mixing.ended(words, options.frames)))
            yield tuple(torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
            step += 1


class Heads(nn.Module):
    """What is read from the codes in training, and is thrown away afterwards."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.state = nn.Linear(width, mixing.SILENCE + 1)
        self.early = nn.Linear(width, mixing.SILENCE + 1)
        self.ended = nn.Sequential(nn.Linear(width, 128), nn.ELU(), nn.Linear(128, mixing.NONE + 1))
        self.spectra = nn.Sequential(
            nn.Linear(width, 256), nn.ELU(), nn.Linear(256, SPECTRA * MELS)
        )
        self.register_buffer("mel", hann_mel(WINDOW, MELS))
        self.register_buffer("hann", torch.hann_window(WINDOW))

    def wanted(self, clean: Tensor) -> Tensor:
        """Logarithms of the spectra of ``[B, samples]``: ``[B, frames, SPECTRA * MELS]``."""
        hop = FRAME // SPECTRA
        padded = F.pad(clean, (WINDOW - hop, 0))
        pieces = padded.unfold(1, WINDOW, hop) * self.get_buffer("hann")
        power = torch.view_as_real(torch.fft.rfft(pieces)).square().sum(-1)
        bands = ((power + 1e-8).sqrt() @ self.get_buffer("mel").T + 1e-2).log()
        return bands.reshape(len(clean), -1, SPECTRA * MELS)


def trained_parts(codec: Codec) -> list[nn.Parameter]:
    """What precedes the codes, and the projections around them."""
    parts: list[nn.Module] = [codec.encoder, codec.encoder_transformer, codec.downsample]
    parts.append(codec.quantizer)
    return [p for part in parts for p in part.parameters()]


def losses(codec: Codec, heads: Heads, batch: tuple[Tensor, ...], half: bool) -> dict[str, Tensor]:
    """Parts of the loss, and shares of what was right."""
    sound, clean, states, ended = batch
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        latent = codec.latent(sound[:, None])
    latent = latent.float()
    first, _, commit_1 = codec.quantizer.rvq_first(latent)
    rest, _, commit_2 = codec.quantizer.rvq_rest(latent)
    semantic = codec.quantizer.rvq_first.output_proj(first).transpose(1, 2)
    acoustic = codec.quantizer.rvq_rest.output_proj(rest).transpose(1, 2)
    state, early = heads.state(semantic), heads.early(latent.transpose(1, 2))
    last = heads.ended(acoustic)
    spoken = states != mixing.SILENCE
    known = ended != mixing.NONE
    right = state.argmax(-1) == states
    return {
        "state": F.cross_entropy(state.flatten(0, 1), states.flatten()),
        "early": F.cross_entropy(early.flatten(0, 1), states.flatten()),
        "ended": F.cross_entropy(last.flatten(0, 1), ended.flatten()),
        "spectra": F.l1_loss(heads.spectra(semantic + acoustic), heads.wanted(clean)),
        "commit": commit_1 + commit_2,
        "state_right": right[spoken].float().mean(),
        "ended_right": (last.argmax(-1) == ended)[known].float().mean(),
    }


def work(options: argparse.Namespace) -> None:
    """Trains until the last step."""
    torch.manual_seed(options.seed)
    path, folder = options.work / "hearing.pt", options.work / "codec"
    state = load(path)
    codec = restore(options.start or folder)
    heads = Heads(codec.size.dimension)
    trained = [*trained_parts(codec), *heads.parameters()]
    optimiser = torch.optim.AdamW(trained, options.lr, betas=(0.9, 0.99), weight_decay=1e-3)
    step = 0
    if state:
        codec.load_state_dict(state["codec"])
        heads.load_state_dict(state["heads"])
        optimiser.load_state_dict(state["optimiser"])
        step = int(state["step"])
    books = [b for name, b in codec.named_buffers() if ".books." in name]
    batches = iter(DataLoader(Scenes(options, step), batch_size=None, num_workers=options.loaders))
    run = Progress(options.work / "hearing.csv", options, step)
    while run.goes_on:
        run.begin(optimiser)
        parts = losses(codec, heads, next(batches), not options.f32)
        loss = options.hint * (parts["state"] + 0.5 * parts["early"] + 0.5 * parts["ended"])
        loss = loss + options.spectra * parts["spectra"] + 0.25 * parts["commit"]
        optimiser.zero_grad()
        loss.backward()
        distributed.average(trained)
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        distributed.follow_first(books)
        run.end(parts)
        if distributed.rank():
            continue
        run.report()
        if run.save_due():
            kept = {"codec": codec.state_dict(), "heads": heads.state_dict(), "step": run.step}
            save(path, {**kept, "optimiser": optimiser.state_dict()})
            export(codec, folder, torch.bfloat16)


def main() -> None:
    """Reads the settings and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("training/work"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=12, help="of each process")
    parser.add_argument("--frames", type=int, default=28)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    parser.add_argument("--loaders", type=int, default=1, help="processes that make scenes, each")
    parser.add_argument("--f32", action="store_true", help="networks in f32, not bfloat16")
    parser.add_argument("--minutes", type=float, default=5, help="between checkpoints")
    parser.add_argument("--hint", type=float, default=1.0, help="weight of hearing words")
    parser.add_argument("--spectra", type=float, default=0.5, help="weight of spectra")
    parser.add_argument("--start", type=Path, help="folder of an exported codec to start from")
    distributed.run(work, parser.parse_args())


if __name__ == "__main__":
    main()
