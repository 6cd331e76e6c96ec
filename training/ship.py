"""Puts trained models where Kaiwa ships them: ``python -m training.ship --work DIR``.

The folder gets the weights in 8 bits (GGUF), ``config.json``, tokenizer and codec, whose weights
are rounded so that they pack better (:mod:`training.rounding`); the weights in bfloat16 stay in the
work folder, and the curves of the run are kept beside the scripts.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

from kaiwa.cli import main as kaiwa
from training import language
from training.language import FILE, export
from training.rounding import round_codec

ROOT = Path(__file__).parents[1]
USED = "model.q8.gguf"


def main() -> None:
    """Writes the folder anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("training/work"))
    parser.add_argument("--out", type=Path, default=ROOT / "python/kaiwa/demo/model")
    parser.add_argument("--curves", type=Path, default=ROOT / "training/curves")
    options = parser.parse_args()
    state = torch.load(options.work / "lm.pt", weights_only=True)
    model = language.Language(language.size_of(state))
    model.load_state_dict(state["model"])
    shutil.rmtree(options.out, ignore_errors=True)
    export(model, options.out, torch.bfloat16)
    shutil.copytree(options.work / "codec", options.out / "mimi")
    round_codec(options.out / "mimi")
    if kaiwa(["convert", str(options.out / FILE), str(options.out / USED), "--to", "gguf-q8"]):
        raise SystemExit("the model could not be converted")
    (options.out / FILE).replace(options.work / FILE)
    config = json.loads((options.out / "config.json").read_text())
    config = {**config, "moshi_name": USED}
    (options.out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    options.curves.mkdir(exist_ok=True)
    for name in ("codec.csv", "hearing.csv", "decoder.csv", "lm.csv"):
        if (options.work / name).exists():  # a run may start from another one's codec
            shutil.copy(options.work / name, options.curves / name)
    for file in options.out.rglob("*.*"):  # some writers let only the owner read
        file.chmod(0o644)
    size = sum(file.stat().st_size for file in options.out.rglob("*"))
    print(f"{options.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
