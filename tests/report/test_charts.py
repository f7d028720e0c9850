"""Charts are numbers that are drawn once, legibly, and written as they are drawn."""

import csv
import io

import matplotlib
import numpy as np
import pytest

from fedsim.report.chart_drawing import drawn
from fedsim.report.charts import Chart, Level, Series
from fedsim.report.style import POLICIES, image


def chart(kind="line", labels=("first", "second"), **settings):
    x = np.array([1.0, 2.0, 3.0, 4.0])
    series = [
        Series(label=label, x=x, y=x * (k + 1) / 4, low=x * 0, high=x * 0 + 3)
        for k, label in enumerate(labels)
    ]
    return Chart(
        name="c", title="C", text="", x="round", y="%", series=series, kind=kind, **settings
    )


def test_the_csv_has_the_numbers_that_are_drawn():
    one = chart(levels=[Level(label="guessing", y=0.5)])
    rows = list(csv.DictReader(io.StringIO(one.csv())))
    for series, line in zip(one.series, drawn(one).axes[0].get_lines(), strict=False):
        own = [row for row in rows if row["series"] == series.label]
        assert [float(row["round"]) for row in own] == list(line.get_xdata())
        assert [float(row["%"]) for row in own] == list(line.get_ydata())
    assert rows[-1] == {"series": "guessing", "round": "", "%": "0.5", "low": "", "high": ""}


@pytest.mark.parametrize("kind", ["line", "points", "steps", "cells"])
@pytest.mark.parametrize("labels", [("one",), tuple(f"a rather long name {k}" for k in range(9))])
def test_text_is_readable_and_stays_inside(kind, labels):
    figure = drawn(chart(kind, labels))
    figure.draw_without_rendering()
    assert figure.get_figwidth() <= 3.4
    texts = [t for t in figure.findobj(matplotlib.text.Text) if t.get_text() and t.get_visible()]
    assert min(text.get_fontsize() for text in texts) >= 8
    for legend in figure.legends:
        box = legend.get_window_extent().transformed(figure.transFigure.inverted())
        assert box.x0 >= 0 and box.x1 <= 1 and box.y1 <= 1
    panel = figure.axes[0].get_position()
    assert panel.height * figure.get_figheight() > 1


def test_every_series_differs_in_colour_and_dashes():
    lines = drawn(chart(labels=tuple("abcdefgh"))).axes[0].get_lines()
    assert len({line.get_color() for line in lines}) == 8
    assert len({str(line.get_linestyle()) + str(line._dash_pattern) for line in lines}) == 8


def test_a_policy_has_its_colour_and_a_number_the_colour_of_that_place():
    x = np.array([1.0])
    series = [
        Series(label="sqrt", x=x, y=x, look="sqrt"),
        Series(label="third", x=x, y=x, look=2),
    ]
    one = Chart(name="c", title="C", text="", x="x", y="y", series=series)
    lines = drawn(one).axes[0].get_lines()
    third = drawn(chart(labels=("a", "b", "c"))).axes[0].get_lines()[2]
    assert [line.get_color() for line in lines] == [POLICIES["sqrt"][0], third.get_color()]


def test_axes_begin_at_zero_and_end_at_the_most_there_can_be():
    low, high = drawn(chart(most=2.5)).axes[0].get_ylim()
    assert low == 0
    assert 2.5 <= high < 2.6
    assert drawn(chart(zero=False)).axes[0].get_ylim()[0] < 0


def test_a_figure_is_the_same_each_time():
    assert image(drawn(chart()), "svg") == image(drawn(chart()), "svg")
