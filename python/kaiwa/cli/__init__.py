"""The command line `kaiwa`; each command is a module of its own."""

from kaiwa.cli.main import main

__all__ = ["main"]
