"""The language model from Python: golden tokens in every format, streams, input errors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

import kaiwa
from kaiwa.synth import write_moshi

DATA = Path(__file__).parents[1] / "data"
FORMATS = (
    "pytorch_bf16",
    "pytorch_int8",
    "candle_bf16",
    "candle_q8",
    "mlx_bf16",
    "mlx_q8",
    "mlx_q4",
)


@pytest.fixture(scope="module")
def small() -> kaiwa.Moshi:
    return kaiwa.Moshi.from_pretrained(DATA / "moshi_small", device="cpu", dtype="float32")


def greedy(moshi: kaiwa.Moshi) -> kaiwa.MoshiStream:
    return moshi.stream(seed=0, temp=0, temp_text=0)


def frames(moshi: kaiwa.Moshi, codes: NDArray[Any]) -> NDArray[np.int32]:
    """Text and audio of every completed frame, `[1 + dep_q, F]`."""
    stream = greedy(moshi)
    columns = []
    for step in range(codes.shape[1]):
        out = stream.step(codes[None, :, step])
        if out.ready[0]:
            columns.append(np.concatenate([out.text, out.audio[0]]))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("case", ["moshi_small", "hibiki_small"])
def test_reference_tokens_and_logits(case: str) -> None:
    moshi = kaiwa.Moshi.from_pretrained(DATA / case, device="cpu", dtype="float32")
    want = load_file(DATA / case / "expected.safetensors")
    stream = greedy(moshi)
    for step in range(want["user_codes"].shape[1]):
        out = stream.step(want["user_codes"][None, :, step])
        assert out.step_text_tokens[0] == want["step_text_tokens"][step]
        assert (out.step_audio_tokens[0] == want["step_audio_tokens"][step]).all()
        np.testing.assert_allclose(stream.text_logits[0], want["text_logits"][step], atol=2e-4)
        np.testing.assert_allclose(stream.audio_logits[0], want["audio_logits"][step], atol=2e-4)
    assert (frames(moshi, want["user_codes"]) == want["out_tokens"]).all()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_by_its_folder(name: str) -> None:
    folder = DATA / "formats" / name
    want = load_file(folder / "expected.safetensors")
    exact = kaiwa.Moshi.from_pretrained(folder, device="cpu", dtype="float32")
    assert (exact.dtype, exact.kv_dtype) == ("float32", "float32")
    prefix = "" if name == "pytorch_bf16" else "dequant_"
    assert (frames(exact, want["user_codes"]) == want[f"{prefix}out_tokens"]).all()
    assert (frames(exact, want["sharp_user_codes"]) == want["sharp_out_tokens"]).all()
    held = kaiwa.Moshi.from_pretrained(folder, device="cpu")
    assert held.weight_bytes < exact.weight_bytes * 0.7
    assert (frames(held, want["user_codes"]) == want["out_tokens"]).all()


def test_lora_is_merged_and_tables_of_bad_adapters() -> None:
    folder = DATA / "moshi_small_lora"
    want = load_file(folder / "expected.safetensors")
    with pytest.warns(UserWarning, match="names no adapter"):
        kaiwa.Moshi.from_pretrained(folder, device="cpu", dtype="float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merged = kaiwa.Moshi.from_pretrained(
            folder, device="cpu", dtype="float32", lora=folder / "lora.safetensors"
        )
    assert (frames(merged, want["user_codes"]) == want["out_tokens"]).all()
    with pytest.raises(kaiwa.CheckpointError, match="adapter"):
        kaiwa.Moshi.from_pretrained(
            DATA / "formats" / "pytorch_bf16", lora=folder / "lora.safetensors"
        )
    with pytest.raises(kaiwa.CheckpointError, match="LoRA adapter"):
        kaiwa.Moshi.from_pretrained(folder / "lora.safetensors")


def test_facts(small: kaiwa.Moshi) -> None:
    assert (small.num_codebooks_in, small.dep_q, small.card, small.text_card) == (8, 8, 60, 48)
    assert (small.max_delay, small.context, small.frame_rate) == (1, 12, 12.5)
    assert small.config["dim"] == small.config.dim == 64
    assert small.config["delays"][:3] == [0, 0, 1]
    assert small.default_sampling == kaiwa.Sampling(0.8, 0.7, 250, 25)
    assert small.stream().sampling(0) == kaiwa.Sampling(0.8, 0.7, 250, 25)
    assert dict(small.step_bytes)["text_head"] == 48 * 64 * 4 or small.step_bytes
    again = kaiwa.Moshi.from_pretrained(DATA / "moshi_small", device="cpu", dtype=np.float32)
    assert (again.dtype, again.kv_dtype) == ("float32", "float32")
    with pytest.raises(AttributeError, match="no entry"):
        _ = small.config.nothing


def test_slots_do_not_disturb_each_other(small: kaiwa.Moshi) -> None:
    rng = np.random.default_rng(1)
    users = rng.integers(0, 60, (3, 40, 8))
    seeds, temps = [5, 6, 5], [0.8, 0.0, 1.1]
    stream = small.stream(3, seed=seeds, temp=temps)
    made: list[list[Any]] = [[], [], []]
    for _ in range(60):
        active = rng.random(3) < 0.7
        active &= [len(m) < 40 for m in made]
        codes = np.full((3, 8), 2**40)  # Those of paused slots are not looked at.
        for slot in np.flatnonzero(active):
            codes[slot] = users[slot, len(made[slot])]
        out = stream.step(codes, active)
        text, _audio, ready = out
        assert not ready[~active].any()
        assert (text[~active] == -2).all()
        for logits in (stream.text_logits, stream.audio_logits):
            assert not logits[~active].any()
            assert all(row.any() for row in logits[active])
        for slot in np.flatnonzero(active):
            made[slot].append((out.step_text_tokens[slot], *out.step_audio_tokens[slot]))
    for row in range(3):
        alone = small.stream(seed=seeds[row], temp=temps[row])
        for step, tokens in enumerate(made[row]):
            one = alone.step(users[row, step][None])
            assert (one.step_text_tokens[0], *one.step_audio_tokens[0]) == tokens
    assert stream.steps == [len(m) for m in made]


def test_reset_seeds_and_memory(small: kaiwa.Moshi) -> None:
    codes = np.full((2, 8), 7)
    stream = small.stream(2, seed=9)
    assert stream.state_bytes == 0
    assert stream.seeds == [9, 9]
    first = [stream.step(codes).step_audio_tokens.copy() for _ in range(20)]
    assert all((a[0] == a[1]).all() for a in first), "the same seed says the same"
    assert sum(stream.slot_bytes) == stream.state_bytes > 0
    stream.reset(0)
    assert stream.slot_bytes[0] == 0
    assert stream.steps == [0, 20]
    again = [stream.step(codes).step_audio_tokens.copy() for _ in range(20)]
    assert all((a[0] == b[0]).all() for a, b in zip(first, again, strict=True))
    stream.reset(seed=10)
    other = [stream.step(codes).step_audio_tokens.copy() for _ in range(20)]
    assert any((a != b).any() for a, b in zip(first, other, strict=True))
    fresh = small.stream(2)
    assert fresh.seeds[0] != fresh.seeds[1]


def test_forced_tokens(small: kaiwa.Moshi) -> None:
    stream = greedy(small)
    codes = np.zeros((1, 8), np.int32)
    out = stream.step(codes, force_text=[5])
    assert out.step_text_tokens[0] == 5
    out = stream.step(codes.tolist(), force_text=[None], force_audio=[[*range(7), None]])
    assert (out.step_audio_tokens[0, :7] == np.arange(7)).all()
    assert out.text[0] == 5
    out = stream.step(codes, force_text=[None], force_audio=np.arange(8)[None])
    assert (out.step_audio_tokens[0] == np.arange(8)).all()
    assert out.ready[0]
    stage = stream.stage_seconds
    assert stage["depth"] > 0
    assert stage["attention"] > 0
    stream.clear_stage_seconds()
    assert sum(stream.stage_seconds.values()) == 0


BAD_STEPS: list[tuple[str, Callable[[kaiwa.MoshiStream], Any]]] = [
    ("dtype", lambda s: s.step(np.zeros((1, 8)))),
    ("shape", lambda s: s.step(np.zeros(8, int))),
    ("shape", lambda s: s.step(np.zeros((2, 8), int))),
    ("codebooks", lambda s: s.step(np.zeros((1, 7), int))),
    ("60", lambda s: s.step(np.full((1, 8), 61))),
    ("-2", lambda s: s.step(np.full((1, 8), -2))),
    ("active", lambda s: s.step(np.zeros((1, 8), int), active=[True, True])),
    ("force_text", lambda s: s.step(np.zeros((1, 8), int), force_text=[48])),
    ("force_text", lambda s: s.step(np.zeros((1, 8), int), force_text=[1, 2])),
    ("force_audio", lambda s: s.step(np.zeros((1, 8), int), force_audio=np.zeros((1, 7), int))),
    (str(2**40), lambda s: s.step(np.full((1, 8), 2**40))),
    (str(2**40), lambda s: s.step(np.zeros((1, 8), int), force_text=[2**40])),
    (str(2**40), lambda s: s.step(np.zeros((1, 8), int), force_audio=np.full((1, 8), 2**40))),
    ("rows of one length", lambda s: s.step([[1] * 8, [1]])),
    ("dtype bool", lambda s: s.step(np.zeros((1, 8), bool))),
    ("below 60", lambda s: s.step(np.full((1, 8), 2**64 - 1, np.uint64))),
    ("force_text", lambda s: s.step(np.zeros((1, 8), int), force_text=5)),  # type: ignore[arg-type]
    ("force_text", lambda s: s.step(np.zeros((1, 8), int), force_text="ab")),  # type: ignore[arg-type]
    ("force_audio", lambda s: s.step(np.zeros((1, 8), int), force_audio=[None])),  # type: ignore[list-item]
    ("slots", lambda s: s.reset(1)),
    ("seed", lambda s: s.reset(seed=-1)),
    ("temp", lambda s: s.set_sampling(0, kaiwa.Sampling(temp=-1))),
    ("slots", lambda s: s.set_sampling(3, kaiwa.Sampling())),
    ("conditions", lambda s: s.set_condition(0, "mood", "good")),
]


@pytest.mark.parametrize(("words", "call"), BAD_STEPS)
def test_bad_input_is_refused_and_changes_nothing(
    small: kaiwa.Moshi, words: str, call: Callable[[kaiwa.MoshiStream], Any]
) -> None:
    codes = np.full((1, 8), 3)
    stream, control = small.stream(seed=1), small.stream(seed=1)
    for _ in range(4):
        with pytest.raises(kaiwa.InputError, match=words):
            call(stream)
        a, b = stream.step(codes), control.step(codes)
        assert (a.step_audio_tokens == b.step_audio_tokens).all()


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("slots", {"slots": 0}),
        ("slots", {"slots": 10**9}),
        ("from 0", {"temp": float("inf")}),
        ("seed", {"seed": -1}),
        ("seed", {"slots": 2, "seed": [1]}),
        ("temp", {"temp": "hot"}),
        ("temp_text", {"temp_text": float("nan")}),
        ("top_k", {"top_k": -1}),
        ("conditions", {"conditions": {"description": "good"}}),
    ],
)
def test_bad_stream_options(small: kaiwa.Moshi, words: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(kaiwa.InputError, match=words):
        small.stream(**arguments)


def test_bad_checkpoints(tmp_path: Path) -> None:
    load = kaiwa.Moshi.from_pretrained
    good = DATA / "moshi_small"
    data = (good / "model.safetensors").read_bytes()
    config = (good / "config.json").read_text()
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(kaiwa.CheckpointError, match=r"config\.json"):
        load(tmp_path)
    for old, new, words in (
        ('"num_layers": 3', '"num_layers": 2', "num_layers"),
        ('"dep_q": 8', '"dep_q": 7', "dep_q 7"),
        ('"card": 60', '"card": 61', "card"),
        ('"hidden_scale": 1.5', '"hidden_scale": 2', "hidden_scale"),
        ('"num_heads": 4', '"num_heads": 5', "num_heads"),
        ('"dim": 64', '"dim": 64, "colour": 1', "colour"),
        ('"model_type": "moshi"', '"model_type": "tts"', "text to speech"),
    ):
        assert old in config
        (tmp_path / "config.json").write_text(config.replace(old, new))
        with pytest.raises(kaiwa.CheckpointError, match=words):
            load(tmp_path)
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").write_bytes(data[:-1000])
    with pytest.raises(kaiwa.CheckpointError, match="truncated"):
        load(tmp_path)
    with pytest.raises(kaiwa.CheckpointError, match="Mimi codec"):
        load(DATA / "mimi_small" / "mimi.safetensors", config=good / "config.json")
    gguf = (DATA / "formats" / "candle_q8" / "model.q8.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(gguf[: len(gguf) // 2])
    with pytest.raises(kaiwa.CheckpointError, match="truncated"):
        load(tmp_path / "cut.gguf", config=DATA / "formats" / "candle_q8" / "config.json")
    with pytest.raises(kaiwa.CheckpointNotFoundError):
        load(tmp_path / "nowhere")
    for option in ({"dtype": "int3"}, {"quantize": 4}, {"kv_dtype": "int4"}, {"device": 1}):
        with pytest.raises(kaiwa.InputError):
            load(good, **option)
    with pytest.raises(kaiwa.InputError, match="one of the two"):
        load(good, dtype="float32", quantize="int8")


def test_shards_and_progress(tmp_path: Path) -> None:
    import json

    from safetensors.numpy import save_file

    good = DATA / "moshi_small"
    tensors = load_file(good / "model.safetensors")
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_bytes((good / "config.json").read_bytes())
    seen: list[tuple[int, int]] = []
    moshi = kaiwa.Moshi.from_pretrained(
        tmp_path, device="cpu", dtype="float32", progress=lambda *p: seen.append(p)
    )
    assert seen
    assert seen[-1][0] == seen[-1][1]
    want = load_file(good / "expected.safetensors")
    assert (frames(moshi, want["user_codes"]) == want["out_tokens"]).all()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with codec and tokenizer."""
    folder = tmp_path_factory.mktemp("moshi")
    write_moshi(folder, size="tiny", mimi=True, tokenizer=True)
    return folder


def test_duplex_joins_codec_model_and_tokenizer(whole: Path) -> None:
    rng = np.random.default_rng(0)
    pcm = rng.uniform(-0.5, 0.5, (12, 2, 1920)).astype(np.float32)
    duplex = kaiwa.Duplex.from_pretrained(whole, slots=2, seed=[3, 4], device="cpu")
    mimi = kaiwa.Mimi.from_pretrained(whole, device="cpu")
    codec = mimi.stream(2)
    model = kaiwa.Moshi.from_pretrained(whole, device="cpu").stream(2, seed=[3, 4])
    said = ["", ""]
    for frame in pcm:
        out = duplex.step(frame)
        codes = codec.encode(frame[:, None])[:, :, 0]
        text, audio, ready = model.step(codes)
        assert (out.ready == ready).all()
        assert (out.text_tokens == text).all()
        want = codec.decode(audio[:, :, None], ready)[:, 0] if ready.any() else np.zeros_like(frame)
        assert (out.audio == want).all()
        said = [old + new for old, new in zip(said, out.text, strict=True)]
    assert all(said), "random models talk"
    assert duplex.state_bytes > 0
    assert duplex.stage_seconds["lm"] > 0
    duplex.reset(1)
    again = duplex.step(pcm[0])
    assert list(again.ready) == [True, False]
    for bad in (pcm[0, 0], pcm[0][:, :100], pcm[0].astype(np.float64), "x"):
        with pytest.raises(kaiwa.InputError):
            duplex.step(bad)  # type: ignore[arg-type]


def test_duplex_with_pauses_forced_text_and_priming_is_its_parts_stepped_by_hand(
    whole: Path,
) -> None:
    rng = np.random.default_rng(1)
    pcm = rng.uniform(-0.5, 0.5, (8, 3, 1920)).astype(np.float32)
    moshi = kaiwa.Moshi.from_pretrained(whole, device="cpu")
    mimi = kaiwa.Mimi.from_pretrained(whole, device="cpu")
    duplex = kaiwa.Duplex(moshi, mimi, slots=3, seed=[3, 4, 5], top_k=[5, 6, 7], prime=True)
    codec = mimi.stream(3)
    model = moshi.stream(3, seed=[3, 4, 5], top_k=[5, 6, 7])
    for n, frame in enumerate(pcm):
        active = [True, n % 2 == 0, n > 3]
        forced = [None, 9, 11 + n]
        if n == 6:
            duplex.reset([1], seed=8)
            codec.reset([1])
            model.reset([1], seed=8)
        out = duplex.step(frame, active, forced)
        codes = codec.encode(frame[:, None], active)[:, :, 0]
        fresh = [on and steps == 0 for on, steps in zip(active, model.steps, strict=True)]
        if any(fresh):
            model.step(codes, fresh, forced)
        want = model.step(codes, active, forced)
        audio = codec.decode(want.audio[:, :, None], want.ready)[:, 0]
        assert (out.ready == want.ready).all()
        assert list(want.ready) == active, "primed: frame n comes out with frame n"
        assert (out.text_tokens == want.text).all()
        assert (out.audio == audio).all()
    assert duplex.seeds == [3, 8, 5]
    before = duplex.state_bytes
    idle = duplex.step(pcm[0], [False] * 3)
    assert not idle.ready.any()
    assert not idle.audio.any()
    assert duplex.state_bytes == before
    with pytest.raises(kaiwa.InputError, match="force_text"):
        duplex.step(pcm[0], force_text=[1 << 40, None, None])
    with pytest.raises(kaiwa.InputError, match="nan"):
        duplex.step(np.full((3, 1920), np.nan, np.float32))


def test_sampling_defaults_are_those_of_the_core() -> None:
    assert kaiwa.Sampling() == kaiwa.Sampling(0.8, 0.7, 250, 25)
    assert kaiwa.Engine.echo(slots=1).default_sampling == kaiwa.Sampling()


def test_duplex_parts_must_fit(whole: Path, mimi: kaiwa.Mimi) -> None:
    small = kaiwa.Moshi.from_pretrained(DATA / "moshi_small", device="cpu")
    with pytest.raises(kaiwa.InputError, match="entries"):
        kaiwa.Duplex(small, mimi)
    with pytest.raises(kaiwa.CheckpointError, match="pieces"):
        kaiwa.Tokenizer.load(whole / "tokenizer_spm_32k_3.model", expected_pieces=9)
