"""Curves: what shares a panel, thinning that loses no spike, and where overfitting began."""

import pytest
from made_up_results import lines

from posttrain.reports import curves, figures
from posttrain.reports.curves import Series


def titles(found: list[dict]) -> dict[str, list[str]]:
    return {panel.title: [series.label for series in panel.series] for panel in curves.panels(found)}


def test_training_and_validation_share_a_panel_and_so_do_chosen_and_rejected_the_loss_first():
    found = titles(lines("dpo", 12))
    assert list(found)[:3] == ["loss", "learning rate", "gradient norm"]
    assert found["loss"] == ["training", "validation"]
    assert found["rewards"] == ["chosen", "rejected"]
    assert found["utilisation"] == ["CPU", "GPU"]
    assert found["memory"] == ["memory"]
    assert not {"step", "seconds", "num tokens"} & set(found)


def test_what_the_machine_did_is_drawn_against_minutes_where_the_seconds_are_known():
    found = lines("sft", 12)
    memory = next(panel for panel in curves.panels(found) if panel.title == "memory")
    assert (memory.across, memory.series[0].x[-1]) == ("minutes", 0.4)
    for line in found:
        del line["seconds"]
    memory = next(panel for panel in curves.panels(found) if panel.title == "memory")
    assert (memory.across, memory.series[0].x[-1]) == ("step", 12)


def test_only_finite_numbers_are_points_and_a_key_without_any_has_no_panel():
    found = lines("ppo", 12)
    kl = next(panel for panel in curves.panels(found) if panel.title == "kl").series[0]
    assert kl.x == list(range(2, 13))  # the first is not a number
    for line in found:
        line["gpu_percent"] = None
    assert titles(found)["utilisation"] == ["CPU"]


def test_a_thinned_curve_keeps_every_spike_and_its_order():
    y = [0.0] * 10_001
    y[3333], y[7777] = 99.0, -99.0
    found = curves.thin(Series("", list(range(10_001)), y), 100)
    assert len(found.x) <= 100
    assert found.x == sorted(found.x)
    assert dict(zip(found.x, found.y, strict=True)).items() >= {3333: 99.0, 7777: -99.0}.items()


def test_a_short_curve_is_as_it_was():
    series = Series("", [1, 2, 3], [3.0, 2.0, 1.0])
    assert curves.thin(series, 3) is series


def validated(*losses: float) -> list[dict]:
    return [{"step": 10 * i, "loss": 1.0, "eval_loss": loss} for i, loss in enumerate(losses, 1)]


@pytest.mark.parametrize(
    ("losses", "step", "turned", "said"),
    [
        ((3.0, 2.0, 2.5), 20, True, "Overfits from step 20 on: validation loss was lowest there (2) and rose to 2.5 by step 30, 25%"),
        ((3.0, 2.0, 2.01), 20, False, "No overfitting seen: validation loss was lowest at step 20 (2) and ended within 1%"),
        ((3.0, 2.0, 1.0), 30, False, "No overfitting seen: validation loss was lowest at its last measurement, at step 30"),
        ((2.0,), 10, False, "Validation loss was measured once, at step 10 (2)"),
        ((-1.0, -3.0, -2.0), 20, True, "Overfits from step 20 on"),  # a loss may be below zero
    ],
)  # fmt: skip
def test_overfitting_is_a_validation_loss_that_ended_more_than_one_percent_above_its_lowest(losses, step, turned, said):
    found = validated(*losses)
    assert (curves.lowest(found)["step"], curves.lowest(found)["turned"]) == (step, turned)
    assert curves.in_words(found).startswith(said)
    assert curves.panels(found)[0].mark == step


def test_without_validation_nothing_is_claimed():
    found = [{"step": 1, "loss": 1.0}]
    assert curves.lowest(found) is None
    assert curves.panels(found)[0].mark is None
    assert "cannot be seen" in curves.in_words(found)


def test_the_same_curves_are_the_same_file(in_folder):
    for name in ("a.png", "b.png"):
        figure, axis = figures.pyplot().subplots()
        curves.draw(axis, curves.panels(lines("sft", 12))[0])
        figures.write(figure, in_folder / name)
    assert (in_folder / "a.png").read_bytes() == (in_folder / "b.png").read_bytes()


def test_shares_are_in_percent():
    (panel,) = curves.panels([{"step": 1, "rewards/accuracies": 0.25}, {"step": 2, "rewards/accuracies": 1.0}])
    assert (panel.unit, panel.series[0].y) == ("%", [25, 100])
