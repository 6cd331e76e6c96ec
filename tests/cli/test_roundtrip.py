"""Audio files to codes and back, in every format, against the library itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import kaiwa
from kaiwa import codes_file

FRAME = 1920

#: Ending, libsndfile's container and subtype, rate, channels.
FORMATS = [
    ("wav", "WAV", "PCM_16", 24_000, 1),
    ("wav", "WAV", "PCM_16", 44_100, 2),
    ("wav", "WAV", "FLOAT", 8_000, 1),
    ("wav", "WAV", "PCM_24", 96_000, 6),
    ("flac", "FLAC", "PCM_16", 16_000, 1),
    ("flac", "FLAC", "PCM_24", 48_000, 2),
    ("mp3", "MP3", "MPEG_LAYER_III", 44_100, 2),
    ("mp3", "MP3", "MPEG_LAYER_III", 24_000, 1),
    ("ogg", "OGG", "VORBIS", 22_050, 1),
    ("ogg", "OGG", "VORBIS", 48_000, 2),
    ("opus", "OGG", "OPUS", 48_000, 1),
    ("opus", "OGG", "OPUS", 16_000, 2),
]


def expected_pcm(path: Path) -> Any:
    """The file read at once, averaged over channels, at 24 kHz."""
    pcm, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = pcm[:, 0] if pcm.shape[1] == 1 else pcm.mean(axis=1, dtype=np.float32)
    if rate == 24_000:
        return mono
    resampler = kaiwa.Resampler(rate, 24_000)
    return np.concatenate([resampler.process(mono), resampler.finish()])


@pytest.mark.parametrize(("ending", "container", "subtype", "rate", "channels"), FORMATS)
def test_codes_of_a_file_equal_those_of_the_library(
    ending: str,
    container: str,
    subtype: str,
    rate: int,
    channels: int,
    run: Callable[..., Any],
    speech: Callable[..., Any],
    small: Path,
    tmp_path: Path,
) -> None:
    source, target = tmp_path / f"in.{ending}", tmp_path / "out.safetensors"
    signal = speech(3.3, rate, channels)
    soundfile.write(source, signal, rate, format=container, subtype=subtype)
    outcome = run("encode", source, target, "--model", small, "--num-codebooks", 12)
    assert outcome.code == 0, outcome.err

    codes, info = codes_file.read(target)
    pcm = expected_pcm(source)
    assert abs(len(pcm) - 3.3 * 24_000) < 0.1 * 24_000
    assert info.num_samples == len(pcm)
    wanted = kaiwa.Mimi.from_pretrained(str(small), num_codebooks=12).encode(pcm)
    np.testing.assert_array_equal(codes, wanted)
    assert len(np.unique(codes)) > 20


@pytest.mark.parametrize("ending", ["wav", "flac", "mp3", "ogg", "opus"])
@pytest.mark.parametrize("rate", [None, 48_000, 16_000])
def test_decoding_writes_a_file_of_the_right_length_and_content(
    ending: str, rate: int | None, run: Callable[..., Any], small: Path, wav: Path, tmp_path: Path
) -> None:
    codes, target = tmp_path / "c.safetensors", tmp_path / f"out.{ending}"
    assert run("encode", wav, codes, "--model", small).code == 0
    options = [] if rate is None else ["--rate", rate]
    outcome = run("decode", codes, target, "--model", small, *options)
    assert outcome.code == 0, outcome.err

    pcm, got_rate = soundfile.read(target, dtype="float32")
    want_rate = rate or 24_000
    assert got_rate == want_rate
    wanted = library_decode(small, codes, want_rate)
    if ending != "mp3":
        assert len(pcm) == len(wanted) == -(-36_000 * want_rate // 24_000)
    assert abs(len(pcm) - len(wanted)) < 0.1 * want_rate
    if ending in ("wav", "flac"):
        assert np.abs(pcm - np.clip(wanted, -1, 1)).max() < 1.5 / 32768
    assert 0.3 < np.std(pcm) / np.std(wanted) < 1.5


def library_decode(model: Path, codes: Path, rate: int) -> Any:
    """What the file of codes sounds like, by the library, at `rate`."""
    values, info = codes_file.read(codes)
    pcm = kaiwa.Mimi.from_pretrained(str(model)).decode(values)[0, : info.num_samples]
    if rate == info.sample_rate:
        return pcm
    resampler = kaiwa.Resampler(info.sample_rate, rate)
    return np.concatenate([resampler.process(pcm), resampler.finish()])


def test_float_output_is_the_library_bit_for_bit(
    run: Callable[..., Any], small: Path, speech: Callable[..., Any], tmp_path: Path
) -> None:
    source, codes, target = (tmp_path / name for name in ("a.wav", "c.safetensors", "b.wav"))
    soundfile.write(source, speech(6.0, 24_000), 24_000, subtype="FLOAT")
    assert run("encode", source, codes, "--model", small).code == 0
    float_wav = ("--sample-format", "float32")
    assert run("decode", codes, target, "--model", small, *float_wav).code == 0
    pcm, _ = soundfile.read(target, dtype="float32")
    np.testing.assert_array_equal(pcm, library_decode(small, codes, 24_000))


def test_fewer_codebooks_can_be_decoded(
    run: Callable[..., Any], small: Path, wav: Path, tmp_path: Path
) -> None:
    codes, few, all_books = (tmp_path / n for n in ("c.safetensors", "few.wav", "all.wav"))
    assert run("encode", wav, codes, "--model", small).code == 0
    assert run("decode", codes, few, "--model", small, "--num-codebooks", 2).code == 0
    assert run("decode", codes, all_books, "--model", small).code == 0
    assert len(soundfile.read(few)[0]) == len(soundfile.read(all_books)[0]) == 36_000
    assert few.read_bytes() != all_books.read_bytes()
    assert run("decode", codes, few, "--model", small, "--num-codebooks", 9).code == 2


def test_samples_beyond_full_scale_are_clipped_and_counted(
    run: Callable[..., Any], small: Path, speech: Callable[..., Any], tmp_path: Path
) -> None:
    codes, target = tmp_path / "c.safetensors", tmp_path / "out.wav"
    values = np.random.default_rng(1).integers(0, 64, (12, 200))
    info = codes_file.CodesInfo(24_000, 12.5, FRAME, 200 * FRAME, 12, 64)
    codes_file.write(codes, values, info)
    loud = loud_model(small, tmp_path)
    outcome = run("decode", codes, target, "--model", loud)
    assert outcome.code == 0, outcome.err
    wanted = library_decode(loud, codes, 24_000)
    outside = int(np.count_nonzero(np.abs(wanted) > 1))
    assert outside > 100
    assert f"warning: {outside} samples" in outcome.err
    assert np.abs(soundfile.read(target)[0]).max() > 0.999
    quiet_float = run("decode", codes, target, "--model", loud, "--sample-format", "float32")
    assert "warning" not in quiet_float.err
    assert np.abs(soundfile.read(target)[0]).max() > 1


def loud_model(small: Path, tmp_path: Path) -> Path:
    """The small model with its last convolution forty times as loud."""
    from kaiwa import _safetensors

    weights = next(small.glob("*.safetensors"))
    tensors, _, start = _safetensors.read_header(weights)
    data = bytearray(weights.read_bytes())
    entry = tensors["decoder.model.14.conv.conv.weight"]
    view = np.frombuffer(data, "<f4", (entry.end - entry.begin) // 4, start + entry.begin)
    view *= 40
    folder = tmp_path / "loud"
    folder.mkdir()
    (folder / weights.name).write_bytes(data)
    (folder / "config.json").write_bytes((small / "config.json").read_bytes())
    return folder


def test_the_model_may_come_from_the_environment(
    run: Callable[..., Any], small: Path, wav: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAIWA_MIMI", str(small))
    outcome = run("encode", wav, tmp_path / "c.safetensors")
    assert outcome.code == 0
    assert "1.50 s of audio, 19 frames of 8 codes" in outcome.err
    assert run("encode", wav, tmp_path / "c.safetensors", "--quiet").err == ""


def test_without_a_model_the_demo_codec_answers_and_is_named(
    run: Callable[..., Any], wav: Path, tmp_path: Path
) -> None:
    codes, target = tmp_path / "codes.safetensors", tmp_path / "out.wav"
    for command, source, out in (("encode", wav, codes), ("decode", codes, target)):
        outcome = run(command, source, out)
        assert outcome.code == 0, outcome.err
        told, _ = outcome.err.splitlines()
        assert "demo codec" in told
        assert "--model kyutai/mimi" in told
        assert run(command, source, out, "--quiet").err == ""
    assert codes_file.read_info(codes).model == "demo"
    pcm, rate = soundfile.read(wav, dtype="float32")
    decoded, decoded_rate = soundfile.read(target, dtype="float32")
    assert (rate, len(decoded)) == (decoded_rate, len(pcm))
    mimi = kaiwa.Mimi.from_pretrained("demo")
    expected = np.clip(mimi.decode(mimi.encode(pcm))[0, : len(pcm)], -1, 1)
    assert np.abs(decoded - expected).max() < 1e-3


def test_codes_that_do_not_say_what_wrote_them_are_decoded(
    run: Callable[..., Any], wav: Path, tmp_path: Path
) -> None:
    codes = tmp_path / "codes.safetensors"
    assert run("encode", wav, codes).code == 0
    values, info = codes_file.read(codes)
    codes_file.write(codes, values, replace(info, model=""))
    assert run("decode", codes, tmp_path / "out.wav").code == 0
