"""Charts: round ticks, points where their values lie, honest thinning; and the choice of film frames."""

import re

import pytest
import torch

from scorefield.report.charts import Chart, Series, legend, line_chart, log_ticks, smooth, thin, ticks
from scorefield.report.page import spread


def test_ticks_are_round_and_inside():
    assert ticks(0, 76_800, 4) == [0, 20_000, 40_000, 60_000]
    assert ticks(0.113, 0.118) == [0.113, 0.114, 0.115, 0.116, 0.117, 0.118]
    assert ticks(3, 3) == [3]
    assert log_ticks(0.05, 30) == [0.1, 1, 10]
    assert log_ticks(3, 30) == [5, 10, 20]


def test_lines_are_drawn_where_their_values_lie():
    chart = Chart("t", [Series("a", [(0, 1.0), (5, 10.0), (10, 100.0)])])
    svg = line_chart(chart)
    start, middle, end = (tuple(map(float, p)) for p in re.findall(r"[ML](\S+) ([\d.]+)", svg.split('class="line')[1]))
    assert middle[0] == pytest.approx((start[0] + end[0]) / 2, abs=0.1)
    assert middle[1] == pytest.approx((start[1] + end[1]) / 2, abs=0.1)  # halfway on a logarithmic axis
    assert end[1] < start[1]
    assert legend(chart) == []
    assert line_chart(Chart("t", [Series("a", [])])) == ""
    assert "<path" in line_chart(Chart("t", [Series("a", [(1, -2.0)])]))
    assert line_chart(Chart("<&", [Series('"<', [(1, 0.0), (2, 5.0)])])).count("<title>&lt;&amp;") == 1


def test_long_series_are_thinned_without_moving_their_mean():
    points = [(float(i), float(i % 7)) for i in range(1600)]
    thinned = thin(points)
    assert len(thinned) == 160
    assert sum(y for _, y in thinned) / 160 == pytest.approx(sum(y for _, y in points) / 1600)
    assert thin(points[:50]) == points[:50]
    straight = [(float(i), 2.0 * i) for i in range(100)]
    assert torch.allclose(torch.tensor(smooth(straight)[:95]), torch.tensor(straight[:95]))
    assert smooth(straight)[-1] == (99.0, pytest.approx(193.0))  # mean of the last six, 94 ... 99


@pytest.mark.parametrize("count", [0, 1, 8, 9, 13, 500])
def test_frames_are_distinct_with_first_and_last(count):
    chosen = spread(count, 8)
    assert len(chosen) == len(set(chosen)) == min(count, 8)
    assert chosen == sorted(chosen)
    if count:
        assert (chosen[0], chosen[-1]) == (0, count - 1)
