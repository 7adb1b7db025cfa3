"""Curves: chance is not taken for a trend, a trend is not taken for chance."""

import numpy as np
import pytest

from posttrain.diagnosis import trends

from .made import noise


@pytest.mark.parametrize("n", [12, 60, 300])
def test_noise_has_no_trend(n):
    found = [trends.shift(noise(n, 1, seed).tolist()) for seed in range(300)]
    assert sum(one.rises(0.01) or one.falls(0.01) for one in found) <= 9  # 3 are expected


def test_noise_whose_neighbours_are_alike_has_hardly_more():
    alarms = 0
    for seed in range(300):
        values = [0.0]
        for value in noise(150, 1, seed):
            values.append(0.6 * values[-1] + value)
        moved = trends.shift(values)
        alarms += moved.rises() or moved.falls()
    assert alarms <= 6


def test_a_fall_of_two_standard_deviations_is_seen():
    values = noise(45, 1) - np.linspace(0, 4, 45)
    assert trends.shift(values.tolist()).falls()
    assert not trends.shift(values.tolist()).rises()


def test_few_steps_tell_nothing():
    assert trends.shift([1.0] * 11) is None
    assert trends.shift([1.0] * 12).change == 0


def test_a_steady_curve_is_exact():
    moved = trends.shift([float(i) for i in range(30)])
    assert moved.first == 4.5 and moved.last == 24.5 and moved.rises(1e-9)


def test_roughness_is_the_noise_and_not_the_curve():
    x = np.linspace(0, 1, 400)
    assert trends.roughness((x**2).tolist()) < 1e-4
    assert trends.roughness((x**2 + noise(400, 0.1)).tolist()) == pytest.approx(0.1, rel=0.2)


def test_jumps_are_those_beside_their_neighbours():
    values = [1.0] * 30
    values[7] = 9.0
    assert trends.jumps(values, 5) == [7]
    assert trends.jumps(np.geomspace(1, 1000, 60).tolist(), 5) == []  # one that grows does not jump


def test_smooth_is_the_mean_of_neighbours():
    assert trends.smooth([1, 2, 3, 6], 2).tolist() == [1.5, 2.5, 4.5]


def test_pictures():
    assert trends.sparkline([1, 2, 3, 4]) == "▁▃▆█"
    assert trends.sparkline([5.0, 5.0]) == "▁▁"
    assert len(trends.sparkline([float(i) for i in range(1000)])) == trends.WIDTH
    assert trends.picture("loss", [2.0, 1.0]) == "loss 2 █▁ 1"
    assert trends.bar("cut", 0.5, 4) == "cut ██── 50%"
