"""What an import says when the native part cannot be loaded."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "kaiwa._native":
            raise ImportError({message!r})
sys.meta_path.insert(0, Finder())
import kaiwa
"""


@pytest.mark.parametrize(
    ("message", "last"),
    [
        (
            "libcuda.so.1: cannot open shared object file",
            "ImportError: this build of kaiwa is for NVIDIA GPUs and finds no driver",
        ),
        ("libm.so.6: version not found", "ImportError: libm.so.6: version not found"),
    ],
)
def test_a_missing_driver_is_named_and_nothing_else_is_hidden(message: str, last: str) -> None:
    script = SCRIPT.format(message=message)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(last)
