"""The package's face: exported names, the tree of errors, facts of the build, concurrency."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
import time
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import kaiwa
from kaiwa import _native
from kaiwa.synth import voice, write_mimi

NAMES = {
    "AsyncSession",
    "AudioEvent",
    "AudioFileError",
    "BlockingSession",
    "CapacityError",
    "CheckpointError",
    "CheckpointNotFoundError",
    "ClosedError",
    "DeviceError",
    "DownloadError",
    "Duplex",
    "DuplexOutput",
    "EndEvent",
    "Engine",
    "Event",
    "InputError",
    "KaiwaError",
    "LmConfig",
    "Mimi",
    "MimiStream",
    "Moshi",
    "MoshiStream",
    "OggOpusReader",
    "OggOpusWriter",
    "Readiness",
    "Resampler",
    "Sampling",
    "ServerError",
    "SpeechToText",
    "SpeechToTextOutput",
    "SpeechToTextStream",
    "StateEvent",
    "StepEvent",
    "StepOutput",
    "TextEvent",
    "TextStream",
    "Tokenizer",
    "Word",
    "WordEndEvent",
    "WordEvent",
    "__version__",
}


def test_exported_names() -> None:
    assert set(kaiwa.__all__) == NAMES
    assert all(hasattr(kaiwa, name) for name in NAMES)
    assert kaiwa.__version__ == metadata.version("kaiwa") == _native.build_info()["version"]


def parameters(function: Any) -> list[str]:
    """Parameters as text, keyword-only ones behind a star."""
    found = []
    for p in inspect.signature(function).parameters.values():
        star = "*" if p.kind is p.KEYWORD_ONLY else ""
        found.append(f"{star}{p.name}" + ("" if p.default is p.empty else f"={p.default!r}"))
    return found


def test_signatures_are_the_promised_ones() -> None:
    assert parameters(kaiwa.Mimi.from_pretrained) == [
        "source",
        "*num_codebooks=8",
        "*device='auto'",
        "*dtype='float32'",
        "*revision=None",
        "*cache_dir=None",
        "*config=None",
    ]
    assert parameters(kaiwa.Mimi.encode) == ["self", "pcm", "*progress=None"]
    assert parameters(kaiwa.Mimi.encode_to_latent) == ["self", "pcm", "*progress=None"]
    assert parameters(kaiwa.Mimi.decode) == ["self", "codes", "*progress=None"]
    assert parameters(kaiwa.Mimi.stream) == ["self", "slots=1", "*window='streaming'"]
    assert parameters(kaiwa.MimiStream.encode) == ["self", "pcm", "active=None"]
    assert parameters(kaiwa.MimiStream.decode) == ["self", "codes", "active=None"]
    assert parameters(kaiwa.MimiStream.reset) == ["self", "slots=None"]


BASES: list[tuple[type[Exception], tuple[type[Exception], ...]]] = [
    (kaiwa.InputError, (kaiwa.KaiwaError, ValueError)),
    (kaiwa.CheckpointError, (kaiwa.KaiwaError,)),
    (kaiwa.CheckpointNotFoundError, (kaiwa.CheckpointError, FileNotFoundError)),
    (kaiwa.DownloadError, (kaiwa.CheckpointError,)),
    (kaiwa.DeviceError, (kaiwa.KaiwaError, RuntimeError)),
    (kaiwa.AudioFileError, (kaiwa.KaiwaError,)),
    (kaiwa.ClosedError, (kaiwa.KaiwaError,)),
    (kaiwa.CapacityError, (kaiwa.KaiwaError,)),
]


@pytest.mark.parametrize(("kind", "bases"), BASES, ids=[k.__name__ for k, _ in BASES])
def test_tree_of_errors(kind: type[Exception], bases: tuple[type[Exception], ...]) -> None:
    assert kind.__bases__ == bases
    assert str(kind("what was wrong")) == "what was wrong"


def test_the_package_is_typed() -> None:
    files = resources.files("kaiwa")
    assert files.joinpath("py.typed").is_file()
    stub = files.joinpath("_native.pyi").read_text(encoding="utf-8")
    public = {name for name in dir(_native) if not name.startswith("_")}
    assert public == {
        *("ByHand", "Engine", "Notifier", "OggOpusReader", "OggOpusWriter", "Session"),
        *("LmFiles", "Mimi", "MimiStream", "Moshi", "MoshiStream", "Resampler"),
        *("available_memory", "build_info", "cpu_info", "describe_device"),
        *("lm_file_name", "lm_formats", "cuda_path", "LM_SIZES"),
        *("g711_encode", "g711_decode", "CodedReader", "CodedWriter"),
        *("MAX_SLOTS", "read_bandwidth", "safetensors_summary"),
        *("DEFAULT_SAMPLING", "END_REASONS", "ENGINE_METRICS", "Duplex"),
        *("AudioEvent", "EndEvent", "PagesEvent", "StateEvent", "TextEvent", "PauseEvent"),
        *("Histogram", "Metric", "MetricFamily", "Readiness", "Sample"),
        *("SessionInfo", "Stats", "StepRecord"),
    }
    known = ("class {}:", "def {}(", "{}: ")
    assert all(any(form.format(n) in stub for form in known) for n in public)


def test_facts_of_the_build_and_the_processor() -> None:
    build, cpu = _native.build_info(), _native.cpu_info()
    assert set(build) == {"version", "revision", "features", "cuda", "target"}
    assert bool(build["cuda"]) == ("cuda" in build["features"])
    assert _native.describe_device("cpu") is None
    with pytest.raises(kaiwa.InputError, match="tpu"):
        _native.describe_device("tpu")
    assert cpu["selected"] in cpu["available"]
    assert cpu["available"][-1] in ("portable", "neon")
    assert cpu["threads"] >= 1


def test_importing_is_light(mimi_small: Path) -> None:
    """Libraries for downloads, audio files and progress bars load when they are used."""
    script = "import sys, kaiwa; kaiwa.Mimi.from_pretrained(sys.argv[1]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, str(mimi_small)], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "kaiwa" in loaded
    assert not loaded & {"huggingface_hub", "soundfile", "rich", "safetensors"}


def test_a_panic_is_not_part_of_the_interface(mimi: kaiwa.Mimi) -> None:
    """The bindings refuse arrays of other shapes themselves, without `kaiwa.Mimi` before them."""
    native = mimi._native
    with pytest.raises(kaiwa.InputError, match="2 were wanted"):
        native.encode(np.zeros(5, np.float32))
    with pytest.raises(kaiwa.InputError, match="3 were wanted"):
        native.decode(np.zeros((8, 2), np.int64))
    with pytest.raises(kaiwa.InputError):
        native.stream(2, "streaming").encode(np.zeros((3, 1920), np.float32))
    with pytest.raises(kaiwa.InputError):
        native.stream(2, "streaming").decode(np.zeros((3, 8, 1), np.int64))


def test_a_stream_does_not_wait_for_another(mimi: kaiwa.Mimi, pcm: NDArray[np.float32]) -> None:
    """A step of one stream returns while a long call of another stream is under way."""
    long = np.tile(pcm[: 54 * 1920], 60)[None, None]
    busy, quick = mimi.stream(), mimi.stream()
    began, ended = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        busy.encode(long)
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    began.wait()
    while_busy = 0
    while not ended.is_set():
        quick.encode(pcm[None, None, :1920])
        while_busy += not ended.is_set()
        time.sleep(0)
    thread.join()
    assert while_busy > 1


def test_sharing_a_slot_changes_its_results(tmp_path: Path) -> None:
    """The control of every test that finds slots independent: two signals that take turns in one
    slot get other codes than in a slot each."""
    write_mimi(tmp_path / "m", size="small")
    mimi = kaiwa.Mimi.from_pretrained(tmp_path / "m", device="cpu", num_codebooks=12)
    frames = voice(40 * 1920 / 24_000, seed=2).reshape(40, 1, 1, 1920)
    shared, alone = mimi.stream(), mimi.stream()
    differ = 0
    for own, other in zip(frames[:20], frames[20:], strict=True):
        differ += bool((shared.encode(own) != alone.encode(own)).any())
        shared.encode(other)
    assert differ > 10
