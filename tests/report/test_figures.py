"""Figures draw every policy once, legibly, and say where the continual setting's periods end."""

from dataclasses import replace

import matplotlib
import pytest
from fabricated import ACTIVITY, cohort, group, rates

from fedsim.report.comparison import comparison_table
from fedsim.report.curves import CENTRAL
from fedsim.report.figures import catch_up, learning_curves, rates_over_activity
from fedsim.report.style import POLICIES, image

NAMES = ("uniform", "activity", "softmax")
GROUPS = [group(name, setting) for setting in ("static", "continual") for name in NAMES]
CENTRAL_GROUP = replace(group("top"), selection=CENTRAL, weighting="")


def labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("axis", ["rounds", "examples", "participations"])
def test_learning_curves_have_a_panel_a_setting_and_a_line_a_policy(axis):
    figure = learning_curves([*GROUPS, CENTRAL_GROUP], axis)
    assert [panel.get_title() for panel in figure.axes] == ["static", "continual"]
    assert labels(figure) == [*NAMES, "central training"]
    for panel in figure.axes:
        drawn = {line.get_label(): line for line in panel.get_lines()}
        last = drawn["uniform"].get_xdata()[-1]
        served = 40 * ACTIVITY[cohort("uniform")].sum()
        ends = {"rounds": 40, "examples": served, "participations": 320}
        assert last == pytest.approx(ends[axis])
        assert len(panel.collections) == len(NAMES)


def test_band_encloses_its_line():
    panel = learning_curves(GROUPS, "rounds").axes[0]
    line, area = panel.get_lines()[0], panel.collections[0].get_paths()[0].get_extents()
    assert area.ymin < line.get_ydata().min()
    assert area.ymax > line.get_ydata().max()


def test_one_seed_is_drawn_without_a_band():
    figure = learning_curves([group("uniform", seeds=1)], "rounds")
    assert not figure.axes[0].collections


def test_catch_up_marks_period_ends_and_static_uniform():
    figure = catch_up(GROUPS)
    left, right = figure.axes
    dotted = [line.get_xdata()[0] for line in left.get_lines() if line.get_linestyle() == ":"]
    assert dotted == [10.5, 20.5, 30.5]
    assert "uniform, static: final" in labels(figure)
    level = GROUPS[0].final("intent_accuracy")
    drawn = {line.get_label(): line for line in left.get_lines()}
    assert drawn["uniform, static: final"].get_ydata()[0] == pytest.approx(100 * level.mean)
    assert len(right.containers) == 4 * len(NAMES)


def test_rates_are_those_of_the_record():
    figure = rates_over_activity(GROUPS[:3])
    drawn = {line.get_label(): line for line in figure.axes[1].get_lines()}
    assert list(drawn) == list(NAMES)
    at = dict(zip(drawn["activity"].get_xdata(), drawn["activity"].get_ydata(), strict=True))
    expected = dict(zip(ACTIVITY, rates("activity"), strict=True))
    assert at == pytest.approx(expected)


def test_rates_leave_out_devices_without_data():
    groups = [group("uniform")]
    run = groups[0].runs[0]
    run.devices["activity"] = run.devices["activity"].copy()
    run.devices["activity"][0, :5] = 0
    figure = rates_over_activity(groups)
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == len(ACTIVITY) - 5
    assert figure.axes[1].get_lines()[0].get_xdata().min() > 0


def test_text_is_at_least_8_points_and_the_page_is_not_exceeded():
    for draw in comparison_table([*GROUPS, CENTRAL_GROUP]).drawings.values():
        figure = draw()
        assert figure.get_figwidth() <= 7
        texts = figure.findobj(matplotlib.text.Text)
        sizes = [text.get_fontsize() for text in texts if text.get_text().strip("0123456789.k")]
        assert min(sizes) >= 8
        assert max(sizes) <= 9


def test_legend_stays_inside_the_page():
    for draw in comparison_table([group(name) for name in POLICIES]).drawings.values():
        figure = draw()
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent().transformed(figure.transFigure.inverted())
        assert box.x0 >= 0 and box.x1 <= 1


def test_drawing_leaves_matplotlibs_settings_alone_and_files_are_the_same_each_time():
    before = dict(matplotlib.rcParams)
    first = image(learning_curves(GROUPS, "rounds"), "svg")
    assert image(learning_curves(GROUPS, "rounds"), "svg") == first
    assert dict(matplotlib.rcParams) == before
