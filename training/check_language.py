"""Does Kaiwa compute what PyTorch trains? ``python -m training.check_language``.

Exports a language model of random weights (or a checkpoint's), lets Kaiwa converse greedily while
it hears random codes, and compares every logit and every token with PyTorch's. Fails if they
differ by more than the order of sums explains.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import kaiwa
from training.language import Language, LmSize, export, size_of

#: Largest difference of logits, which reach about 5 with random weights.
LOGITS = 2e-4


def network(checkpoint: Path | None, seed: int) -> Language:
    """The model of a checkpoint, or one of random weights."""
    torch.manual_seed(seed)
    if checkpoint is None:
        model = Language(LmSize(context=20))
        with torch.no_grad():
            for name, value in model.named_parameters():
                if name.endswith("alpha"):
                    value.add_(torch.randn_like(value) * 0.2)
        return model.eval()
    state = torch.load(checkpoint, weights_only=True)
    model = Language(size_of(state))
    model.load_state_dict(state["model"])
    return model.eval()


def main() -> None:
    """Prints what differs and ends with 1 if it is too much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="such as training/work/lm.pt")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = network(options.checkpoint, options.seed)
    books, steps = model.size.books, options.steps
    heard = np.random.default_rng(options.seed).integers(0, model.size.card, (books, steps))
    with tempfile.TemporaryDirectory() as folder:
        export(model, Path(folder))
        moshi = kaiwa.Moshi.from_pretrained(
            folder, device="cpu", dtype="float32", kv_dtype="float32"
        )
        stream = moshi.stream(1, temp=0, temp_text=0)
        # The first codes are given twice, since those of the first step are not looked at.
        columns = np.zeros((1 + books, steps), np.int64)
        text_logits, audio_logits = [], []
        for step in range(steps):
            out = stream.step(heard[None, :, max(step - 1, 0)].astype(np.int32))
            columns[0, step] = out.step_text_tokens[0]
            columns[1:, step] = out.step_audio_tokens[0]
            text_logits.append(stream.text_logits[0].copy())
            audio_logits.append(stream.audio_logits[0].copy())
    # What was chosen at the first step for delayed rows belongs to no frame.
    own = torch.from_numpy(columns)
    whole = torch.cat((own, torch.from_numpy(heard)))[None]
    delayed = model.columns(whole)
    delayed[0, : 1 + books] = own
    chain = delayed.clone()
    for row, delay in enumerate(model.size.delays[: 1 + books]):
        delayed[0, row, :delay] = model.initial(1)[0, row, 0]
    with torch.no_grad():
        z, _ = model.hear(delayed)
        text = model.text(z)[0].numpy()
        audio = model.audio(z[0], chain[0, :books].T).numpy()
    far_text = float(np.abs(text - np.stack(text_logits)).max())
    far_audio = float(np.abs(audio - np.stack(audio_logits)).max())
    same = (text.argmax(1) == columns[0]).mean()
    same_audio = (columns[1:] == audio.argmax(2).T).mean()
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {steps} steps")
    print(f"text: logits within {far_text:.1e} of {np.abs(text).max():.1f}, {same:.1%} of tokens")
    print(
        f"audio: logits within {far_audio:.1e} of {np.abs(audio).max():.1f}, "
        f"{same_audio:.1%} of tokens"
    )
    if max(far_text, far_audio) > LOGITS or min(same, same_audio) < 0.999:
        sys.exit("Kaiwa and PyTorch do not agree: training with this arithmetic would be wasted")


if __name__ == "__main__":
    main()
