"""A share of the loop's time: what never ends, such as a flood of lines, may take no more of it. Pure."""

SHARE = 0.2
TURN = 0.002
"""Seconds of work at a time, after which the loop sees to its other work."""


class Share:
    """Counts the time that several sources take together, and has each wait as long as that is too much. Times are
    passed in, in seconds of one clock.
    """

    def __init__(self, share: float = SHARE) -> None:
        self._share = share
        self._paid_at = 0.0
        """When what was taken so far is no more than the share."""

    def spend(self, seconds: float, now: float) -> float:
        """So much was taken until `now`: how long to wait before more is. A turn now and then waits for nothing."""
        self._paid_at = max(self._paid_at, now) + seconds / self._share
        return max(self._paid_at - now - TURN / self._share, 0.0)
