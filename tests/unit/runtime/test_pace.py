"""The time that is left follows the recent pace."""

from posttrain.runtime.pace import Pace


def test_the_first_step_tells_no_time():
    assert Pace().left(1, 10, now=5.0) is None


def test_ten_steps_of_a_slow_beginning_are_forgotten():
    """A machine that was busy for the first 20 steps (10 s each) and is free since (1 s each)."""
    pace, now, left = Pace(), 0.0, None
    for step in range(1, 101):
        now += 10 if step <= 20 else 1
        left = pace.left(step, 200, now)
    assert left == 100  # the mean would say 280


def test_at_least_ten_steps_count_where_each_takes_long():
    pace = Pace()
    for step in range(1, 31):
        left = pace.left(step, 40, now=60.0 * step + (30 if step % 2 else 0))  # by turns 30 s and 90 s
    assert left == 600


def test_another_count_begins_anew():
    pace = Pace()
    pace.left(1, 4, now=0.0)
    assert pace.left(2, 4, now=1.0) == 2
    assert pace.left(1, 4, now=2.0) is None
    assert pace.left(3, 9, now=3.0) is None
