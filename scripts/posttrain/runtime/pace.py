"""How long something takes that is done in steps."""

from collections import deque

WINDOW_SECONDS = 30
WINDOW_STEPS = 10  # at least, where a step takes longer


class Pace:
    """The time that is left by the recent pace: that of the last half minute, or the last ten steps if they took longer."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque()
        self._total = 0

    def left(self, done: int, total: int, now: float) -> float | None:
        """Note that `done` of `total` steps are done.

        Args:
            now: seconds of a clock that never goes back.

        Returns:
            Seconds that are left; None at first, as no step has been timed.
        """
        points = self._points
        if points and (done <= points[-1][1] or total != self._total):  # something else has begun
            points.clear()
        self._total = total
        points.append((now, done))
        while len(points) > WINDOW_STEPS + 1 and now - points[1][0] >= WINDOW_SECONDS:
            points.popleft()
        began, first = points[0]
        return (now - began) / (done - first) * (total - done) if done > first else None
