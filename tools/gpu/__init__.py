"""The measuring kit for a machine with a GPU: correctness first, then speed, in one command.

`scripts/gpu/build` makes what it needs on a machine without a GPU; `scripts/gpu/run` runs it.
"""
