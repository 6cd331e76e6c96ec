"""What several servers behind one balancer share (docs/replicas.md).

Tokens need nothing but a common secret. Redis keeps the rest, and only as long as it is true:
which tokens were used, how many conversations and connections a key has, and which server has
the call of a resume token. Nothing here is on the path of audio.
"""
