"""Audio files as people have them: joined, cut off, never finished, piped, mislabelled."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from kaiwa.audio_files import AudioReader
from kaiwa.errors import AudioFileError

DATA = Path(__file__).parents[1] / "data" / "inputs"
RATE = 24_000
WAVE = (np.sin(np.arange(RATE) / 10) * 0.3).astype(np.float32)

Read = tuple[NDArray[np.float32], int | None, list[str]]


def read(path: Path) -> Read:
    """The signal, the length that was declared, and the warnings."""
    said: list[str] = []
    with AudioReader(path, said.append) as reader:
        blocks = list(reader.blocks())
        return np.concatenate(blocks or [np.zeros(0, np.float32)]), reader.frames, said


def attempt(path: Path) -> Read | str:
    """The same, or what the error says."""
    try:
        return read(path)
    except AudioFileError as error:
        return str(error)


def made(kind: str, subtype: str | None = None, wave: NDArray[Any] = WAVE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, RATE, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.fixture
def save(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "sound"
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize(
    ("name", "samples", "frames", "warning"),
    [
        ("one_second.wav", 24_000, 24_000, None),
        ("chained.opus", 48_000, None, "2 recordings joined"),
        ("chained_vorbis.ogg", 48_000, None, "2 recordings joined"),
        ("unknown_length.flac", 24_000, 24_000, None),
        ("mp3_inside.wav", 25_344, 25_968, None),
        ("multiplexed.opus", 24_000, 24_000, "other streams beside the audio"),
    ],
)
def test_real_cases(name: str, samples: int, frames: int | None, warning: str | None) -> None:
    signal, declared, said = read(DATA / name)
    assert (len(signal), declared) == (samples, frames)
    assert len(said) == (warning is not None)
    assert warning is None or warning in said[0]
    once = read(DATA / "one_second.wav")[0]
    for start in range(0, len(signal) - RATE + 1, RATE):
        # Lossy formats delay a little, and are like the original all the same.
        spectrum = np.abs(np.fft.rfft(signal[start : start + RATE]))
        likeness = np.corrcoef(spectrum, np.abs(np.fft.rfft(once)))[0, 1]
        assert likeness > 0.95, (name, start, likeness)


KINDS = ["WAV", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("times", [2, 3])
def test_files_joined_together_are_read_whole(
    kind: str, times: int, save: Callable[[bytes], Path]
) -> None:
    one = read(save(made(kind)))[0]
    signal, frames, said = read(save(made(kind) * times))
    np.testing.assert_array_equal(signal, np.concatenate([one] * times))
    assert frames is None
    assert len(said) == 1
    assert f"{times} " in said[0]
    assert "joined together; all are read" in said[0]


def test_recordings_of_different_kinds_are_not_joined(save: Callable[[bytes], Path]) -> None:
    other = io.BytesIO()
    soundfile.write(other, WAVE, 16_000, format="WAV")
    with pytest.raises(AudioFileError, match="24000 Hz with 1 channels, then 16000 Hz"):
        read(save(made("WAV") + other.getvalue()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_a_file_that_is_cut_off_says_so(
    kind: str, part: float, save: Callable[[bytes], Path]
) -> None:
    whole = made(kind)
    found = attempt(save(whole[: int(len(whole) * part)]))
    if isinstance(found, str):
        assert "\n" not in found
        assert ";" in found, "names no remedy"
        return
    assert kind == "OGG"
    assert len(found[0]) < RATE
    assert "it may be cut off" in found[2][0]


def sizes(data: bytes, riff: int, samples: int) -> bytes:
    """A WAV file with other sizes in its header."""
    at = data.index(b"data") + 4
    packed = struct.pack("<I", riff), struct.pack("<I", samples)
    return data[:4] + packed[0] + data[8:at] + packed[1] + data[at + 4 :]


@pytest.mark.parametrize("riff", [0, 36, 0xFFFF_FFFF])
def test_a_wav_whose_writer_died_is_read_as_far_as_it_goes(
    riff: int, save: Callable[[bytes], Path]
) -> None:
    want = read(save(made("WAV")))[0]
    signal, frames, said = read(save(sizes(made("WAV"), riff, 0)))
    np.testing.assert_array_equal(signal, want)
    assert frames == RATE
    assert "48000 bytes of samples" in said[0]


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_FFFF, 0xFFFF_FFFE])
def test_a_wav_from_a_pipe_is_no_matter(size: int, save: Callable[[bytes], Path]) -> None:
    want = read(save(made("WAV")))[0]
    signal, _, said = read(save(sizes(made("WAV"), size, size)))
    np.testing.assert_array_equal(signal, want)
    assert said == []


def test_a_wav_that_is_really_empty_and_one_with_chunks_behind(
    save: Callable[[bytes], Path],
) -> None:
    empty = made("WAV", wave=np.zeros(0, np.float32))
    assert len(read(save(empty))[0]) == 0
    note = b"note" + struct.pack("<I", 5) + b"hello\0"
    signal, _, said = read(save(made("WAV") + note))
    assert (len(signal), said) == (RATE, [])
    assert len(read(save(empty + note))[0]) == 0


def test_floats_that_are_no_audio(save: Callable[[bytes], Path]) -> None:
    with pytest.raises(AudioFileError, match=r"3e\+38 at sample 0"):
        read(DATA / "huge_samples.wav")
    whole = (WAVE * 32768).astype(np.float32)
    with pytest.raises(AudioFileError, match="integers stored as floats"):
        read(save(made("WAV", "FLOAT", whole)))
    # A little beyond full scale is what real recordings have.
    assert read(save(made("WAV", "FLOAT", WAVE * 10)))[0].max() > 2
    holed = WAVE.copy()
    holed[70_000 % RATE] = np.nan
    with pytest.raises(AudioFileError, match=f"not finite at sample {70_000 % RATE}"):
        read(save(made("WAV", "FLOAT", holed)))


def test_channels_that_cancel_each_other_out(save: Callable[[bytes], Path]) -> None:
    said = read(save(made("WAV", wave=np.stack([WAVE, -WAVE], axis=1))))[2]
    assert "2 channels cancel each other" in said[0]
    surround = np.zeros((RATE, 6), np.float32)
    surround[:, 2] = WAVE
    signal, _, said = read(save(made("WAV", wave=surround)))
    assert said == []
    assert signal.max() > 0.04


def test_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = (DATA / "chained.opus").read_bytes()
    writer = threading.Thread(target=lambda: pipe.write_bytes(data))
    writer.start()
    signal, _, said = read(pipe)
    writer.join()
    assert (len(signal), len(said)) == (48_000, 1)


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_standard_input(name: str, tmp_path: Path) -> None:
    code = (
        "import sys; from kaiwa.audio_files import AudioReader\n"
        "with AudioReader(sys.argv[1]) as r: print(sum(len(b) for b in r.blocks()))"
    )
    with (DATA / "one_second.wav").open("rb") as file:
        cat = subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE)
        done = subprocess.run(
            [sys.executable, "-c", code, name], stdin=cat.stdout, capture_output=True, text=True
        )
        assert cat.wait() == 0
        assert cat.stdout is not None
        cat.stdout.close()
    assert (done.returncode, done.stdout.strip()) == (0, "24000"), done.stderr


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    path.write_bytes((DATA / "one_second.wav").read_bytes())
    assert len(read(path)[0]) == RATE
    path.write_bytes(b"no audio")
    with pytest.raises(AudioFileError) as caught:
        read(path)
    assert "caf?.wav" in str(caught.value).encode("utf-8").decode()


@pytest.mark.parametrize("name", sorted(p.name for p in DATA.iterdir()))
def test_damage_anywhere_is_an_error_of_ours_or_no_matter(
    name: str, save: Callable[[bytes], Path]
) -> None:
    whole = (DATA / name).read_bytes()
    rng = np.random.default_rng(len(whole))
    for _ in range(60):
        data = bytearray(whole)
        for at in rng.integers(0, min(len(data), 400), 3):
            data[at] = rng.integers(0, 256)
        cut = int(rng.integers(1, len(data))) if rng.random() < 0.5 else len(data)
        found = attempt(save(bytes(data[:cut])))
        assert not isinstance(found, str) or "\n" not in found
