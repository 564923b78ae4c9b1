"""A bounded queue that is fair among those who wait: in order within a key, keys take turns. Pure."""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items by key. What is pushed to the front (retries) goes before all keys, in its own order."""

    def __init__(self) -> None:
        self._front: deque[tuple[str | None, T]] = deque()
        self._lines: dict[str | None, deque[T]] = {}  # whose turn is next stands first
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[T]:
        """Every item; each key's own in order."""
        for _, item in self._front:
            yield item
        for line in self._lines.values():
            yield from line

    def push(self, key: str | None, item: T) -> None:
        """`item` waits behind its key's others."""
        self._lines.setdefault(key, deque()).append(item)
        self._size += 1

    def push_front(self, key: str | None, item: T) -> None:
        """`item` had its turn once already and goes before every key."""
        self._front.append((key, item))
        self._size += 1

    def pop(self) -> T:
        """The next item; its key goes to the end of the round. IndexError when nothing waits."""
        if self._front:
            self._size -= 1
            return self._front.popleft()[1]
        if not self._lines:
            raise IndexError("nothing waits")
        key, line = next(iter(self._lines.items()))
        item = line.popleft()
        del self._lines[key]
        if line:
            self._lines[key] = line
        self._size -= 1
        return item

    def discard(self, key: str | None, item: T) -> None:
        """`item` of `key` does not wait any more, if it did."""
        line = self._lines.get(key)
        if line is not None and item in line:
            line.remove(item)
            if not line:
                del self._lines[key]
        elif (key, item) in self._front:
            self._front.remove((key, item))
        else:
            return
        self._size -= 1

    def make_room(self, key: str | None) -> T | None:
        """Take out the newest item of the longest line, so that one of `key` finds room in a full queue: only where
        `key` still has fewer than that line after it. None: it has its share.
        """
        longest = max(self._lines, key=lambda one: len(self._lines[one]), default=None)
        if longest not in self._lines or len(self._lines[longest]) <= len(self._lines.get(key, ())) + 1:
            return None
        item = self._lines[longest].pop()
        self._size -= 1
        return item
