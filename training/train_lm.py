"""Training of the demonstration language model: ``python -m training.train_lm --work DIR``.

Stops and goes on at any time: the newest state is ``lm.pt`` in the work folder, replaced whole
every few minutes; a run that finds one goes on from it, on the same steps. The model is exported
to ``model`` in the work folder, with the codec beside it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from training import conversations, distributed, mixing, words
from training.codec import parameters
from training.language import Language, LmSize, as_state, export, restore, size_of
from training.progress import Progress, load, save

#: Layers after which the hint looks: what was heard should be clear by then.
MIDDLE = 2
#: Weight of a frame without text beside one with text.
PAD_WEIGHT = 0.2
#: Speaking steps whose codes are learnt, and silent ones per speaking one: own words always have
#: the same codes, so a share is enough.
SPEAKING, SILENT = 0.5, 0.15


def batch_of(
    frames: NDArray[np.uint16], labels: NDArray[np.uint8], seed: int, step: int, size: int
) -> tuple[Tensor, Tensor, torch.Generator]:
    """Conversations of a step: a function of seed and step, so that runs can go on."""
    rng = np.random.default_rng((seed, step, distributed.rank()))
    chosen = np.sort(rng.choice(len(frames), size, replace=len(frames) < size))
    draws = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
    picked = torch.from_numpy(frames[chosen].astype(np.int64))
    return picked, torch.from_numpy(labels[chosen].astype(np.int64)), draws


def muddled(frames: Tensor, first: int, card: int, share: float, draws: torch.Generator) -> Tensor:
    """With a share of the caller's codes replaced by any, against learning clips by heart.

    Each codebook of a conversation has a share of its own: most lose little, now and then one is
    lost, so that none is relied on alone.
    """
    caller = frames[:, first:]
    shares = torch.rand((*caller.shape[:2], 1), generator=draws) ** (1 / max(share, 1e-6) - 1)
    wrong = torch.rand(caller.shape, generator=draws) < shares
    other = torch.randint(card, caller.shape, generator=draws)
    return torch.cat((frames[:, :first], torch.where(wrong, other, caller)), 1)


def speaking(text: Tensor) -> Tensor:
    """Frames ``[B, S]`` in which the model may be speaking: up to ten after a word began."""
    word = (text != words.PAD).float()[:, None]
    return F.max_pool1d(F.pad(word, (10, 0)), 11, 1)[:, 0] > 0


def losses(
    model: Language,
    hint: nn.Linear,
    frames: Tensor,
    labels: Tensor,
    draws: torch.Generator,
    half: bool = False,
) -> dict[str, Tensor]:
    """Parts of the loss, and shares of what was right; ``half``: networks in bfloat16."""
    books = model.size.books
    columns = model.columns(frames)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        z, middle = model.hear(columns, MIDDLE)
    z, middle = z.float(), middle.float()
    text, logits = columns[:, 0], model.text(z)
    weight = torch.where(text == words.PAD, PAD_WEIGHT, 1.0)
    each = F.cross_entropy(logits.flatten(0, 1), text.flatten(), reduction="none")
    text_loss = (each * weight.flatten()).sum() / weight.sum()
    # Step s has heard frames up to s - 1, so it is asked for the word in that one.
    guess = hint(middle[:, 1:])
    heard = labels[:, :-1]
    hint_loss = F.cross_entropy(guess.flatten(0, 1), heard.flatten())
    loud = speaking(text)
    chance = torch.where(loud, SPEAKING, SILENT * loud.float().mean())
    take = torch.rand(loud.shape, generator=draws) < chance
    take[:, 0] = False  # delayed rows have no code there
    rows = columns.transpose(1, 2)[take]
    codes = rows[:, 1 : 1 + books]
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        audio = model.audio(z[take], rows[:, :books])
    audio = audio.float()
    audio_each = F.cross_entropy(audio.flatten(0, 1), codes.flatten(), reduction="none")
    audio_each = audio_each.view(-1, books)
    spoken = heard != mixing.SILENCE
    word = (text >= words.SPECIAL) & (torch.arange(text.shape[1]) > conversations.HELLO)
    right = logits.argmax(-1) == text
    return {
        "text": text_loss,
        "audio": audio_each.mean(),
        "hint": hint_loss,
        "semantic": audio_each[:, 0].mean(),
        "words": right[word].float().mean() if word.any() else right.float().mean(),
        "quiet": right[text == words.PAD].float().mean(),
        "heard": (guess.argmax(-1) == heard)[spoken].float().mean()
        if spoken.any()
        else right.float().mean(),
        "codes": (audio.argmax(-1) == codes).float().mean(),
    }


@torch.no_grad()
def held_out(
    model: Language, hint: nn.Linear, frames: NDArray[np.uint16], labels: NDArray[np.uint8]
) -> dict[str, float]:
    """Means of the same figures for callers that were not trained on."""
    model.eval()
    sums: dict[str, float] = {}
    count = 0
    for at in range(0, min(len(frames), 64), 16):
        part = torch.from_numpy(frames[at : at + 16].astype(np.int64))
        heard = torch.from_numpy(labels[at : at + 16].astype(np.int64))
        draws = torch.Generator().manual_seed(at)
        for name, value in losses(model, hint, part, heard, draws).items():
            sums[name] = sums.get(name, 0.0) + float(value)
        count += 1
    model.train()
    return {name: value / count for name, value in sums.items()}


def publish(model: Language, work: Path) -> None:
    """Writes the folder that Kaiwa loads: model, configuration, tokenizer and codec."""
    export(model, work / "model", torch.bfloat16)
    shutil.copytree(work / "codec", work / "model" / "mimi", dirs_exist_ok=True)


def work(options: argparse.Namespace) -> None:
    """Trains until the last step."""
    torch.manual_seed(options.seed)
    data = options.data or options.work / "conversations"
    frames, labels = conversations.load(data / "train")
    test_frames, test_labels = conversations.load(data / "held_out")
    path = options.work / "lm.pt"
    state = load(path)
    model = Language(size_of(state) if state else LmSize())
    if options.start and not state:
        model = restore(options.start, model.size)
    for layer in model.layers:
        layer.dropout = options.dropout
    hint = nn.Linear(model.size.dim, mixing.SILENCE + 1)
    trained = [*model.parameters(), *hint.parameters()]
    matrices = [p for p in trained if p.dim() > 1 and p.shape[0] != 1]
    others = [p for p in trained if not (p.dim() > 1 and p.shape[0] != 1)]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}],
        options.lr,
        betas=(0.9, 0.98),
    )
    step = 0
    if state:
        model.load_state_dict(state["model"])
        hint.load_state_dict(state["hint"])
        if "optimiser" in state:
            optimiser.load_state_dict(state["optimiser"])
        step = int(state["step"])
    count = f"{parameters(model) / 1e6:.2f} M parameters"
    print(f"{count}, {len(frames)} conversations, from step {step}", flush=True)
    first = 1 + model.size.books
    run = Progress(options.work / "lm.csv", options, step, options.every)
    while run.goes_on:
        run.begin(optimiser)
        clean, heard, draws = batch_of(frames, labels, options.seed, run.step, options.batch)
        seen = muddled(clean, first, model.size.card, options.muddle, draws)
        parts = losses(model, hint, seen, heard, draws, not options.f32)
        loss = parts["text"] + parts["audio"] + 0.5 * parts["hint"]
        optimiser.zero_grad()
        loss.backward()
        distributed.average(trained)
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        run.end(parts)
        if distributed.rank():
            continue
        run.report(lambda: held_out(model, hint, test_frames, test_labels))
        if run.save_due():
            save(
                path,
                {
                    "size": as_state(model.size),
                    "model": model.state_dict(),
                    "hint": hint.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "step": run.step,
                },
            )
            publish(model, options.work)


def main() -> None:
    """Reads the settings and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("training/work"))
    parser.add_argument("--data", type=Path, help="folder (default: WORK/conversations)")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=8, help="of each process")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="folder of an exported model to start from")
    parser.add_argument("--muddle", type=float, default=0.12, help="share of caller codes replaced")
    parser.add_argument("--dropout", type=float, default=0.1, help="of the temporal transformer")
    parser.add_argument("--f32", action="store_true", help="networks in f32, not bfloat16")
    parser.add_argument("--minutes", type=float, default=5, help="between checkpoints")
    parser.add_argument("--every", type=int, default=50, help="steps between rows of the curve")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    distributed.run(work, parser.parse_args())


if __name__ == "__main__":
    main()
