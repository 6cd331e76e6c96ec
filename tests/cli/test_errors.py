"""Bad input: one line, the right exit code, and no file left behind."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kaiwa import codes_file

INFO = codes_file.CodesInfo(24_000, 12.5, 1920, 5 * 1920, 8, 64, "m")


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    """Five frames of codes."""
    path = tmp_path / "codes.safetensors"
    codes_file.write(path, np.arange(40).reshape(8, 5), INFO)
    return path


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes a safetensors header in place."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def left_behind(folder: Path, before: set[str]) -> set[str]:
    """Names that are new in a folder, hidden ones included."""
    return set(os.listdir(folder)) - before


def silence(path: Path, samples: int, **kwargs: Any) -> Path:
    """A wav file of zeros."""
    soundfile.write(path, np.zeros(samples, np.float32), 24_000, **kwargs)
    return path


def broken_audio(kind: str, folder: Path) -> Path:
    """Files that are no good as audio."""
    path = folder / "bad.wav"
    if kind == "missing":
        return folder / "missing.wav"
    if kind == "folder":
        return folder
    if kind == "text":
        path.write_text("this is not audio\n" * 100)
    elif kind == "empty file":
        path.write_bytes(b"")
    elif kind == "no samples":
        silence(path, 0)
    elif kind == "not finite":
        pcm = np.zeros(5000, np.float32)
        pcm[1234] = np.nan
        soundfile.write(path, pcm, 24_000, subtype="FLOAT")
    elif kind == "cut flac":
        whole = folder / "whole.flac"
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, 50_000)
        soundfile.write(whole, noise, 24_000)
        path = folder / "cut.flac"
        path.write_bytes(whole.read_bytes()[:40_000])
        whole.unlink()
    return path


AUDIO_CASES = {
    "missing": "does not exist",
    "folder": "is a folder",
    "text": "cannot be read as audio",
    "empty file": "cannot be read as audio",
    "no samples": "holds no audio",
    "not finite": "not finite at sample 1234",
    "cut flac": "damaged",
}


@pytest.mark.parametrize("kind", AUDIO_CASES)
def test_audio_that_cannot_be_encoded(
    kind: str, run: Callable[..., Any], small: Path, tmp_path: Path
) -> None:
    source = broken_audio(kind, tmp_path)
    before = set(os.listdir(tmp_path))
    outcome = run("encode", source, tmp_path / "out.safetensors", "--model", small)
    assert outcome.code == 2
    assert AUDIO_CASES[kind] in outcome.error
    assert not left_behind(tmp_path, before)


def damage(kind: str, path: Path) -> Path:
    """Files that are no good as codes."""

    def metadata(name: str, value: str) -> None:
        rewrite(path, lambda header: header["__metadata__"].update({name: value}))

    data = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "wav":
        silence(path.with_suffix(".wav"), 100)
        return path.with_suffix(".wav")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(data[:-10])
    elif kind == "huge header":
        path.write_bytes(struct.pack("<Q", 1 << 60) + data[8:])
    elif kind == "not json":
        path.write_bytes(data[:8] + b"#" + data[9:])
    elif kind == "nested json":
        text = b"[" * 100_000
        path.write_bytes(struct.pack("<Q", len(text)) + text)
    elif kind == "code too big":
        path.write_bytes(data[:-2] + b"\x40\x00")
    elif kind == "other shape":
        rewrite(path, lambda header: header["codes"].update(shape=[5, 8]))
    elif kind == "other type":
        rewrite(path, lambda header: header["codes"].update(dtype="F16"))
    elif kind == "no codes":
        rewrite(path, lambda header: header.update(kodes=header.pop("codes")))
    elif kind == "other format":
        metadata("format", "pt")
    elif kind == "newer":
        metadata("version", "2")
    elif kind == "cardinality":
        metadata("cardinality", "2048")
    else:
        name, _, value = kind.partition("=")
        metadata(name, value)
    return path


CODES_CASES = {
    "missing": "does not exist",
    "wav": "not a file of codes",
    "empty": "not a file of codes: it has only 0 bytes",
    "cut": "cut off",
    "huge header": "not a file of codes",
    "not json": "not valid JSON",
    "nested json": "not valid JSON",
    "code too big": "code 64 in codebook 7, frame 4",
    "other shape": "they are U16 [5, 8]",
    "other type": "they are F16",
    "no codes": "missing",
    "other format": "without codes",
    "newer": "version 2",
    "cardinality": "cardinality 2048, the model has 64",
    "num_samples=0": "num_samples is '0'",
    "num_samples=-5": "num_samples is '-5'",
    "num_samples=nan": "num_samples is 'nan'",
    "num_samples=x": "num_samples is 'x'",
    "num_samples=9601": "damaged",
    "frame_size=0": "frame_size is '0'",
    "sample_rate=44100": "sample rate 44100, the model has 24000",
    "num_codebooks=7": "damaged",
}


@pytest.mark.parametrize("kind", CODES_CASES)
def test_codes_that_cannot_be_decoded(
    kind: str, run: Callable[..., Any], small: Path, codes: Path, tmp_path: Path
) -> None:
    source = damage(kind, codes)
    before = set(os.listdir(tmp_path))
    outcome = run("decode", source, tmp_path / "out.wav", "--model", small)
    assert outcome.code == 2, outcome.err
    assert CODES_CASES[kind] in outcome.error
    assert not left_behind(tmp_path, before)


def test_the_undamaged_file_decodes(
    run: Callable[..., Any], small: Path, codes: Path, tmp_path: Path
) -> None:
    assert run("decode", codes, tmp_path / "out.wav", "--model", small).code == 0


OUTPUT_CASES = [
    (("out.xyz",), "cannot tell an audio format"),
    (("out",), "cannot tell an audio format"),
    (("missing/out.wav",), "does not exist; create it first"),
    (("out.opus", "--rate", 44_100), "cannot have 44100 Hz"),
    (("out.mp3", "--rate", 96_000), "cannot have 96000 Hz"),
    (("out.wav", "--rate", 10), "choose 1000 to 384000"),
    (("out.ogg", "--sample-format", "int24"), "cannot hold int24"),
    (("out.flac", "--sample-format", "float32"), "cannot hold float32"),
]


@pytest.mark.parametrize(("arguments", "says"), OUTPUT_CASES)
def test_outputs_that_cannot_be_written(
    arguments: tuple[Any, ...],
    says: str,
    run: Callable[..., Any],
    small: Path,
    codes: Path,
    tmp_path: Path,
) -> None:
    before = set(os.listdir(tmp_path))
    name, *options = arguments
    outcome = run("decode", codes, tmp_path / name, "--model", small, *options)
    assert outcome.code == 2
    assert says in outcome.error
    assert not left_behind(tmp_path, before)


def test_a_wav_that_would_be_too_long(run: Callable[..., Any], small: Path, tmp_path: Path) -> None:
    source, frames = tmp_path / "long.safetensors", 36_000
    info = codes_file.CodesInfo(24_000, 12.5, 1920, frames * 1920, 1, 64)
    codes_file.write(source, np.zeros((1, frames), np.uint16), info)
    size = ("--rate", 384_000, "--sample-format", "float32")
    outcome = run("decode", source, tmp_path / "out.wav", "--model", small, *size)
    assert outcome.code == 2
    assert "4.1 GiB" in outcome.error
    assert not (tmp_path / "out.wav").exists()


def test_exit_codes_tell_fault_from_failure() -> None:
    from kaiwa import errors
    from kaiwa.audio_files import AudioWriteError
    from kaiwa.cli.main import exit_code, one_line

    bad = (errors.InputError, errors.CheckpointNotFoundError, errors.AudioFileError)
    assert {exit_code(kind("x")) for kind in bad} == {2}
    failed = (errors.DownloadError, errors.DeviceError, AudioWriteError, OSError, MemoryError)
    assert {exit_code(kind("x")) for kind in failed} == {1}
    assert one_line(errors.InputError("two\n  lines")) == "two lines"
    assert one_line(OSError(5, "Input/output error", "f.wav")) == "Input/output error (f.wav)"
    full = one_line(OSError(28, "No space left", "f.wav"))
    assert full == "No space left (f.wav); make room, or choose another place"
    assert "--debug" in one_line(RuntimeError("surprise"))


def test_an_output_that_is_a_folder_stays(
    run: Callable[..., Any], small: Path, wav: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    outcome = run("encode", wav, tmp_path / "folder", "--model", small)
    assert outcome.code == 2
    assert "is a folder" in outcome.error


def test_a_failure_keeps_the_old_output(
    run: Callable[..., Any], small: Path, codes: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out.wav"
    target.write_bytes(b"precious")
    damage("code too big", codes)
    assert run("decode", codes, target, "--model", small).code == 2
    assert target.read_bytes() == b"precious"


def test_the_demo_codec_refuses_what_another_codec_wrote(
    run: Callable[..., Any], small: Path, wav: Path, tmp_path: Path
) -> None:
    codes, target = tmp_path / "codes.safetensors", tmp_path / "out.wav"
    assert run("encode", wav, codes, "--model", small).code == 0
    outcome = run("decode", codes, target)
    assert outcome.code == 2
    assert f"was written by {str(small)!r}" in outcome.error
    assert "pass --model" in outcome.error
    assert not target.exists()


def test_another_codec_refuses_what_the_demo_codec_wrote(
    run: Callable[..., Any], small: Path, wav: Path, tmp_path: Path
) -> None:
    codes = tmp_path / "codes.safetensors"
    assert run("encode", wav, codes).code == 0
    outcome = run("decode", codes, tmp_path / "out.wav", "--model", small)
    assert outcome.code == 2
    assert "was written by 'demo' with cardinality 512, the model has 64" in outcome.error


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_a_revision_of_no_model(
    command: str, run: Callable[..., Any], wav: Path, tmp_path: Path
) -> None:
    source = wav
    if command == "decode":
        source = tmp_path / "codes.safetensors"
        assert run("encode", wav, source).code == 0
    outcome = run(command, source, tmp_path / "out.wav", "--revision", "main")
    assert outcome.code == 2
    assert "--revision is given without --model" in outcome.error


MODEL_CASES = ["missing.safetensors", "folder", "text.safetensors", "cut.safetensors"]


@pytest.mark.parametrize("kind", MODEL_CASES)
def test_models_that_cannot_be_loaded(
    kind: str, run: Callable[..., Any], small: Path, wav: Path, tmp_path: Path
) -> None:
    source = tmp_path / kind
    if kind == "folder":
        source.mkdir()
    elif kind == "text.safetensors":
        source.write_text("no weights")
    elif kind == "cut.safetensors":
        source.write_bytes(next(small.glob("*.safetensors")).read_bytes()[:100_000])
    before = set(os.listdir(tmp_path))
    outcome = run("encode", wav, tmp_path / "out.safetensors", "--model", source)
    assert outcome.code == 2
    assert outcome.error
    assert not left_behind(tmp_path, before)


def test_too_many_codebooks(
    run: Callable[..., Any], small: Path, wav: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out.safetensors"
    outcome = run("encode", wav, target, "--model", small, "--num-codebooks", 13)
    assert outcome.code == 2
    assert "12" in outcome.error
    assert not target.exists()


USAGE_CASES = [
    ((), "required: COMMAND"),
    (("fly",), "fly"),
    (("encode", "a"), "required: OUT"),
    (("encode", "a", "b", "--num-codebooks", "0"), "0 is not 1 or more"),
    (("encode", "a", "b", "--dtype", "int8"), "int8"),
    (("decode", "a", "b", "--rate", "x"), "'x' is not a whole number"),
    (("synth", "mimi", "a", "--seed", "-1"), "-1"),
    (("bench", "mimi", "--slots", "1,,2"), "'' is not a whole number"),
]


@pytest.mark.parametrize(("arguments", "says"), USAGE_CASES)
def test_wrong_usage(arguments: tuple[str, ...], says: str, run: Callable[..., Any]) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2
    assert says in outcome.error
    assert "--help" in outcome.error


def test_debug_shows_the_place(run: Callable[..., Any], small: Path, tmp_path: Path) -> None:
    from kaiwa.errors import AudioFileError

    with pytest.raises(AudioFileError):
        run("encode", tmp_path / "no.wav", tmp_path / "o", "--model", small, "--debug")
