"""The parts of the page that need no call, run in the browser they are for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sphn
from playwright.sync_api import Page
from tests.web.conftest import Serve
from tests.web.fake_server import Script
from tests.web.ogg_check import OggCheck


@pytest.fixture
def blank(page: Page, serve: Serve) -> Page:
    page.goto(serve(Script()).url + "/")
    return page


def test_written_pages_are_valid(blank: Page) -> None:
    """Also where a packet's length is a multiple of 255, and beyond 255 lacing bytes' worth."""
    sizes = [1, 100, 254, 255, 256, 509, 510, 511, 4000]
    pages: list[list[int]] = blank.evaluate(
        """async (sizes) => {
            const { OggWriter } = await import("/static/js/ogg.js");
            const ogg = new OggWriter(77);
            const out = [ogg.headers({ preSkip: 312 })];
            for (const size of sizes) out.push(ogg.packet(new Uint8Array(size).fill(9), 1920));
            return out.map((page) => [...page]);
        }""",
        sizes,
    )
    check = OggCheck()
    for message in pages:
        check.message(bytes(message))
    assert check.faults == []
    assert (check.packets, check.serial, check.pre_skip) == (len(sizes), 77, 312)


READ = """async ([bytes, cuts]) => {
    const { OggReader } = await import("/static/js/ogg.js");
    const reader = new OggReader();
    const data = Uint8Array.from(bytes);
    const found = [];
    let at = 0;
    for (const cut of [...cuts, data.length]) {
        found.push(...reader.push(data.slice(at, cut)));
        at = cut;
    }
    return {
        heads: found.filter((f) => f.head).length,
        packets: found.filter((f) => f.packet).map((f) => [...f.packet]),
        damaged: reader.damaged,
    };
}"""


def stream(pages: int) -> bytes:
    """What the reference encoder makes of noise."""
    rng = np.random.default_rng(5)
    writer = sphn.OpusStreamWriter(24_000)
    samples = rng.standard_normal(960 * pages).astype(np.float32) * 0.1
    return bytes(writer.append_pcm(samples))


def packets(data: bytes) -> list[list[int]]:
    found = []
    for page in data.split(b"OggS")[1:]:
        body = page[23 + page[22] :]
        if not body.startswith((b"OpusHead", b"OpusTags")):
            found.append(list(body))
    return found


def test_pages_in_any_pieces_are_read(blank: Page) -> None:
    data = stream(12)
    wanted = packets(data)
    assert len(wanted) == 12
    for cuts in ([], [1, 2, 3, 30, 60], list(range(7, len(data), 7))):
        read: dict[str, Any] = blank.evaluate(READ, [list(data), cuts])
        assert read == {"heads": 1, "packets": wanted, "damaged": 0}


def test_damage_costs_only_the_page_it_hits(blank: Page) -> None:
    data = bytearray(stream(6))
    wanted = packets(bytes(data))
    third = [i for i in range(len(data)) if data[i : i + 4] == b"OggS"][4]
    data[third + 40] ^= 1
    read = blank.evaluate(READ, [list(b"noise" + bytes(data)), []])
    assert read["packets"] == wanted[:2] + wanted[3:]
    assert read["damaged"] == 1


def test_packets_over_several_pages_are_joined(blank: Page) -> None:
    """Several packets in a page, one that goes on in the next, and an empty one."""
    read = blank.evaluate(
        """async () => {
            const { OggReader, concat } = await import("/static/js/ogg.js");
            // Pages by hand, with the checksum computed as RFC 3533 says.
            const table = [...Array(256)].map((_, i) => {
                let r = i << 24;
                for (let k = 0; k < 8; k++) r = r & 0x80000000 ? (r << 1) ^ 0x04c11db7 : r << 1;
                return r >>> 0;
            });
            const make = (flags, laces, body) => {
                const page = Uint8Array.from([79, 103, 103, 83, 0, flags, ...Array(20).fill(0),
                    laces.length, ...laces, ...body]);
                let sum = 0;
                for (const byte of page) sum = ((sum << 8) ^ table[(sum >>> 24) ^ byte]) >>> 0;
                new DataView(page.buffer).setUint32(22, sum, true);
                return page;
            };
            const data = concat([
                make(0, [3, 0, 255], [1, 2, 3, ...Array(255).fill(4)]),
                make(1, [2, 1], [5, 6, 7]),
                make(1, [1], [8]), // goes on with what never began
            ]);
            return new OggReader().push(data).map(({ packet }) => [...packet]);
        }"""
    )
    assert read == [[1, 2, 3], [4] * 255 + [5, 6], [7]]


RESAMPLE = """async ([from, to, samples, block]) => {
    const { Resampler } = await import("/static/js/resampler.js");
    const resampler = new Resampler(from, to);
    const out = [];
    for (let at = 0; at < samples.length; at += block) {
        out.push(...resampler.process(Float32Array.from(samples.slice(at, at + block))));
    }
    return out;
}"""


@pytest.mark.parametrize(
    ("source", "target"),
    [(48_000, 24_000), (44_100, 24_000), (24_000, 48_000), (24_000, 44_100), (16_000, 24_000)],
)
def test_resampling_keeps_a_tone_and_adds_none(blank: Page, source: int, target: int) -> None:
    seconds, frequency = 0.5, 3000
    t = np.arange(int(seconds * source)) / source
    tone = np.sin(2 * np.pi * frequency * t)
    heard = np.array(blank.evaluate(RESAMPLE, [source, target, tone.tolist(), 128]))
    assert abs(len(heard) - seconds * target) <= 1
    middle = heard[target // 10 : target // 10 + target // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)))) ** 2
    peak = int(np.argmax(spectrum))
    assert peak * target / len(middle) == pytest.approx(frequency, abs=5)
    near = slice(peak - 4, peak + 5)
    rest = spectrum.sum() - spectrum[near].sum()
    assert rest < 1e-6 * spectrum.sum()
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(1, abs=0.005)


def test_what_the_model_cannot_hear_is_not_folded_down(blank: Page) -> None:
    t = np.arange(24_000) / 48_000
    heard = np.array(
        blank.evaluate(RESAMPLE, [48_000, 24_000, np.sin(2 * np.pi * 14_500 * t).tolist(), 128])
    )
    assert np.sqrt(np.mean(heard[500:-500] ** 2)) < 1e-3


def test_new_words_do_not_pull_back_a_reader_who_has_just_scrolled(blank: Page) -> None:
    """All in one turn of the browser: its own event comes later than the words."""
    at, button, end = blank.evaluate(
        """async () => {
            const { Captions } = await import("/static/js/captions.js");
            const [log, spoken, latest] = ["log", "spoken", "latest"].map((id) => {
                const old = document.getElementById(id);
                const made = old.cloneNode(true);
                old.replaceWith(made);
                return made;
            });
            log.style.maxHeight = log.style.height = "100px";
            log.style.overflowY = "auto";
            const captions = new Captions({ log, spoken, latest });
            const words = (count) => {
                for (let n = 0; n < count; n++) captions.add(" " + "word".repeat(20), 1);
            };
            words(50);
            log.scrollTop = 0;
            words(1);
            const at = [log.scrollTop, !latest.hidden];
            latest.click();
            words(1);
            return [...at, log.scrollHeight - log.scrollTop - log.clientHeight];
        }"""
    )
    assert (at, button) == (0, True)
    assert end < 2
