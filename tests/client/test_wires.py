"""The client by other wire protocols than Kyutai's, against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.server.live import Live, running

from kaiwa.cli import chat_options, main
from kaiwa.client import Audio, ChatClient, connect, wires
from kaiwa.client.conversation import Conversation
from kaiwa.errors import InputError, ServerError
from kaiwa.server import key_edits
from kaiwa.synth import voice

OTHERS = [name for name in wires.WIRES if name != "kyutai"]


def test_the_commands_know_all() -> None:
    assert chat_options.PROTOCOLS == wires.WIRES


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with running() as live:
        yield live


@pytest.mark.parametrize("protocol", OTHERS)
async def test_a_conversation(server: Live, protocol: str) -> None:
    sound = voice(2.0)
    parts: list[Any] = []
    async with connect(f"127.0.0.1:{server.port}", protocol=protocol) as chat:
        talk = Conversation(chat, on_audio=parts.append)
        await talk.run(np.split(sound, 25))
        rows = server.ask("/v1/sessions").json["sessions"]
        assert [row["protocol"] for row in rows] == [protocol]
    assert chat.close_code == 1000
    assert talk.missing == 0
    heard = np.concatenate(parts)
    assert len(heard) == len(sound)
    # Late by the filters and a frame or two, and without its treble; a busy machine may lose a
    # frame, so that pieces are compared.
    assert max(likeness(piece, sound) for piece in np.split(heard, 10)) > 0.9


async def test_turns_keep_the_clock_of_the_input(server: Live) -> None:
    """A pause so long that the server leaves it out, and a word behind it."""
    word, pause = voice(0.8), np.zeros(30 * 1920, np.float32)
    sound = np.concatenate([word, pause, word])
    parts: list[Any] = []
    async with connect(f"127.0.0.1:{server.port}", protocol="realtime") as chat:
        talk = Conversation(chat, on_audio=parts.append)
        await talk.run(np.split(sound, 50))
    assert talk.missing == 0
    assert 20 <= talk.timeline.came < 50
    heard = np.concatenate(parts)
    assert len(heard) == len(sound)
    assert not heard[22 * 1920 : 36 * 1920].any()
    # A busy machine may put frames of silence in, which make the second word late.
    assert likeness(heard[42 * 1920 : 46 * 1920], sound) > 0.9
    assert np.abs(heard[38 * 1920 :]).max() > 0.05


def likeness(piece: Any, whole: Any) -> float:
    """How much a piece is like the part of a sound that it is most like, 1 at most."""
    parts = np.lib.stride_tricks.sliding_window_view(whole, len(piece))[::4]
    size = np.linalg.norm(parts, axis=1) * np.linalg.norm(piece)
    return float(np.max(parts @ piece / np.maximum(size, 1e-3)))


@pytest.mark.parametrize("protocol", OTHERS)
def test_the_command_client(
    server: Live, protocol: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.wav", tmp_path / "out.wav"
    soundfile.write(source, voice(1.6), 24_000)
    url = f"127.0.0.1:{server.port}"
    done = main(["client", "--protocol", protocol, "--in", str(source), "--out", str(target), url])
    assert done == 0
    assert "0 of 20 frames missing" in capsys.readouterr().err
    heard, rate = soundfile.read(target)
    assert (rate, len(heard)) == (24_000, 38_400)
    assert np.abs(heard).max() > 0.05


@pytest.mark.parametrize("protocol", OTHERS)
def test_the_command_loadtest(
    server: Live, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"127.0.0.1:{server.port}"
    options = ["--calls", "3", "--seconds", "1.6", "--json", "--decode"]
    assert main(["loadtest", "--protocol", protocol, *options, url]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["protocol"] == protocol
    assert found["calls"]["admitted"] == 3
    assert found["frames"]["sent"] > 0
    # A filter may hold the last frame back.
    assert found["frames"]["answered"] >= found["frames"]["sent"] - 3
    assert found["answer_level_dbfs"] > -40


@pytest.mark.parametrize("protocol", OTHERS)
async def test_a_key_and_a_token(protocol: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = key_edits.add(path, "one", 0.0)[1]
    with running(keys=str(path)) as live:
        url = f"127.0.0.1:{live.port}"
        token = live.ask("/v1/tokens", "POST", key=key).json["token"]
        for given in ({"key": key}, {"token": token}):
            async with connect(url, protocol=protocol, **given) as chat:
                for frame in np.split(voice(0.4), 5):
                    await chat.send_pcm(frame)
                async for event in chat:
                    if isinstance(event, Audio):
                        break
        with pytest.raises(ServerError) as refused:
            await listen(url, protocol=protocol, token=token)
        assert refused.value.code == "bad_token"


async def listen(url: str, **options: Any) -> None:
    """A call to its end."""
    async with connect(url, **options) as chat:
        async for _ in chat:
            pass


async def test_what_a_protocol_has_no_place_for_is_an_error(server: Live) -> None:
    url = f"127.0.0.1:{server.port}"
    with pytest.raises(InputError, match="seed: a call by twilio says nothing about it"):
        await ChatClient.open(url, protocol="twilio", params={"seed": "1"})
    with pytest.raises(InputError, match="format is for the protocol kyutai"):
        await ChatClient.open(url, protocol="twilio", format="pcm")
    with pytest.raises(InputError, match="choose one of kyutai, live, realtime, twilio"):
        await ChatClient.open(url, protocol="morse")


def test_a_file_faster_than_time_needs_a_protocol_that_takes_it(
    server: Live, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.wav"
    soundfile.write(source, voice(0.4), 24_000)
    command = ["client", "--protocol", "twilio", "--pace", "none", "--in", str(source)]
    assert main([*command, "--out", str(tmp_path / "o.wav"), f"127.0.0.1:{server.port}"]) == 2
    assert "pace: a call by twilio says nothing about it" in capsys.readouterr().err


@pytest.mark.parametrize("protocol", OTHERS)
@pytest.mark.parametrize(
    "message", ["", "[]", "x", "{}", '{"event": "media"}', '{"event": "media", "media": 5}', b"\0"]
)
def test_what_means_nothing_is_nothing(protocol: str, message: str | bytes) -> None:
    assert wires.wire(protocol).read(message, 0.0) == []
