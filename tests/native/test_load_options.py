"""Options of loading: one declaration, which the public signatures follow."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import kaiwa
from kaiwa import loading, model_options
from kaiwa.load_options import LoadOptions
from kaiwa.server.settings import settings

DEFAULTS = {field.name: field.default for field in dataclasses.fields(LoadOptions)}


def keywords(function: Callable[..., Any]) -> dict[str, Any]:
    """The keywords of a function and their defaults."""
    found = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in found if p.default is not p.empty}


@pytest.mark.parametrize(
    ("function", "without"),
    [(kaiwa.Moshi.from_pretrained, {"mimi_device"}), (kaiwa.Duplex.from_pretrained, set())],
    ids=["Moshi", "Duplex"],
)
def test_public_signatures_have_every_option(
    function: Callable[..., Any], without: set[str]
) -> None:
    wanted = {name: value for name, value in DEFAULTS.items() if name not in without}
    given = keywords(function)
    assert {name: given[name] for name in wanted} == wanted


@pytest.mark.parametrize("source", ["synth:tiny", "demo"])
def test_the_codec_may_stay_on_another_device(source: str) -> None:
    both = loading.load(source, device="candle-cpu")
    assert (both.moshi.device, both.mimi.device) == ("candle-cpu", "candle-cpu")
    apart = loading.load(source, device="candle-cpu", mimi_device="cpu")
    assert (apart.moshi.device, apart.mimi.device) == ("candle-cpu", "cpu")


def test_a_conversation_with_the_codec_on_another_device() -> None:
    pcm = (np.random.default_rng(5).standard_normal((1, 1920)) * 0.1).astype(np.float32)

    def frames(device: str, mimi_device: str | None) -> list[np.ndarray[Any, Any]]:
        duplex = kaiwa.Duplex.from_pretrained(
            "synth:tiny", device=device, mimi_device=mimi_device, dtype="float32", seed=3
        )
        return [duplex.step(pcm).audio for _ in range(4)]

    for apart, same in zip(frames("candle-cpu", "cpu"), frames("cpu", None), strict=True):
        np.testing.assert_allclose(apart, same, atol=1e-5)
    with kaiwa.Engine("synth:tiny", device="cpu", mimi_device="candle-cpu", slots=1) as engine:
        assert engine.readiness.slots_total == 1


def test_a_device_of_the_codec_that_is_none_is_refused() -> None:
    with pytest.raises(kaiwa.InputError, match="mimi_device is 3"):
        LoadOptions(mimi_device=3)  # type: ignore[arg-type]
    with pytest.raises(kaiwa.InputError, match="tpu"):
        kaiwa.Duplex.from_pretrained("synth:tiny", mimi_device="tpu")


def test_sampling_defaults_are_those_of_the_core() -> None:
    wanted = dataclasses.asdict(kaiwa.Sampling())
    core = kaiwa.Moshi.from_pretrained("synth:tiny", device="cpu").default_sampling
    assert dataclasses.asdict(core) == wanted
    for function in (kaiwa.Moshi.stream, kaiwa.Duplex.__init__):
        given = keywords(function)
        assert {name: given[name] for name in wanted} == wanted
    with kaiwa.Engine.echo() as engine:
        assert dataclasses.asdict(engine.default_sampling) == wanted


def test_the_server_has_every_option_of_the_commands() -> None:
    found = {setting.name: setting for setting in settings()}
    for option in (*model_options.MODEL, *model_options.SAMPLING):
        setting = found[option.name]
        assert (setting.kind, setting.choices) == (option.kind, option.choices)
        if option.name != "seed":
            assert setting.help == option.help


def test_the_options_of_the_commands_are_options_of_loading() -> None:
    names = {option.name for option in model_options.MODEL} - {"model", "mimi", "tokenizer"}
    assert names == DEFAULTS.keys() - {"config", "cache_dir", "progress"}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("f32", "float32"),
        ("bf16", "bfloat16"),
        (np.float32, "float32"),
        ("torch.bfloat16", "bfloat16"),
    ],
)
def test_types_by_every_name(given: Any, wanted: str) -> None:
    assert LoadOptions(dtype=given).dtype == LoadOptions(kv_dtype=given).kv_dtype == wanted


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device": 0}, "device is 0; use a name"),
        ({"dtype": "int8"}, "dtype is 'int8'; use float32, bfloat16, or None"),
        ({"quantize": "float32"}, "quantize is 'float32'; use int8, int4, or None"),
        ({"kv_dtype": "int4"}, "kv_dtype is 'int4'; use float32, bfloat16, int8, or None"),
    ],
)
def test_wrong_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(kaiwa.InputError, match=says):
        LoadOptions(**options)
    with pytest.raises(kaiwa.InputError, match=says):
        kaiwa.Engine("synth:tiny", **options)


@pytest.mark.parametrize("name", ["lora", "config", "revision"])
def test_options_that_mean_nothing_for_random_weights(name: str) -> None:
    options: dict[str, Any] = {name: "x"}
    for load in (kaiwa.Moshi.from_pretrained, kaiwa.Duplex.from_pretrained):
        with pytest.raises(kaiwa.InputError, match=f"{name}= means nothing"):
            load("synth:tiny", **options)


def test_unknown_options() -> None:
    with pytest.raises(TypeError, match="devise"):
        kaiwa.Engine("synth:tiny", devise="cpu")
    with pytest.raises(TypeError, match="device beside it"):
        loading.load("synth:tiny", options=LoadOptions(), device="cpu")
