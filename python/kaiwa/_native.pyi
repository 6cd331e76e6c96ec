"""The compiled half of the package. Use `kaiwa.Mimi` and `kaiwa.MimiStream`; these classes check
values but expect exact array types and numbers of axes."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import TypedDict, final, type_check_only

import numpy as np
from numpy.typing import NDArray

# Names for this file only: the module itself has the classes and functions.
_Progress = Callable[[int, int], object]

__all__ = [
    "Mimi",
    "MimiStream",
    "Resampler",
    "build_info",
    "cpu_info",
    "read_bandwidth",
    "safetensors_summary",
]

@type_check_only
class CpuInfo(TypedDict):
    selected: str
    available: list[str]
    threads: int

@type_check_only
class BuildInfo(TypedDict):
    version: str
    features: list[str]
    target: str

@final
class Mimi:
    @staticmethod
    def load(
        path: str | PathLike[str],
        config_json: str | None,
        num_codebooks: int,
        device: str,
        dtype: str,
    ) -> Mimi: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def frame_rate(self) -> float: ...
    @property
    def frame_size(self) -> int: ...
    @property
    def num_codebooks(self) -> int: ...
    @property
    def max_codebooks(self) -> int: ...
    @property
    def cardinality(self) -> int: ...
    @property
    def dimension(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    def encode(
        self, pcm: NDArray[np.float32], progress: _Progress | None = None
    ) -> NDArray[np.int32]: ...
    def encode_to_latent(
        self, pcm: NDArray[np.float32], progress: _Progress | None = None
    ) -> NDArray[np.float32]: ...
    def decode(
        self, codes: NDArray[np.int64], progress: _Progress | None = None
    ) -> NDArray[np.float32]: ...
    def stream(self, slots: int, window: str) -> MimiStream: ...

@final
class MimiStream:
    @property
    def slots(self) -> int: ...
    @property
    def state_bytes(self) -> int: ...
    def encode(
        self, pcm: NDArray[np.float32], active: Sequence[bool] | None = None
    ) -> NDArray[np.int32]: ...
    def decode(
        self, codes: NDArray[np.int64], active: Sequence[bool] | None = None
    ) -> NDArray[np.float32]: ...
    def reset(self, slots: Sequence[int] | None = None) -> None: ...

@final
class Resampler:
    def __new__(cls, from_rate: int, to_rate: int) -> Resampler: ...
    def process(self, pcm: NDArray[np.float32]) -> NDArray[np.float32]: ...
    def finish(self) -> NDArray[np.float32]: ...

def safetensors_summary(path: str | PathLike[str]) -> str: ...
def cpu_info() -> CpuInfo: ...
def build_info() -> BuildInfo: ...
def read_bandwidth(bytes: int, seconds: float) -> float: ...  # noqa: A002
