"""A discrete-event simulation of many servers under many calls (docs/scale.md).

Run `python -m tools.scale --help`. What a step takes comes from `kaiwa.plan`, which holds the
measured times; everything else is what docs/server.md and docs/replicas.md say the servers do.
"""
