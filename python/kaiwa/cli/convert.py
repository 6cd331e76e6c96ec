"""`kaiwa convert SRC OUT --to FORMAT`: a language model in another format."""

from __future__ import annotations

import argparse
from typing import Any

from kaiwa import _native
from kaiwa.cli import options

#: Formats by name.
FORMATS = tuple(_native.lm_formats())

#: Entries of a config.json by which two models differ.
SIZES = ("dim", "num_layers", "n_q", "dep_q", "card", "text_card")


def add_parser(commands: Any) -> None:
    """Adds the command to the program's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "convert",
        help="a language model in another format",
        description="Write a language model in another published format, tensor by tensor and in "
        "bounded memory. A config.json is written beside the file if there is none; it refers to "
        "the codec and tokenizer of SRC.",
    )
    parser.add_argument("source", metavar="SRC", help="repository, folder or file")
    parser.add_argument("output", metavar="OUT", help="file to write, or a folder for it")
    parser.add_argument("--to", choices=FORMATS, required=True, help="format to write")
    parser.add_argument("--lora", metavar="SOURCE", help="adapter of moshi-finetune, merged")
    parser.add_argument(
        "--config", metavar="FILE", help="config.json of the model (default: the one beside it)"
    )
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a repository")
    options.add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Converts; see the parser for the arguments."""
    import json
    import time
    from pathlib import Path

    from kaiwa.checkpoints import moshi as checkpoints
    from kaiwa.errors import InputError
    from kaiwa.moshi import open_files
    from kaiwa.terminal import progress

    found = checkpoints.find(
        args.source, revision=args.revision, config=args.config, lora=args.lora
    )
    options.check_place(args.output)
    output = Path(args.output)
    if output.is_file() and output.suffix not in (".safetensors", ".gguf"):
        raise InputError(
            f"{output} is a file and ends in neither .safetensors nor .gguf; name a folder, or a "
            "file with one of these endings"
        )
    if output.is_dir() or output.suffix not in (".safetensors", ".gguf"):
        output.mkdir(parents=True, exist_ok=True)
        output = output / _native.lm_file_name(args.to)
    if not output.parent.is_dir():
        raise InputError(f"the folder {output.parent} does not exist; create it first")
    gguf = args.to in ("gguf-q8", "candle-q8", "gguf-q4")
    if gguf != (output.suffix == ".gguf"):
        raise InputError(
            f"{output} should end in {'.gguf' if gguf else '.safetensors'} for {args.to}"
        )
    if any(output.exists() and output.samefile(path) for path in found.weights):
        raise InputError(f"{output} is also the source; name another file to write to")
    files = open_files(found)
    config = output.with_name("config.json")
    wanted = json.loads(files.config_for(args.to, output.name))
    there = json.loads(config.read_text(encoding="utf-8")) if config.exists() else None
    if there is not None and any(there.get(key, wanted[key]) != wanted[key] for key in SIZES):
        raise InputError(
            f"{config} belongs to a model of other sizes; write to another folder, or move it away"
        )
    started = time.perf_counter()
    with progress.share("converting", quiet=args.quiet) as update:
        size = files.convert(output, args.to, update)
    if there is None:
        wanted.update(found.references(output.parent))
        config.write_text(json.dumps(wanted, indent=2), encoding="utf-8")
    elif there.get("moshi_name", output.name) != output.name:
        progress.warn(
            f"the folder's config.json names {there['moshi_name']}: to use the new file, name "
            f"{output} itself"
        )
    elapsed = time.perf_counter() - started
    progress.summary(
        f"{output}: {files.layout} to {args.to}, {files.parameters:,} parameters, "
        f"{size / 1e6:.1f} MB, {elapsed:.1f} s",
        quiet=args.quiet,
    )
    return 0
