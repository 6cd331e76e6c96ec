"""Speech to text from Python: the golden case, streams, recordings, words, input errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from safetensors.numpy import load_file

import kaiwa
from kaiwa.words import MOST_PIECES, WordList, Words

FOLDER = Path(__file__).parents[1] / "data" / "stt_small"
EXPECTED = load_file(FOLDER / "expected.safetensors")
SPOKEN = json.loads((FOLDER / "words.json").read_text())


@pytest.fixture(scope="module")
def model() -> kaiwa.SpeechToText:
    return kaiwa.SpeechToText.from_pretrained(FOLDER, device="cpu", dtype="float32")


def words_of(model: kaiwa.SpeechToText, tokens: NDArray[Any], steps: int = 0) -> list[kaiwa.Word]:
    assert model.tokenizer is not None
    words, found = Words(model.tokenizer, model.delay_seconds, steps), WordList()
    for token in tokens:
        for event in words.push(int(token)):
            found.add(event)
    return found.words


def test_the_reference_case_is_exact(model: kaiwa.SpeechToText) -> None:
    stream = model.stream(1)
    for step in range(EXPECTED["codes"].shape[1]):
        out = stream.step(EXPECTED["codes"][None, :, step])
        text, heads = out
        assert text[0] == EXPECTED["text_tokens"][step]
        np.testing.assert_allclose(heads[0], EXPECTED["heads"][step, :, 0], atol=2e-4)
        np.testing.assert_allclose(out.text_logits[0], EXPECTED["text_logits"][step], atol=2e-4)
    assert (str(text.dtype), str(heads.dtype)) == ("int32", "float32")
    assert out.text_logits.shape == (1, 96)
    # The ring of 20 steps is full: a longer transcription takes no more memory.
    full = stream.state_bytes
    for step in range(60):
        stream.step(EXPECTED["codes"][None, :, step])
    assert (stream.state_bytes, stream.steps) == (full, [150])


def test_neighbours_pauses_and_resets_change_nothing(model: kaiwa.SpeechToText) -> None:
    rng = np.random.default_rng(4)
    stream = model.stream(3)
    done = np.zeros(3, int)
    made: list[list[int]] = [[], [], []]
    heads: list[list[NDArray[np.float32]]] = [[], [], []]
    for turn in range(400):
        if turn == 50:
            stream.reset(1)
            done[1], made[1], heads[1] = 0, [], []
        active = (rng.random(3) < 0.7) & (done < 90)
        codes = np.full((3, 32), 2**40)  # Those of paused slots are not looked at.
        codes[active] = EXPECTED["codes"].T[done[active]]
        out = stream.step(codes, active)
        assert (out.text[~active] == -2).all()
        assert not out.heads[~active].any()
        assert not out.text_logits[~active].any()
        for slot in map(int, np.flatnonzero(active)):
            made[slot].append(int(out.text[slot]))
            heads[slot].append(out.heads[slot])
        done += active
    for slot in range(3):
        assert made[slot] == EXPECTED["text_tokens"].tolist()
        np.testing.assert_allclose(heads[slot], EXPECTED["heads"][:, :, 0], atol=2e-4)
    stream.reset()
    assert stream.steps == [0, 0, 0]


# The widths of this model are not those of MLX's groups.
@pytest.mark.parametrize("form", [f for f in kaiwa._native.lm_formats() if "mlx-q" not in f])
def test_every_format_through_the_converter(form: str, tmp_path: Path) -> None:
    from kaiwa.cli import main

    path = tmp_path / kaiwa._native.lm_file_name(form)
    assert main(["convert", str(FOLDER), str(path), "--to", form, "--quiet"]) == 0
    model = kaiwa.SpeechToText.from_pretrained(tmp_path, device="cpu", dtype="float32")
    assert (model.num_heads, model.delay_seconds) == (4, 0.5)
    # The codec and the tokenizer are found through the configuration that was written beside it.
    assert (model.mimi is not None, model.tokenizer is not None) == (True, True)
    stream = model.stream()
    worst = 0.0
    for step in range(20):
        out = stream.step(EXPECTED["codes"][None, :, step])
        worst = max(worst, float(np.abs(out.heads[0] - EXPECTED["heads"][step, :, 0]).max()))
    assert worst < (0.8 if "q4" in form else 0.2)


def test_words_follow_the_rule(model: kaiwa.SpeechToText) -> None:
    found = words_of(model, EXPECTED["text_tokens"])
    assert [list(word) for word in found] == SPOKEN["words"]
    assert found[1].start == 0.0
    assert found[1] == ("it go", 0.0, 1.12)
    assert words_of(model, EXPECTED["file_text_tokens"]) == SPOKEN["file_words"] == []
    # A step that was made before moves everything by its 80 ms.
    later = words_of(model, EXPECTED["text_tokens"], steps=1)
    assert [word.stop for word in later if word.stop] == pytest.approx(
        [word.stop + 0.08 for word in found if word.stop]
    )
    # A model that never ends a word does not fill the memory.
    long = words_of(model, np.full(2 * MOST_PIECES + 10, 36))
    assert len(long) == 2


def test_a_recording_gives_the_tokens_of_the_reference(
    model: kaiwa.SpeechToText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    push = Words.push

    def spied(self: Words, token: int) -> Any:
        seen.append(token)
        return push(self, token)

    monkeypatch.setattr(Words, "push", spied)
    pcm = EXPECTED["file_pcm"]
    told: list[tuple[int, int]] = []
    assert model.transcribe(pcm, progress=lambda *now: told.append(now)) == []
    assert seen == EXPECTED["file_text_tokens"].tolist()
    assert told[-1] == (29, 29)
    for path, options in ((tmp_path / "a.wav", {"subtype": "FLOAT"}),):
        soundfile.write(path, pcm, 24_000, **options)
        seen.clear()
        model.transcribe(path)
        model.transcribe(str(path))
        assert seen == EXPECTED["file_text_tokens"].tolist() * 2


def test_a_prefix_moves_the_times(model: kaiwa.SpeechToText, tmp_path: Path) -> None:
    """Silence before the recording is heard by the model and not counted in the times."""
    shutil.copytree(FOLDER, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["stt_config"] = {"audio_delay_seconds": 0.5, "audio_silence_prefix_seconds": 0.96}
    path.write_text(json.dumps(config))
    with_prefix = kaiwa.SpeechToText.from_pretrained(path.parent, device="cpu", dtype="float32")
    assert (with_prefix.prefix_seconds, model.prefix_seconds) == (0.96, 0.0)
    rng = np.random.default_rng(1)
    pcm = np.repeat(rng.uniform(-2, 2, 1600), 120).astype(np.float32)
    padded = np.concatenate([np.zeros(round(0.96 * 24_000), np.float32), pcm])
    plain = [(w.text, w.start, w.stop) for w in model.transcribe(padded)]
    moved = [(w.text, w.start, w.stop) for w in with_prefix.transcribe(pcm)]
    assert len(plain) > 3
    assert [w[0] for w in moved] == [w[0] for w in plain]
    assert [w[1] for w in moved] == pytest.approx([max(0, w[1] - 0.96) for w in plain])


def test_an_engine_transcribes_files_and_many_at_once(model: kaiwa.SpeechToText) -> None:
    pcm = EXPECTED["file_pcm"]
    assert model.mimi is not None
    with kaiwa.Engine(
        model.moshi, mimi=model.mimi, tokenizer=model.tokenizer, slots=4, step_budget=None
    ) as engine:
        assert engine.task == "transcription"
        sessions = [engine.session() for _ in range(3)]
        steps: list[list[kaiwa.StepEvent]] = []
        opened = [session.__enter__() for session in sessions]
        for session in opened:
            session.send(pcm)
            session.finish()
        for session in opened:
            events = list(session)
            assert isinstance(events[-1], kaiwa.EndEvent)
            assert events[-1].reason == "finished"
            steps.append([event for event in events if isinstance(event, kaiwa.StepEvent)])
            assert not any(isinstance(event, kaiwa.AudioEvent) for event in events)
        # 28.9 frames of sound, and 18 of silence for the delay and the last word.
        assert [event.frame for event in steps[0]] == list(range(47))
        assert steps[0] == steps[1] == steps[2]
    stream = model.stream()
    codes = EXPECTED["file_codes"]
    stream.step(codes[None, :, 0])
    for frame, event in enumerate(steps[0]):
        heads = stream.step(codes[None, :, frame]).heads[0]
        np.testing.assert_allclose(event.pauses, heads, atol=1e-5)


def test_weights_alone_still_stream(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(FOLDER / name, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("mimi_name", "mimi_config_name", "tokenizer_name"):
        del config[key]
    (tmp_path / "config.json").write_text(json.dumps(config))
    alone = kaiwa.SpeechToText.from_pretrained(tmp_path, device="cpu", dtype="float32")
    assert (alone.mimi, alone.tokenizer) == (None, None)
    assert alone.stream(2).step(np.zeros((2, 32), int)).text.shape == (2,)
    with pytest.raises(kaiwa.CheckpointNotFoundError, match="no codec"):
        alone.transcribe(np.zeros(1920, np.float32))
    named = kaiwa.SpeechToText.from_pretrained(
        tmp_path, device="cpu", mimi=FOLDER, tokenizer=FOLDER / "tokenizer.model"
    )
    assert named.transcribe(np.zeros(1920, np.float32)) == []
    with pytest.raises(kaiwa.InputError, match="tokenizer"):
        kaiwa.Engine(tmp_path, mimi=FOLDER, device="cpu")


def test_random_weights() -> None:
    model = kaiwa.SpeechToText.from_pretrained("synth:stt-tiny", device="cpu")
    assert (model.num_codebooks_in, model.num_heads, model.prefix_seconds) == (8, 4, 0.0)
    assert "SpeechToText(Moshi(" in repr(model)
    noise = np.random.default_rng(1).standard_normal(48_000).astype(np.float32) * 0.1
    assert model.transcribe(noise) == model.transcribe(noise)


def test_bad_input_is_told(model: kaiwa.SpeechToText, tmp_path: Path) -> None:
    stream = model.stream(2)
    codes = np.zeros((2, 32), int)
    before = stream.step(codes).text_logits
    for bad, word in [
        (codes[:1], "shape"),
        (codes[:, :31], "codebooks"),
        (codes - 2, "-2"),
        (codes + 49, "49"),
        (codes.astype(float), "integers"),
        (codes[0], "shape"),
        ([*codes.tolist(), [0]], "integers"),
    ]:
        with pytest.raises(kaiwa.InputError, match=word):
            stream.step(bad)
    with pytest.raises(kaiwa.InputError, match="booleans"):
        stream.step(codes, [True])
    with pytest.raises(kaiwa.InputError, match="slot"):
        stream.reset(2)
    assert stream.steps == [1, 1]
    stream.reset()
    np.testing.assert_array_equal(stream.step(codes).text_logits, before)
    with pytest.raises(kaiwa.InputError, match="slots"):
        model.stream(0)
    wrong: list[tuple[Any, str]] = [
        (np.zeros(0, np.float32), "no audio"),
        (np.zeros(5), "float32"),
        (np.zeros((2, 5), np.float32), "channel"),
        (np.full(5, np.nan, np.float32), "nan"),
    ]
    for pcm, word in wrong:
        with pytest.raises(kaiwa.InputError, match=word):
            model.transcribe(pcm)
    with pytest.raises(kaiwa.AudioFileError, match="does not exist"):
        model.transcribe(tmp_path / "nowhere.wav")
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(kaiwa.AudioFileError, match="cannot be read as audio"):
        model.transcribe(tmp_path / "text.wav")


def test_models_of_the_other_kind_are_refused() -> None:
    speaks = FOLDER.parent / "moshi_small"
    with pytest.raises(kaiwa.InputError, match="speaks"):
        kaiwa.SpeechToText.from_pretrained(speaks)
    with pytest.raises(kaiwa.InputError, match="speaks"):
        kaiwa.SpeechToText.from_pretrained("synth:tiny")
    with pytest.raises(kaiwa.InputError, match="SpeechToText"):
        kaiwa.Duplex.from_pretrained(FOLDER, device="cpu")
    model = kaiwa.SpeechToText.from_pretrained(FOLDER, device="cpu")
    other = kaiwa.Mimi.from_pretrained(FOLDER, num_codebooks=8, device="cpu")
    with pytest.raises(kaiwa.InputError, match="num_codebooks=32"):
        kaiwa.SpeechToText(model.moshi, other)


def test_a_model_in_float32_is_exact_without_being_asked(tmp_path: Path) -> None:
    """Keys and values of a file in float32 are float32, too."""
    model = kaiwa.SpeechToText.from_pretrained(FOLDER, device="cpu")
    assert (model.moshi.dtype, model.moshi.kv_dtype) == ("float32", "float32")
    stream = model.stream()
    for step in range(90):
        out = stream.step(EXPECTED["codes"][None, :, step])
        assert out.text[0] == EXPECTED["text_tokens"][step]
        np.testing.assert_allclose(out.text_logits[0], EXPECTED["text_logits"][step], atol=2e-4)
    rounded = kaiwa.SpeechToText.from_pretrained(FOLDER, device="cpu", quantize="int8")
    assert rounded.moshi.kv_dtype == "bfloat16"
