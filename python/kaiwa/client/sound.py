"""The microphone and the loudspeaker of this machine, through the sounddevice package."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kaiwa import Resampler
from kaiwa.client.jitter import JitterBuffer
from kaiwa.client.messages import SAMPLE_RATE
from kaiwa.errors import DeviceError

Array = NDArray[np.float32]

#: Seconds of audio that the sound card gives or takes at once.
BLOCK = 0.02
#: Seconds without a word of a device after which it counts as gone. One that is pulled out says
#: nothing; a busy machine may be late.
GONE = 1.5


def sounddevice() -> Any:
    """The package, imported late: it loads the PortAudio library.

    Raises:
        DeviceError: the package or the library is missing.
    """
    try:
        import sounddevice
    except ImportError:
        raise DeviceError(
            "microphone and loudspeaker need the sounddevice package; install it with: "
            "pip install 'kaiwa[chat]'"
        ) from None
    except OSError as error:
        raise DeviceError(
            f"the PortAudio library is missing ({error}); install it: apt install libportaudio2, "
            "or dnf install portaudio, or brew install portaudio"
        ) from None
    return sounddevice


def device(text: str | None) -> int | str | None:
    """A device as it is typed: a number, part of a name, or None for the system's own."""
    return int(text) if text is not None and text.isdigit() else text


class SoundCard:
    """Both directions at once; a context manager, within which it runs.

    Args:
        on_input: given the microphone's samples at 24 kHz, in a thread of the sound card.
        microphone, loudspeaker: devices, see :func:`device`.

    Attributes:
        speaker: the buffer that the loudspeaker plays.

    Raises:
        DeviceError: there is no such device, or no usable rate.
    """

    def __init__(
        self,
        on_input: Callable[[Array], object],
        microphone: int | str | None = None,
        loudspeaker: int | str | None = None,
    ) -> None:
        self._sd = sounddevice()
        self._on_input = on_input
        self._streams: list[Any] = []
        #: When each direction was last asked for audio, or gave some.
        self._seen = [0.0, 0.0]
        self._choose(microphone, loudspeaker)

    def _choose(self, microphone: int | str | None, loudspeaker: int | str | None) -> None:
        """Takes these devices from now on.

        Raises:
            DeviceError: one does not exist, or has no usable rate.
        """
        rate_in = self._rate("input", microphone)
        rate_out = self._rate("output", loudspeaker)
        self._devices = (microphone, loudspeaker)
        self._rates = (rate_in, rate_out)
        self._from = None if rate_in == SAMPLE_RATE else Resampler(rate_in, SAMPLE_RATE)
        self._to = None if rate_out == SAMPLE_RATE else Resampler(SAMPLE_RATE, rate_out)
        self.speaker = JitterBuffer(rate_out)

    def _rate(self, kind: str, chosen: int | str | None) -> int:
        """24 kHz where the device can, else its own rate."""
        check = getattr(self._sd, f"check_{kind}_settings")
        word = {"input": "microphone", "output": "loudspeaker"}[kind]
        try:
            info = self._sd.query_devices(chosen, kind)
            rate = round(float(info["default_samplerate"]))
        except (self._sd.PortAudioError, ValueError, KeyError) as error:
            named = "" if chosen is None else f" {chosen!r}"
            raise DeviceError(
                f"no {word}{named} ({error}); plug one in, or choose one with "
                f"--{word} (kaiwa chat --devices lists them)"
            ) from None
        for candidate in (SAMPLE_RATE, rate):
            try:
                check(device=chosen, channels=1, dtype="float32", samplerate=candidate)
            except (self._sd.PortAudioError, ValueError) as error:
                problem = error
            else:
                return candidate
        raise DeviceError(f"the {word} takes no mono audio ({problem}); choose another device")

    def play(self, pcm: Array) -> None:
        """Adds samples at 24 kHz to what is played."""
        self.speaker.write(pcm if self._to is None else self._to.process(pcm))

    def _input(self, block: Any, frames: int, when: Any, status: Any) -> None:
        """Called by the sound card."""
        self._seen[0] = time.monotonic()
        pcm = np.nan_to_num(block[:, 0], posinf=1.0, neginf=-1.0)
        self._on_input(pcm if self._from is None else self._from.process(pcm))

    def _output(self, block: Any, frames: int, when: Any, status: Any) -> None:
        """Called by the sound card."""
        self._seen[1] = time.monotonic()
        block[:, 0] = self.speaker.read(frames)

    @property
    def gone(self) -> bool:
        """Whether a device has fallen silent: it was pulled out, or the system took it away."""
        return bool(self._streams) and time.monotonic() - min(self._seen) > GONE

    def reopen(self) -> None:
        """Goes on with the devices that there are now: the same ones if they are back, else the
        system's own.

        Raises:
            DeviceError: there are none; this may be tried again.
        """
        self.close()
        # The library looks for devices when it begins.
        for step in ("_terminate", "_initialize"):
            again = getattr(self._sd, step, None)
            if again is not None:
                with contextlib.suppress(self._sd.PortAudioError):
                    again()
        former = self.speaker
        try:
            self._choose(*self._devices)
        except DeviceError:
            self._choose(None, None)
        self.speaker.underruns += former.underruns
        self.speaker.dropped += former.dropped
        self._open()

    def __enter__(self) -> SoundCard:
        self._open()
        return self

    def _open(self) -> None:
        """Starts both directions."""
        kinds = (self._sd.InputStream, self._sd.OutputStream)
        callbacks = (self._input, self._output)
        try:
            for kind, chosen, rate, callback in zip(
                kinds, self._devices, self._rates, callbacks, strict=True
            ):
                stream = kind(
                    samplerate=rate,
                    blocksize=round(rate * BLOCK),
                    device=chosen,
                    channels=1,
                    dtype="float32",
                    latency="low",
                    callback=callback,
                )
                self._streams.append(stream)
                stream.start()
            self._seen = [time.monotonic()] * 2
        except self._sd.PortAudioError as error:
            self.close()
            raise DeviceError(
                f"the sound card cannot be opened ({error}); close other programs that use it"
            ) from None

    def close(self) -> None:
        """Stops both directions."""
        while self._streams:
            # A device that was pulled out cannot be closed in order.
            with contextlib.suppress(self._sd.PortAudioError):
                self._streams.pop().close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
