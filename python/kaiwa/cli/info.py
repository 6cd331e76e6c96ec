"""`kaiwa info PATH_OR_REPO`: what a file, folder or repository is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kaiwa.cli import options


def add_parser(commands: Any) -> None:
    """Adds the command to the program's parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "info",
        help="what a file, folder or repository is",
        description="Describe a checkpoint, a file of codes, an audio file, a folder with a "
        "model, or a Hugging Face repository (fetched if it is not in the cache).",
    )
    parser.add_argument(
        "source", metavar="PATH_OR_REPO", help="file, folder or repository; - is standard input"
    )
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a repository")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--tensors", action="store_true", help="list every tensor of a checkpoint")
    options.add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Describes; see the parser for the arguments."""
    from kaiwa import _streams
    from kaiwa.terminal import table

    if _streams.is_stream(args.source):
        with _streams.as_file(args.source) as copy:
            rows = {**described(copy, args), "path": _streams.name_of(args.source)}
    else:
        rows = described(Path(args.source), args)
    table.show(rows, as_json=args.json)
    return 0


def described(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What there is at a path, or in a repository of the name."""
    from kaiwa import codes_file

    if not path.is_file():
        rows = model(args.source, args.revision, args.tensors)
    elif codes_file.is_codes(path):
        rows = codes(path)
    elif path.suffix.lower() == ".gguf":
        rows = language_model(args.source, args.revision)
    elif path.suffix.lower() == ".safetensors":
        rows = checkpoint(path, args.tensors)
        if rows["layout"] == "unknown":
            rows = language_model_or(rows, args.source)
    else:
        rows = audio(path)
    return rows


def audio(path: Path) -> dict[str, Any]:
    """An audio file."""
    from kaiwa.audio_files import AudioReader

    with AudioReader(path) as reader:
        return {
            "kind": "audio",
            "path": str(path),
            "format": reader.format,
            "sample_rate": reader.sample_rate,
            "channels": reader.channels,
            "seconds": None if reader.frames is None else reader.frames / reader.sample_rate,
            "file_bytes": path.stat().st_size,
        }


def codes(path: Path) -> dict[str, Any]:
    """A file of codes."""
    from kaiwa import codes_file

    values, info = codes_file.read(path)
    bits = info.frame_rate * info.num_codebooks * max(1, (info.cardinality - 1).bit_length())
    return {
        "kind": "codes",
        "path": str(path),
        "frames": int(values.shape[1]),
        "num_codebooks": info.num_codebooks,
        "cardinality": info.cardinality,
        "seconds": info.seconds,
        "bits_per_second": bits,
        "sample_rate": info.sample_rate,
        "frame_rate": info.frame_rate,
        "frame_size": info.frame_size,
        "num_samples": info.num_samples,
        "model": info.model,
        "version": info.version,
        "file_bytes": path.stat().st_size,
    }


def checkpoint(path: Path, tensors: bool) -> dict[str, Any]:
    """A checkpoint: what the native reader finds in its header."""
    import json
    from collections import Counter

    from kaiwa import _native

    summary = json.loads(_native.safetensors_summary(str(path)))
    found = summary["tensors"]
    types = Counter(tensor["dtype"] for tensor in found)
    rows: dict[str, Any] = {
        "kind": "checkpoint",
        "path": str(path),
        "layout": layout([tensor["name"] for tensor in found]),
        "tensors": len(found),
        "parameters": summary["parameters"],
        "types": dict(sorted(types.items())),
        "file_bytes": summary["file_bytes"],
    }
    codebooks = sum(t["name"].endswith(("embedding_sum", "embed_sum", "embed_avg")) for t in found)
    if codebooks:
        rows["codebooks"] = codebooks
    if summary["metadata"]:
        rows["metadata"] = summary["metadata"]
    if tensors:
        rows["tensor_list"] = {t["name"]: f"{t['dtype']} {t['shape']}" for t in found}
    return rows


def layout(names: list[str]) -> str:
    """Which published naming of Mimi the tensors follow, as far as names show."""
    every = "\n".join(names)
    if "semantic_residual_vector_quantizer" in every:
        return "mimi, Hugging Face transformers"
    if "quantizer.rvq_first" in every:
        current = "in_projs.0.weight" in every
        return "mimi, Kyutai (current)" if current else "mimi, Kyutai (released)"
    return "unknown"


def model(source: str, revision: str | None, tensors: bool) -> dict[str, Any]:
    """A folder or repository: the files that loading it would use."""
    from kaiwa.checkpoints import mimi as checkpoints
    from kaiwa.errors import CheckpointError

    try:
        return language_model(source, revision)
    except CheckpointError:
        pass  # the codec's, or neither's: then its complaint says what is wanted
    found = checkpoints.find(source, revision=revision)
    rows = checkpoint(found.weights, tensors)
    return {"source": source, "has_config": found.config_json is not None, **rows}


def language_model(source: str, revision: str | None) -> dict[str, Any]:
    """A language model: sizes and layout, without reading weights."""
    import json

    from kaiwa.checkpoints import moshi as checkpoints
    from kaiwa.moshi import open_files

    found = checkpoints.find(source, revision=revision)
    files = open_files(found)
    config = json.loads(files.config_json)
    keys = ("model_type", "dim", "num_layers", "num_heads", "context", "n_q", "dep_q", "card")
    return {
        "kind": "language model",
        "source": source,
        "layout": files.layout,
        "files": [str(path) for path in found.weights],
        "has_config": found.config_json is not None,
        "parameters": files.parameters,
        "file_bytes": sum(path.stat().st_size for path in found.weights),
        **{key: config[key] for key in keys},
        "text_card": config["text_card"],
        "spoken_codebooks": files.spoken,
    }


def language_model_or(rows: dict[str, Any], source: str) -> dict[str, Any]:
    """A language model if the file is one, else `rows`."""
    from kaiwa.errors import CheckpointError

    try:
        return language_model(source, None)
    except CheckpointError:
        return rows
