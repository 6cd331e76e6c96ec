"""The arithmetic of planning, against figures that were measured and worked out by hand."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from kaiwa import _native
from kaiwa.errors import InputError
from kaiwa.plan import sizing, stack, steps
from kaiwa.plan.device import DEVICES, LAUNCH_SECONDS
from kaiwa.plan.model import MODELS, Model, released
from kaiwa.plan.sizing import Wanted, erlang_b, plan, servers_for
from kaiwa.plan.steps import StepTimes

ROOT = Path(__file__).parents[2]
H100, CPU = DEVICES["h100"], DEVICES["cpu-2core"]


@pytest.mark.parametrize("name", MODELS)
def test_sizes_are_those_of_the_models(name: str) -> None:
    files = _native.LmFiles.random(name, 0)
    config = json.loads(files.config_json)
    model = MODELS[name]
    assert model.parameters == files.parameters
    assert (model.dim, model.layers) == (config["dim"], config["num_layers"])
    assert model.context == config["context"]


def test_bytes_are_those_that_were_measured() -> None:
    # docs/benchmarks.md: 8.17 GB in gguf-q8; 813 and 76.2 MB with 3000 steps of int8.
    assert MODELS["7b"].weight_bytes("int8") == pytest.approx(8.17e9, rel=2e-3)
    assert MODELS["7b"].state_bytes("int8", None) == pytest.approx(813e6, rel=2e-3)
    assert MODELS["300m"].state_bytes("int8", None) == pytest.approx(76.2e6, rel=2e-3)


def test_a_short_call_has_a_short_history() -> None:
    model = Model("m", 1, 100, 3, 3000)
    # 10 s are 126 steps, 128 in blocks; two numbers of two bytes.
    assert model.state_bytes("bfloat16", 10) == 2 * 2 * 3 * 100 * 128
    assert model.state_bytes("bfloat16", 1e6) == model.state_bytes("bfloat16", None)
    with pytest.raises(InputError, match="kv_dtype is 'int4'; use one of"):
        model.state_bytes("int4", None)


def test_step_times_between_and_beyond_what_was_measured() -> None:
    times = StepTimes(((2, 0.010), (4, 0.014), (8, 0.016)), True, "")
    assert [times.seconds(n) for n in (1, 2, 3, 4, 6, 8, 12)] == pytest.approx(
        [0.010, 0.010, 0.012, 0.014, 0.015, 0.016, 0.018]
    )
    assert [times.most(b, 100) for b in (0.009, 0.0101, 0.0121, 0.0181)] == [0, 2, 3, 12]
    assert times.most(1, 5) == 5
    # Measured times that fall do not promise more and more.
    assert StepTimes(((1, 0.02), (8, 0.01)), True, "").seconds(100) == 0.02
    assert times.plus(0.001).seconds(6) == pytest.approx(0.021)


@pytest.mark.parametrize(
    "text", ["", "8", "8:", ":8", "8:x", "0:5", "-1:5", "8:0", "1:5;8:9", "8:nan"]
)
def test_step_times_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="give conversations and milliseconds"):
        steps.read(text)


def test_step_times_that_were_given() -> None:
    read = steps.read("8:21,1:12.5")
    assert read.points == ((1, 0.0125), (8, 0.021))
    assert read.measured
    with pytest.raises(InputError, match="give two times at least"):
        steps.read("1:5").seconds(2)


def test_slots_are_what_memory_time_and_server_allow() -> None:
    fast = StepTimes(((1, 0.001), (1000, 0.002)), True, "")
    slow = StepTimes(((1, 0.020), (11, 0.030)), True, "")
    small = replace(H100, memory=24e9)
    wanted = Wanted(calls=1, seconds=None)
    found = plan(MODELS["7b"], small, wanted, fast)
    # 24 GB * 0.9 - 1 - 8.553 = 12.047; a call 1.577 + 0.0169.
    assert (found.by_memory, found.slots, found.limited_by) == (7, 7, "memory")
    found = plan(MODELS["7b"], H100, wanted, slow)
    # 60 ms / 1.1 = 54.5 ms: 20 + 34 ms.
    assert (found.by_time, found.slots, found.limited_by) == (35, 35, "step time")
    found = plan(MODELS["300m"], H100, wanted, fast)
    assert (found.slots, found.limited_by) == (min(437, found.by_memory), "memory")
    found = plan(MODELS["300m"], replace(H100, memory=1e12), wanted, fast)
    assert (found.slots, found.limited_by) == (437, "server")


@pytest.mark.parametrize(
    ("calls", "spare", "replicas"), [(1, 0, 1), (35, 0, 1), (36, 0, 2), (36, 1, 3), (1000, 2, 31)]
)
def test_replicas(calls: int, spare: int, replicas: int) -> None:
    slow = StepTimes(((1, 0.020), (11, 0.030)), True, "")
    wanted = Wanted(calls=calls, spare=spare, seconds=None)
    assert plan(MODELS["7b"], H100, wanted, slow).replicas == replicas


def test_times_of_the_processor_are_the_measured_ones() -> None:
    found = plan(MODELS["300m"], CPU, Wanted(calls=1))
    assert found.steps.measured
    # 15.1 and 49.6 ms, and 5.5 ms of codec for each.
    assert found.step_alone_seconds == pytest.approx(0.0206)
    assert found.steps.seconds(8) == pytest.approx(0.0936)
    assert found.slots == 4
    # What was measured with int8 says nothing of float32.
    assert not plan(MODELS["300m"], CPU, Wanted(calls=1, kv="float32")).steps.measured


def test_times_of_a_gpu_are_estimates_and_say_so() -> None:
    model = MODELS["7b"]
    found = plan(model, H100, Wanted(calls=1, seconds=None))
    assert not found.steps.measured
    bandwidth = 3350e9 * 0.6
    alone = LAUNCH_SECONDS + (model.weight_bytes("int8") + 385e6) / bandwidth
    each = model.state_bytes("bfloat16", None) / bandwidth + 2 * model.parameters / (989e12 * 0.3)
    assert found.steps.seconds(1) == pytest.approx(alone + each)
    assert found.steps.seconds(40) == pytest.approx(alone + 40 * each)


@pytest.mark.parametrize(
    ("model", "device", "wanted", "says"),
    [
        ("7b", "l4", Wanted(1, weights="bf16", budget=0.09), "a budget of 80 ms or less"),
        ("7b", "cpu-2core", Wanted(1), "takes 254 ms on cpu-2core, and a frame lasts 80"),
        ("7b", "h100", Wanted(1, kv="int8"), "int8 is for processors"),
        ("7b", "h100", Wanted(0), "at least one call"),
        ("7b", "h100", Wanted(10**9 + 1), "at most 1000000000 calls"),
        ("7b", "h100", Wanted(1, spare=-1), "no negative spare"),
        ("7b", "h100", Wanted(1, weights="int3"), "weights is 'int3'; use one of"),
        ("7b", "h100", Wanted(1, blocked=1.0), "blocked is 1"),
    ],
)
def test_what_cannot_be(model: str, device: str, wanted: Wanted, says: str) -> None:
    with pytest.raises(InputError, match=says):
        plan(MODELS[model], DEVICES[device], wanted)


def test_a_model_that_does_not_fit_is_told_with_what_it_needs() -> None:
    with pytest.raises(InputError, match=r"one conversation needs 19\.1 GB, it has 16"):
        plan(MODELS["7b"], replace(H100, memory=16e9), Wanted(1, weights="bf16", seconds=60))


def test_a_server_lets_its_first_caller_in_whatever_the_budget_is() -> None:
    times = StepTimes(((1, 0.070), (2, 0.075)), True, "")
    assert plan(MODELS["300m"], H100, Wanted(calls=1), times).slots == 1
    with pytest.raises(InputError, match="not even one conversation"):
        plan(MODELS["300m"], H100, Wanted(calls=1), times.plus(0.004))


def test_erlang() -> None:
    # The formula itself, for a few slots; then values of its published tables.
    for slots in range(6):
        for load in (0.1, 1.0, 4.5):
            terms = [load**n / math.factorial(n) for n in range(slots + 1)]
            assert erlang_b(slots, load) == pytest.approx(terms[-1] / sum(terms))
    assert erlang_b(10, 5) == pytest.approx(0.01838, abs=1e-5)
    assert erlang_b(117, 100) == pytest.approx(0.0098, abs=2e-4)
    for load, blocked in ((1, 0.5), (5, 0.02), (1000, 0.9), (1000, 0.001), (100_000, 0.001)):
        slots = servers_for(load, blocked)
        assert erlang_b(slots, load) <= blocked < erlang_b(slots - 1, load)
    # A load that would take an hour from the beginning.
    assert 999_900_000 < servers_for(1e9, 0.0001) < 1_000_000_000


def test_an_average_needs_more_slots_than_a_peak() -> None:
    times = StepTimes(((1, 0.020), (11, 0.030)), True, "")
    found = plan(MODELS["7b"], H100, Wanted(calls=1000, blocked=0.001, seconds=None), times)
    assert found.needed == servers_for(1000, 0.001) > 1000
    assert found.replicas == math.ceil(found.needed / 35) + 1


def test_values_of_the_stack_file() -> None:
    wanted = Wanted(calls=100)
    text = stack.stack(H100, wanted, plan(MODELS["7b"], H100, wanted))
    # Three are enough; the fourth device is the spare, and an update needs it free.
    for line in ('KAIWA_SLOTS: "39"', "stop_grace_period: 390s", "replicas: 3 ", "start-first"):
        assert line in text
    assert "kind: gpu, value: 1" in text
    wanted = Wanted(calls=4, spare=0, seconds=None)
    text = stack.stack(CPU, wanted, plan(MODELS["300m"], CPU, wanted))
    for line in ('KAIWA_MAX_SECONDS: "0"', "replicas: 1", "order: stop-first"):
        assert line in text
    assert "gpu" not in text
    assert "stop_grace_period" not in text


def test_a_plan_sets_what_the_swarm_file_knows() -> None:
    files = [ROOT / "swarm-config.yml", ROOT / "deploy.sh"]
    known = "".join(path.read_text(encoding="utf-8") for path in files)
    wanted = Wanted(calls=100)
    given = stack.variables(H100, wanted, plan(MODELS["7b"], H100, wanted), "kyutai/moshika-x")
    assert given == {
        "KAIWA_MODEL": "kyutai/moshika-x",
        "GPU": "1",
        "KAIWA_REPLICAS": "3",
        "KAIWA_SLOTS": "39",
        "KAIWA_MAX_SECONDS": "360",
        "KAIWA_STEP_BUDGET_MS": "60",
        "KAIWA_KV_DTYPE": "bfloat16",
        "KAIWA_MEMORY": "3G",
        "KAIWA_UPDATE_ORDER": "start-first",
    }
    for name in given:
        assert f"${{{name}:-" in known or f"! on {name}" in known, name
    wanted = Wanted(calls=4, spare=0, seconds=None)
    given = stack.variables(CPU, wanted, plan(MODELS["300m"], CPU, wanted), "300m")
    assert "GPU" not in given
    assert "KAIWA_MODEL" not in given
    assert (given["KAIWA_MAX_SECONDS"], given["KAIWA_UPDATE_ORDER"]) == ("0", "stop-first")


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("kyutai/moshika-candle-q8", "int8"),
        ("kyutai/moshiko-mlx-q4", "int4"),
        ("moshiko-pytorch-bf16", "bf16"),
        ("moshika", None),
    ],
)
def test_released_models_are_known_by_name(name: str, form: str | None) -> None:
    assert released(name) == (MODELS["7b"], form)


def test_other_names_are_not() -> None:
    for name in (
        "",
        "moshi",
        "kyutai/hibiki-1b-pytorch-bf16",
        "me/moshika-candle-q8",
        "moshika-q8",
    ):
        assert released(name) is None


def test_times_of_the_processor_are_those_of_the_benchmarks() -> None:
    """Every measured time is in a row of docs/benchmarks.md with a full window."""
    rows = re.findall(
        r"^\| (\S+) (\S+) \| full \| ([\d.]+) [^|]*\|[^|]*\| ([\d.]+)",
        (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    told = {(model, form): (float(one), float(eight)) for model, form, one, eight in rows}
    assert CPU.measured
    for which, times in CPU.measured.items():
        assert told[which] == times, which


def test_bandwidth_is_that_of_what_the_encoder_makes() -> None:
    import kaiwa
    from kaiwa.synth import voice

    sound, writer = voice(10.0), kaiwa.OggOpusWriter()
    made = sum(len(writer.write(sound[at : at + 1920])) for at in range(0, len(sound), 1920))
    assert made * 8 / 10 == pytest.approx(sizing._PAGES, rel=0.15)
