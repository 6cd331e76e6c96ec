"""A call's picture, looked at through the figure: what is drawn is what was given."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from kaiwa import plotting
from kaiwa.errors import InputError

RATE = 8000


def voice(*spoken: tuple[float, float], seconds: float = 4.0) -> np.ndarray:
    pcm = np.zeros(round(seconds * RATE), np.float32)
    for start, end in spoken:
        t = np.arange(round((end - start) * RATE)) / RATE
        pcm[round(start * RATE) :][: len(t)] = 0.5 * np.sin(2 * np.pi * 500 * t)
    return pcm


def panels(figure: Figure) -> list[Any]:
    """Without the scales of colours."""
    return [axes for axes in figure.axes if str(axes.get_label()).startswith("panel")]


def words(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def drawn(**more: Any) -> Figure:
    told: dict[str, Any] = {
        "caller": voice((1.0, 2.0)),
        "model": voice((2.5, 3.5)),
        "caller_codes": np.arange(400).reshape(8, 50) % 64,
        "model_codes": np.zeros((8, 50), int),
        "cardinality": 64,
        "text": [(2.56, " se"), (2.64, "ven"), (3.2, " $5_{of 日")],
        "step_ms": [10.0] * 49 + [95.0],
        "sample_rate": RATE,
        "title": "a $call$",
    }
    return plotting.plot_call(**{**told, **more})


def test_everything_stands_on_one_axis() -> None:
    figure = drawn()
    found = panels(figure)
    assert [axes.get_ylabel() for axes in found] == [
        *("amplitude", "frequency (kHz)", "codebook") * 2,
        *("", "text", "step time (ms)"),
    ]
    assert {axes.get_xlim() for axes in found} == {(0.0, 4.0)}
    assert found[-1].get_xlabel() == "time in the call (s)"
    # Nothing overlaps: each panel is below the one before, within the picture.
    boxes = [axes.get_position() for axes in found]
    assert all(above.y0 > below.y1 for above, below in itertools.pairwise(boxes))
    assert boxes[-1].y0 > 0
    assert boxes[0].y1 < 1
    title, facts = (text.get_text() for text in figure.texts)
    assert title == "a $call$"
    assert "4.0 s" in facts
    assert "caller: 1 turn, 25 % of the time" in facts
    assert "p50 10 ms" in facts


def test_waveform_spectrogram_and_codes_show_their_values() -> None:
    wave, spectrum, codes = panels(drawn())[:3]
    outline = wave.collections[0].get_paths()[0].vertices
    loud = outline[np.abs(outline[:, 1]) > 0.4]
    assert loud[:, 0].min() == pytest.approx(1.0, abs=0.02)
    assert loud[:, 0].max() == pytest.approx(2.0, abs=0.02)
    (image,) = spectrum.images
    left, right, bottom, top = image.get_extent()
    assert (left, right, bottom, top) == pytest.approx((0, 4, 0, 4))
    values = np.asarray(image.get_array())
    row, column = np.unravel_index(values.argmax(), values.shape)
    assert row / (values.shape[0] - 1) * 4 == pytest.approx(0.5, abs=0.05)
    assert 1 <= column / values.shape[1] * 4 <= 2
    (image,) = codes.images
    assert np.array_equal(np.asarray(image.get_array()), np.arange(400).reshape(8, 50) % 64)
    assert tuple(image.get_extent()) == (0, 4, 8.5, 0.5)
    assert image.get_clim() == (0, 63)


def test_turns_text_and_times() -> None:
    turns, text, times = panels(drawn())[-3:]
    caller, model = (bars.get_paths()[0].get_extents() for bars in turns.collections)
    assert (caller.x0, caller.x1) == pytest.approx((1.0, 2.0), abs=0.02)
    assert (model.x0, model.x1) == pytest.approx((2.5, 3.5), abs=0.02)
    assert [tick.get_text() for tick in turns.get_yticklabels()] == ["caller", "model"]
    # What the font does not have is a box, and nothing is taken for a formula.
    assert words(text) == ["seven $5_{of □"]
    assert text.texts[0].xy == (2.56, 0)
    dots = times.collections[1]
    assert np.asarray(dots.get_offsets())[-1] == pytest.approx((49 * 0.08, 95.0))
    colours = dots.get_facecolors()
    assert not np.array_equal(colours[0], colours[-1]), "a late frame has a colour of its own"
    assert "80 ms" in words(times)[-1]


def test_a_long_call_is_thinned_out() -> None:
    count = 45_000
    figure = drawn(
        caller=None,
        model=None,
        caller_codes=None,
        model_codes=np.zeros((8, count), int),
        text=[(float(t), f" word{t}") for t in range(3500)],
        step_ms=[10.0] * (count - 1) + [95.0],
    )
    codes, text, times = panels(figure)
    assert np.asarray(codes.images[0].get_array()).shape == (8, -(-count // 22))
    assert "one of 22 frames" in words(codes)[0]
    assert words(text)[-1].startswith("3500 phrases, too many")
    assert len(times.lines[0].get_xdata()) <= 1200
    late = np.asarray(times.collections[1].get_offsets())
    assert late[:, 1].tolist() == [95.0], "the one late frame is seen"
    marks = [tick.get_text() for tick in times.get_xticklabels()]
    assert "30:00" in marks


def test_a_side_alone_and_a_sample_alone() -> None:
    figure = plotting.plot_call(model=np.array([0.5]), sample_rate=RATE)
    assert [axes.get_ylabel() for axes in panels(figure)] == ["amplitude", "frequency (kHz)", ""]
    assert "0.12 ms" in figure.texts[1].get_text()


def test_silence_is_paper() -> None:
    figure = plotting.plot_call(caller=np.zeros(RATE), sample_rate=RATE)
    wave, spectrum, _ = panels(figure)
    assert wave.get_ylim() == (-1.0, 1.0)
    (image,) = spectrum.images
    assert np.asarray(image.get_array()).max() < image.get_clim()[0]


def test_a_notebook_shows_it() -> None:
    picture: Any = drawn()
    png = picture._repr_png_()
    assert png.startswith(b"\x89PNG")
    assert png == picture._repr_png_()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"caller": None, "model": None, "caller_codes": None, "model_codes": None}, "one or two"),
        ({"model_codes": np.zeros((8, 0), int)}, "codes have shape"),
        ({"text": [(20.0, "late")]}, "of the same call"),
        ({"step_ms": [1.0] * 500}, "of the same call"),
        ({"caller": np.full(9, np.inf)}, "not finite"),
    ],
)
def test_what_cannot_be_drawn(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        drawn(**changed)
