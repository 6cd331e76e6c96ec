"""The file of keys, in memory: what it says is simulated, how it is read is not."""

from __future__ import annotations

from kaiwa.server import key_entry
from kaiwa.server.key_entry import Key
from kaiwa.server.keys import KeyFile
from tools.simulation.plan import KeyPlan


class SimulatedKeys(KeyFile):
    """Keys that all servers see alike.

    Attributes:
        secrets: id and text of each key that counts.
        plans: what each allows.
    """

    def __init__(self, plans: tuple[KeyPlan, ...]) -> None:
        self.plans: dict[str, KeyPlan] = {}
        self.secrets: list[tuple[str, str]] = []
        self._entries: dict[str, Key] = {}
        for plan in plans:
            self.add(plan)

    def add(self, plan: KeyPlan) -> None:
        """A new key."""
        number = len(self._entries) + 1
        secret = f"kw_simulated_{number}"
        key = Key(
            id=f"{number:08x}",
            name=f"caller-{number}",
            hash=key_entry.hash_of(secret),
            created=key_entry.moment(0),
            concurrency=plan.concurrency,
            per_minute=plan.per_minute,
            max_seconds=plan.max_seconds,
        )
        self.plans[key.id] = plan
        self.secrets.append((key.id, secret))
        self._entries[key.id] = key

    def revoke(self, at: int) -> None:
        """One of those that count does no more; another takes its place."""
        key_id, _ = self.secrets.pop(at)
        old = self._entries[key_id]
        self._entries[key_id] = Key(**{**old.__dict__, "revoked": key_entry.moment(0)})
        self.add(self.plans[key_id])

    def entries(self) -> tuple[Key, ...]:
        return tuple(self._entries.values())

    def verify(self, secret: str) -> Key | None:
        digest = key_entry.hash_of(secret)
        return next((key for key in self._entries.values() if key.hash == digest), None)

    def get(self, key_id: str) -> Key | None:
        return self._entries.get(key_id)

    @property
    def changed(self) -> bool:
        return False

    def refresh(self) -> bool:
        return False
