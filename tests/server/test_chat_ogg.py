"""Ogg/Opus on a running server: what it sends, byte by byte, and what it hears from senders that
keep the format more or less. The echo says back what it heard."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest

import numpy as np
import pytest
from tests.conftest import DATA
from tests.server.live import Live, eventually, running
from tests.server.packets import packets, regrouped, stream
from tests.server.wire import (
    AUDIO,
    FRAME,
    RATE,
    Array,
    call,
    headers,
    loudness,
    page,
    pages,
    pitch,
    tone,
)

sphn = pytest.importorskip("sphn", reason="sphn has no wheel for this Python or platform")

FRAMES = 12


def sound(frames: int = FRAMES) -> Array:
    """A tone in noise, which keeps the encoder at frames of 20 ms."""
    noise = np.random.default_rng(1).normal(0, 0.02, frames * FRAME)
    made: Array = (tone(frames) + noise).astype(np.float32)
    return made


async def say(live: Live, messages: Iterable[bytes], frames: int = FRAMES) -> list[bytes]:
    """Says audio in a call of its own; gives the payloads of so many answers."""
    async with call(live.url(pace="none")) as chat:
        await chat.say(*messages)
        return await chat.frames(frames)


def decoded(payloads: Iterable[bytes]) -> Array:
    """Through sphn's reader."""
    reader = sphn.OpusStreamReader(RATE)
    made: Array = np.concatenate([reader.append_bytes(payload) for payload in payloads])
    return made


def check_tone(payloads: Sequence[bytes], hertz: float = 330.0) -> None:
    """The tone is there, as loud as it was."""
    heard = decoded(payloads)
    assert len(heard) == len(payloads) * FRAME
    steady = heard[FRAME:]
    assert abs(pitch(steady) - hertz) < RATE / len(steady) + 2
    assert 0.17 < loudness(steady) < 0.25


# ---- what the server sends ---------------------------------------------------------------------


@pytest.mark.parametrize("server", ["echo", "tiny"])
async def test_the_pages_suit_every_reader(server: str, request: pytest.FixtureRequest) -> None:
    live: Live = request.getfixturevalue(server)
    answers = await say(live, stream(sound()))
    first = pages(answers[0])
    assert [(page.flags, page.sequence, page.granule) for page in first[:2]] == [
        (2, 0, 0),
        (0, 1, 0),
    ]
    (head,), (tags,) = first[0].packets, first[1].packets
    assert len(head) == 19
    assert head[:10] == b"OpusHead\x01\x01"
    assert int.from_bytes(head[12:16], "little") in (24_000, 48_000)
    assert head[16:] == bytes(3)
    assert tags.startswith(b"OpusTags")
    audio = [page for payload in answers for page in pages(payload)][2:]
    assert len(first) == len(pages(answers[1])) + 2
    for number, one in enumerate(audio):
        assert one.sequence == number + 2
        assert one.serial == first[0].serial
        assert one.flags == 0
        assert len(one.packets) == 1
        assert len(one.packets[0]) > 2
    per_page = FRAMES * FRAME * 2 // len(audio)
    assert per_page in (960, 1920, 3840)
    assert [page.granule for page in audio] == [per_page * (n + 1) for n in range(len(audio))]


async def test_each_message_has_one_frame_of_80_ms(echo: Live) -> None:
    reader = sphn.OpusStreamReader(RATE)
    answers = await say(echo, stream(sound()))
    sizes = [len(reader.append_bytes(payload)) for payload in answers]
    assert sizes == [FRAME] * FRAMES


@pytest.mark.parametrize("size", [1, 50, 333])
async def test_sphn_reads_what_we_send_however_it_is_cut(echo: Live, size: int) -> None:
    data = b"".join(await say(echo, stream(sound())))
    reader = sphn.OpusStreamReader(RATE)
    cut = [data[at : at + size] for at in range(0, len(data), size)]
    heard = np.concatenate([reader.append_bytes(piece) for piece in cut])
    assert len(heard) == FRAMES * FRAME
    assert abs(pitch(heard[FRAME:]) - 330) < 15


# ---- what the server hears ---------------------------------------------------------------------


async def test_pages_of_sphn(echo: Live) -> None:
    check_tone(await say(echo, stream(sound())))


@pytest.mark.parametrize("size", [1, 7, 50, 100, 5000])
async def test_pages_of_sphn_split_anyhow(echo: Live, size: int) -> None:
    data = b"".join(stream(sound()))
    # More tiny messages at once would be a flood.
    cut = min(len(data), 1500 * size)
    pieces = [data[at : at + size] for at in range(0, cut, size)]
    check_tone(await say(echo, [*pieces, data[cut:]]))


async def test_pages_without_headers(echo: Live) -> None:
    data = b"".join(stream(sound()))
    check_tone(await say(echo, [data[47 + 55 :]]))


async def test_one_packet_of_80_ms_a_page_and_headers_apart(echo: Live) -> None:
    """As sphn 0.1 sends."""
    audio = [
        page([packet], n + 2, granule=FRAME * (n + 1), serial=42)
        for n, packet in enumerate(regrouped(sound(), 80))
    ]
    check_tone(await say(echo, [*headers(42, 24_000, b"sphn-pyo3"), *audio]))


async def test_two_packets_of_20_ms_a_page(echo: Live) -> None:
    """As the web client's recorder sends."""
    small = regrouped(sound(), 20)
    audio = [
        page(small[n : n + 2], n // 2 + 2, granule=960 * (n + 2), serial=0xDEADBEEF)
        for n in range(0, len(small), 2)
    ]
    check_tone(await say(echo, [*headers(0xDEADBEEF, 44_100, b"RecorderJS"), *audio]))


async def test_packets_of_120_ms_over_two_pages(echo: Live) -> None:
    made = list(headers())
    for n, packet in enumerate(regrouped(sound(), 120)):
        assert len(packet) > 255
        made.append(page([packet[:255]], 2 * n + 2, lacing=b"\xff"))
        rest = len(packet) - 255
        lacing = b"\xff" * (rest // 255) + bytes([rest % 255])
        made.append(page([packet[255:]], 2 * n + 3, flags=1, lacing=lacing))
    check_tone(await say(echo, made))


async def test_pages_whose_table_says_255_though_the_packet_is_longer(echo: Live) -> None:
    """As the fujielab client sends packets that are longer."""
    long = regrouped(sound(), 80)
    assert sum(len(packet) > 255 for packet in long) > FRAMES // 2
    audio = [
        page([packet], n + 2, lacing=bytes([min(255, len(packet))]))
        for n, packet in enumerate(long)
    ]
    # What follows the last packet tells where it ends.
    answers = await say(echo, [*headers(), *audio, *headers(8)])
    check_tone(answers)


async def test_checksums_granules_and_sequence_numbers_do_not_matter(echo: Live) -> None:
    audio = [
        page([packet], 0, granule=-1, serial=n)[:22] + b"\x12\x34\x56\x78" + page([packet], 0)[26:]
        for n, packet in enumerate(packets(sound()))
    ]
    check_tone(await say(echo, audio))


async def test_a_new_stream_begins_in_the_middle(echo: Live) -> None:
    check_tone(await say(echo, [*stream(sound(FRAMES // 2)), *stream(sound(FRAMES // 2))]))


def other(kind: str) -> tuple[bytes, list[bytes]]:
    """The first page of another stream, and its further ones, one for each of ours."""
    count = len(packets(sound()))
    if kind == "opus":
        first, tags = headers(9)
        loud = [page([p], n + 2, serial=9) for n, p in enumerate(packets(tone(FRAMES, 990)))]
        return first, [tags, *loud]
    head = b"\x01vorbis" + bytes(23) if kind == "vorbis" else b"a codec of next year"
    noise = np.random.default_rng(2).bytes(200)
    first = page([head], 0, flags=2, serial=9)
    return first, [page([noise], n + 1, serial=9) for n in range(count)]


@pytest.mark.parametrize("kind", ["opus", "vorbis", "unknown"])
@pytest.mark.parametrize("ours_first", [True, False])
async def test_of_interleaved_streams_only_the_first_one_of_opus_is_heard(
    echo: Live, kind: str, ours_first: bool
) -> None:
    first, further = other(kind)
    head, tags = headers()
    ours = [page([packet], n + 2) for n, packet in enumerate(packets(sound()))]
    if kind == "opus" and not ours_first:
        # Then the other one is the first: it is heard, and ours is not.
        check_tone(await say(echo, mixed([first, head], further, [tags, *ours])), 990)
        return
    firsts = [head, first] if ours_first else [first, head]
    check_tone(await say(echo, mixed(firsts, [tags, *ours], further)))


def mixed(firsts: list[bytes], ours: list[bytes], others: list[bytes]) -> list[bytes]:
    """First pages, then pages of both in turn."""
    return firsts + [made for pair in zip_longest(ours, others, fillvalue=b"") for made in pair]


async def test_a_file_with_two_streams_is_heard_as_one() -> None:
    data = (DATA / "inputs" / "multiplexed.opus").read_bytes()
    with running() as live:
        async with call(live.url(pace="none")) as chat:
            for at in range(0, len(data), 4000):
                await chat.say(data[at : at + 4000])
            # One second, of which the last frame is not whole.
            await chat.frames(12)
        assert live.metric("kaiwa_opus_bad_packets_total") == 0


async def test_bytes_between_pages_are_skipped(echo: Live) -> None:
    made = [b"rubbish OggX " + payload + b"more Ogg" for payload in stream(sound())]
    check_tone(await say(echo, made))


async def test_empty_and_damaged_packets_cost_no_audio() -> None:
    with running() as live:
        good = packets(sound(4))
        empty = page([b"", b"", b""], 9)
        # 63 frames of 20 ms are no packet, nor are five of 40 ms.
        broken = page([b"\x6b\x3f" + bytes(40), b"\x73\x05" + bytes(10), b"\xff\xff\xff"], 9)
        made = [page([packet], n) for n, packet in enumerate(good)]
        async with call(live.url(pace="none")) as chat:
            await chat.say(empty, made[0], broken, *made[1:], empty)
            await chat.frames(4)
            await eventually(lambda: live.metric("kaiwa_opus_bad_packets_total") >= 3)
            await (await chat.socket.ping())
            assert [m[0] for m in chat.seen].count(AUDIO) == 4
            # Six empty packets would be 30 s of concealment for sphn.
            assert live.metric('kaiwa_frames_total{direction="in",kind="model"}') == 4
