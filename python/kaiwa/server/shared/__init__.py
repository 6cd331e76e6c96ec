"""What several servers behind one balancer share (docs/replicas.md).

Tokens need nothing but a common secret (`signing`, `signed_tokens`). The rest is in Redis
(`state`): which tokens were used, how many conversations and connections each key has, and which
server has the call of a resume token. Every entry has an end, so that a server that dies leaves
nothing behind. Audio never waits for any of this.
"""
