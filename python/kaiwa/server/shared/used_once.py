"""What may be used once, by its name: remembered until it would be too old anyway."""

from __future__ import annotations

from collections import OrderedDict


class TooManyUsed(Exception):  # noqa: N818
    """More were used within their life than are remembered."""


class UsedOnce:
    """Names that were used. Not for several threads at once."""

    def __init__(self, most: int = 200_000) -> None:
        """Nothing was used yet.

        Args:
            most: names that are remembered; beyond, none can be used until some are too old.
        """
        self._most = most
        self._until: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def use(self, name: str, until: float, now: float) -> bool:
        """Whether a name is used for the first time; from now on it counts as used.

        Args:
            name: what is used.
            until: when it will be too old by itself, and need not be remembered any more. Should be
                about equally far in the future for all names: they are forgotten in the order in
                which they were used.
            now: the present, on the same clock.

        Raises:
            TooManyUsed: there is no room to remember it.
        """
        while self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)
        if name in self._until:
            return False
        if len(self._until) >= self._most:
            raise TooManyUsed
        self._until[name] = until
        return True
