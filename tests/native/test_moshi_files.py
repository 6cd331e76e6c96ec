"""How the files of a language model are found and refused, whatever they are called."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tests.native.plain_moshi import PlainMoshi

import kaiwa
from kaiwa.cli.main import main

DATA = Path(__file__).parents[1] / "data"
SMALL = DATA / "moshi_small"
LORA = DATA / "moshi_small_lora"
Tensors = dict[str, NDArray[Any]]


def config_of(case: Path = SMALL) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((case / "config.json").read_text())
    return config


def says(source: Any, expected: Path = SMALL, **options: Any) -> bool:
    """Whether a model, loaded without a warning, says what the reference says."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moshi = kaiwa.Moshi.from_pretrained(source, device="cpu", dtype="float32", **options)
    want = load_file(expected / "expected.safetensors")
    stream = moshi.stream(temp=0, temp_text=0)
    return all(
        (stream.step(user[None]).step_audio_tokens[0] == tokens).all()
        for user, tokens in zip(want["user_codes"].T, want["step_audio_tokens"], strict=True)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the small model under its usual name."""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(SMALL / name, tmp_path / name)
    return tmp_path


def parts(tensors: Tensors, folder: Path, count: int = 3, stem: str = "model") -> dict[str, str]:
    """Writes a model in parts; gives the file of every tensor."""
    names = sorted(tensors)
    where = {}
    for i in range(count):
        file = f"{stem}-{i + 1:05}-of-{count:05}.safetensors"
        save_file({name: tensors[name] for name in names[i::count]}, folder / file)
        where.update(dict.fromkeys(names[i::count], file))
    return where


def test_any_name_will_do(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "my weights.sft")
    assert says(folder)
    assert says(folder / "my weights.sft")
    (folder / "my weights.sft").rename(folder / "other.safetensors")
    shutil.copy(DATA / "mimi_small" / "mimi.safetensors", folder / "mimi.safetensors")
    shutil.copy(LORA / "lora.safetensors", folder / "lora.safetensors")
    assert says(folder), "codec and adapter beside it are no language models"
    shutil.copy(folder / "other.safetensors", folder / "third.safetensors")
    with pytest.raises(kaiwa.CheckpointNotFoundError, match="name the file itself"):
        says(folder)


def test_a_mark_before_the_configuration(folder: Path) -> None:
    (folder / "config.json").write_text("\ufeff" + json.dumps(config_of()), encoding="utf-8")
    assert says(folder)


def test_parts_with_and_without_an_index(folder: Path) -> None:
    where = parts(load_file(folder / "model.safetensors"), folder)
    (folder / "model.safetensors").unlink()
    assert says(folder), "the names tell"
    assert says(folder / "model-00002-of-00003.safetensors"), "one part stands for all"
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    assert says(folder)
    assert says(index)
    config = {**config_of(), "moshi_name": "model.safetensors.index.json"}
    (folder / "config.json").write_text(json.dumps(config))
    assert says(folder)
    (folder / "config.json").write_text(json.dumps(config_of()))
    (folder / "model-00002-of-00003.safetensors").rename(folder / "part")
    with pytest.raises(kaiwa.CheckpointNotFoundError, match=r"index\.json .*names model-00002-of"):
        says(folder)
    index.write_text(json.dumps({"weight_map": {}}))
    with pytest.raises(kaiwa.CheckpointError, match="names no files"):
        says(folder)


def test_one_part_alone_is_told_of(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({n: tensors[n] for n in sorted(tensors)[::2]}, folder / "model.safetensors")
    with pytest.raises(kaiwa.CheckpointError, match="a part of a model"):
        says(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm": "layer_norm"}, "; norm does not fit"),
        ({"gating": "none"}, "; gating or depformer_gating does not fit"),
        ({"layer_scale": 0.1}, "; layer_scale or depformer_layer_scale does not fit"),
        ({"depformer_norm": "rms_norm"}, "; depformer_norm does not fit"),
        ({"depformer_low_rank_embeddings": 8}, "and depformer_low_rank_embeddings 8 implies"),
        ({"num_layers": 4}, "num_layers 4"),
        ({"dep_q": 7}, "dep_q 7"),
        ({"gating": None}, r"config\.json leaves out \(gating\)"),
        ({"dim": None, "card": None}, r"dim 128 \(config\.json leaves out dim, card\)"),
        ({"text_card_out": 49}, "text_card_out"),
        ({"lora_scaling": "much"}, "lora_scaling"),
    ],
)
def test_a_configuration_of_another_model(
    changes: dict[str, Any], words: str, folder: Path
) -> None:
    config = {key: value for key, value in {**config_of(), **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(kaiwa.CheckpointError, match=words) as error:
        says(folder)
    listed = str(error.value).partition("missing ")[2].partition(")")[0].split(", ")
    assert len(set(listed)) == len(listed), "every name once"


def test_what_no_shape_tells_is_warned_of(folder: Path) -> None:
    config = config_of()
    del config["num_heads"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match="leaves out num_heads, which is then 8"):
        kaiwa.Moshi.from_pretrained(folder, device="cpu")


FOREIGN = {
    "a Mimi codec": ["quantizer.rvq_first.input_proj.weight", "encoder.model.0.conv.conv.bias"],
    "a codec": ["encoder.model.0.conv.conv.bias"],
    "a LoRA adapter": ["transformer.layers.0.gating.linear_in.lora_A.weight"],
    "a text language model": ["model.layers.0.self_attn.q_proj.weight", "lm_head.weight"],
    "such as Whisper": ["model.encoder.conv1.weight"],
    "transformers library": ["depth_decoder.model.embed_tokens.weight"],
    "a voice": ["speaker_wavs"],
    "a file of codes": ["codes"],
    "an image model": ["model.diffusion_model.input_blocks.0.0.weight"],
    "without a text table": ["something.weight"],
}


@pytest.mark.parametrize("what", FOREIGN)
def test_files_of_other_models(what: str, folder: Path) -> None:
    tensors = {name: np.zeros((2, 2), np.float32) for name in FOREIGN[what]}
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(kaiwa.CheckpointError, match=f"is .*{what}.*, but a Moshi language model"):
        says(folder)


def test_gguf_of_other_programs(folder: Path) -> None:
    name = b"blk.0.attn_q.weight"
    header = b"GGUF" + (3).to_bytes(4, "little") + (1).to_bytes(8, "little") + bytes(8)
    entry = len(name).to_bytes(8, "little") + name + (1).to_bytes(4, "little")
    entry += (8).to_bytes(8, "little") + bytes(4) + bytes(8)
    data = header + entry
    (folder / "llama.gguf").write_bytes(data + bytes(-len(data) % 32 + 32))
    with pytest.raises(kaiwa.CheckpointError, match=r"llama\.cpp"):
        says(folder / "llama.gguf")


@pytest.mark.parametrize(
    ("words", "data"),
    [
        ("git-lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"),
        ("web page", b"<!DOCTYPE html><html><body>404</body></html>"),
        ("JSON text", b'{"error": "Repository not found"}'),
        ("pickle", b"\x80\x02}q\x00." + bytes(600)),
        ("pickles", b"PK\x03\x04archive/data.pkl" + bytes(600)),
        ("gzip", b"\x1f\x8b\x08\x00" + bytes(600)),
        ("ONNX", b"\x08\x07\x12\x07pytorch" + bytes(600)),
        ("HDF5", b"\x89HDF\r\n\x1a\n" + bytes(600)),
        ("WAV", b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(600)),
        ("GGML file", b"lmgg" + bytes(600)),
        ("empty", b""),
    ],
)
def test_files_that_are_no_weights(words: str, data: bytes, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(kaiwa.CheckpointError, match=words):
        says(folder)


class TestAdapters:
    @pytest.fixture
    def adapter(self, tmp_path: Path) -> Path:
        """A copy of the adapter without a configuration."""
        path = tmp_path / "adapter"
        path.mkdir()
        shutil.copy(LORA / "lora.safetensors", path)
        return path

    def configured(self, adapter: Path, **values: Any) -> None:
        (adapter / "config.json").write_text(json.dumps({**config_of(), "lora": True, **values}))

    def test_by_name_folder_and_configuration(self, adapter: Path, tmp_path: Path) -> None:
        self.configured(adapter, lora_rank=4, lora_scaling=2.0)
        assert says(SMALL, LORA, lora=adapter)
        assert says(SMALL, LORA, lora=str(adapter / "lora.safetensors"))
        shutil.copy(SMALL / "model.safetensors", adapter)
        self.configured(adapter, lora_rank=4, lora_scaling=2.0, lora_name="lora.safetensors")
        assert says(adapter, LORA)
        self.configured(adapter, lora_rank=4, lora_scaling=0.5)
        assert not says(SMALL, LORA, lora=adapter)

    def test_scaling_is_of_the_adapter_then_the_model_then_the_usual(
        self, adapter: Path, tmp_path: Path
    ) -> None:
        with pytest.warns(UserWarning, match=r"no config\.json beside .* lora_scaling: 2 is taken"):
            kaiwa.Moshi.from_pretrained(SMALL, device="cpu", lora=adapter)
        model = tmp_path / "model"
        model.mkdir()
        shutil.copy(SMALL / "model.safetensors", model)
        self.configured(model, lora_rank=4, lora_scaling=2.0)
        assert says(model, LORA, lora=adapter)
        self.configured(model, lora_rank=4, lora_scaling=1.0)
        assert not says(model, LORA, lora=adapter)

    def test_of_another_kind(self, adapter: Path) -> None:
        self.configured(adapter, lora_rank=8)
        with pytest.raises(kaiwa.CheckpointError, match="lora_rank is 8; the adapter has rank 4"):
            says(SMALL, LORA, lora=adapter)
        self.configured(adapter, lora_scaling=2.0)
        good = load_file(adapter / "lora.safetensors")
        first = next(name for name in sorted(good) if "lora_A" in name)
        other = np.zeros((5, good[first].shape[1]), np.float32)
        cases: list[tuple[str, Tensors]] = [
            ("only one of lora_A and lora_B", {n: t for n, t in good.items() if n != first}),
            ("several ranks", {**good, first: other}),
            ("no such parts", {**good, "head.lora_A.weight": other}),
            (r"lora\.safetensors holds NaN", {**good, first: np.full_like(good[first], np.nan)}),
            ("without lora_A", {"emb.0.weight": np.zeros((61, 64), np.float32)}),
        ]
        for words, tensors in cases:
            save_file(tensors, adapter / "lora.safetensors")
            with pytest.raises(kaiwa.CheckpointError, match=words):
                says(SMALL, LORA, lora=adapter)
        with pytest.raises(kaiwa.InputError, match="lora is a int"):
            says(SMALL, LORA, lora=5)

    @pytest.mark.parametrize("name", ["candle_q8", "mlx_q4", "pytorch_int8", "candle_bf16"])
    def test_on_every_kind_of_base(self, name: str, tmp_path: Path) -> None:
        """Merged with the values that the file stands for, which the f32 conversion writes out."""
        base = DATA / "formats" / name
        arguments = ["convert", str(base), str(tmp_path / "plain"), "--to", "safetensors-f32"]
        assert main(arguments) == 0
        plain = load_file(tmp_path / "plain" / "model.safetensors")
        config = json.loads((tmp_path / "plain" / "config.json").read_text())
        rng = np.random.default_rng(4)
        adapter: Tensors = {}
        targets = {
            "transformer.layers.1.self_attn.in_projs.0": (
                "transformer.layers.1.self_attn.in_proj_weight",
                slice(None),
            ),
            "depformer.layers.0.self_attn.in_projs.3": (
                "depformer.layers.0.self_attn.in_proj_weight",
                slice(3 * 192, 4 * 192),
            ),
            "depformer.layers.1.gating.2.linear_out": (
                "depformer.layers.1.gating.2.linear_out.weight",
                slice(None),
            ),
            "text_linear": ("text_linear.weight", slice(None)),
        }
        for module, (tensor, rows) in targets.items():
            outputs, inputs = plain[tensor][rows].shape
            a, b = rng.standard_normal((4, inputs)), rng.standard_normal((outputs, 4))
            adapter[f"{module}.lora_A.weight"] = (0.1 * a).astype(np.float32)
            adapter[f"{module}.lora_B.weight"] = (0.1 * b).astype(np.float32)
            plain[tensor] = plain[tensor].copy()
            plain[tensor][rows] += 1.5 * 0.01 * (b @ a)
        (tmp_path / "lora").mkdir()
        save_file(adapter, tmp_path / "lora" / "lora.safetensors")
        (tmp_path / "lora" / "config.json").write_text(json.dumps({"lora_scaling": 1.5}))
        moshi = kaiwa.Moshi.from_pretrained(
            base, device="cpu", dtype="float32", lora=tmp_path / "lora"
        )
        reference = PlainMoshi(config, plain)
        stream = moshi.stream(temp=0, temp_text=0)
        for step in range(6):
            user = [(step * 7 + k) % 52 for k in range(8)]
            out = stream.step([user])
            tokens, text, audio, _ = reference.step(
                user, int(out.step_text_tokens[0]), out.step_audio_tokens[0].tolist()
            )
            assert len(tokens) == 9
            np.testing.assert_allclose(stream.text_logits[0], text, atol=2e-4)
            np.testing.assert_allclose(stream.audio_logits[0], audio, atol=2e-4)


def changed(data: bytes, rng: np.random.Generator, end: int) -> bytes:
    """A few bytes before `end` replaced, removed or put in, or the end cut off."""
    made = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, min(end, len(made)) or 1))
        kind = rng.random()
        if kind < 0.5:
            made[at : at + 1] = bytes([int(rng.choice([0, 1, 0x22, 0x7F, 0x80, 0xFF]))])
        elif kind < 0.7:
            number = int(rng.choice([0, 1, 2**31, 2**32 - 1, 2**63 - 1]))
            made[at : at + 8] = number.to_bytes(8, "little")
        elif kind < 0.8:
            del made[at : at + int(rng.integers(1, 40))]
        elif kind < 0.95:
            made[at:at] = rng.bytes(int(rng.integers(1, 20)))
        else:
            del made[int(rng.integers(1, len(made))) :]
    return bytes(made)


@pytest.mark.parametrize(
    ("file", "end"),
    [
        ("moshi_small/model.safetensors", 9_000),
        ("formats/candle_q8/model.q8.gguf", 9_600),
        ("formats/mlx_q4/model.q4.safetensors", 40_000),
        ("formats/pytorch_int8/model.q8.safetensors", 20_000),
        ("moshi_small_lora/lora.safetensors", 17_000),
        ("hibiki_small/config.json", 2_000),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_changed_bytes_are_refused_or_run(file: str, end: int, tmp_path: Path) -> None:
    """Damage anywhere in names, shapes, places and settings: one of our errors, or a model."""
    path = DATA / file
    rng = np.random.default_rng(0)
    model, lora, config = tmp_path / path.name, None, path.with_name("config.json")
    if path.name == "lora.safetensors":
        model, lora = SMALL / "model.safetensors", tmp_path / path.name
    elif path.name == "config.json":
        model, config = path.with_name("model.safetensors"), tmp_path / path.name
    refused = []
    for _ in range(60):
        (tmp_path / path.name).write_bytes(changed(path.read_bytes(), rng, end))
        try:
            moshi = kaiwa.Moshi.from_pretrained(model, device="cpu", config=config, lora=lora)
            codes = np.zeros((2, max(moshi.num_codebooks_in, 1)), int)
            stream = moshi.stream(2, seed=1)
            assert stream.step(codes).step_text_tokens.max() < moshi.text_card
        except kaiwa.errors.KaiwaError as error:
            refused.append(len(str(error)))
    assert len(refused) > 30
    assert max(refused) < 8000


@pytest.mark.parametrize(
    ("name", "form"),
    [("pytorch_int8", "pytorch-int8"), ("mlx_q8", "mlx-q8"), ("mlx_q4", "mlx-q4")],
)
def test_integers_are_copied_to_the_format_they_have(name: str, form: str, tmp_path: Path) -> None:
    source, copy = DATA / "formats" / name, tmp_path / "copy"
    assert main(["convert", str(source), str(copy), "--to", form, "--quiet"]) == 0
    values = []
    for i, model in enumerate((source, copy)):
        plain = tmp_path / f"plain{i}"
        assert main(["convert", str(model), str(plain), "--to", "safetensors-f32", "--quiet"]) == 0
        values.append(load_file(plain / "model.safetensors"))
    assert all((values[0][tensor] == values[1][tensor]).all() for tensor in values[0])
