"""The audio of an uploaded file, decoded block by block on a thread."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import UploadFile

from kaiwa.audio_files import AudioReader
from kaiwa.errors import AudioFileError
from kaiwa.resampler import Resampler
from kaiwa.server.refusal import Refused

#: Samples a second inside of Kaiwa, and samples that are handed over at once: eight frames.
RATE, BLOCK = 24_000, 8 * 1920


class Sound:
    """A file that is open.

    Attributes:
        seconds: of it that were read.
    """

    def __init__(self, reader: AudioReader, path: Path) -> None:
        self._reader = reader
        self._path = path
        self._blocks: Iterator[NDArray[np.float32]] | None = None
        self.seconds = 0.0

    @classmethod
    async def open(cls, file: UploadFile, folder: Path) -> Sound:
        """Copies an upload to a folder and looks at it.

        Raises:
            Refused: 400, it is no audio.
        """
        path = folder / "upload"

        def opened() -> AudioReader:
            _copy(file.file, path)
            return AudioReader(path, lambda _: None)

        try:
            return cls(await asyncio.to_thread(opened), path)
        except AudioFileError as error:
            raise _no_audio(error, path) from None

    async def blocks(self, prefix: float) -> AsyncIterator[bytes]:
        """The samples as float32 at 24 kHz, behind so many seconds of silence.

        Raises:
            Refused: 400, the file is damaged or has no samples.
        """
        if prefix:
            yield np.zeros(int(prefix * RATE), np.float32).tobytes()
        blocks = self._resampled()
        try:
            while True:
                block = await asyncio.to_thread(next, blocks, None)
                if block is None:
                    break
                self.seconds += len(block) / RATE
                for start in range(0, len(block), BLOCK):
                    yield block[start : start + BLOCK].tobytes()
        except AudioFileError as error:
            raise _no_audio(error, self._path) from None
        if self.seconds == 0:
            raise Refused(400, "bad_audio", "the file holds no audio; send one with samples")

    def _resampled(self) -> Iterator[NDArray[np.float32]]:
        rate = self._reader.sample_rate
        resampler = None if rate == RATE else Resampler(rate, RATE)
        for block in self._reader.blocks():
            yield block if resampler is None else resampler.process(block)
        if resampler is not None:
            yield resampler.finish()

    async def close(self) -> None:
        """Closes the file."""
        await asyncio.to_thread(self._reader.close)


def _copy(source: BinaryIO, path: Path) -> None:
    source.seek(0)
    with path.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)


def _no_audio(error: AudioFileError, path: Path) -> Refused:
    """The refusal of a file, without the place where it lies here."""
    said = str(error).replace(str(path), "the file")
    return Refused(400, "bad_audio", said)
