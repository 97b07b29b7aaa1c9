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


def test_looks_repeat_colours_with_other_dashes():
    from scorefield.report.charts import look

    assert [look(i) for i in (0, 5, 6, 13)] == ["s0", "s5", "s0 d1", "s1 d2"]
    assert len({look(i) for i in range(24)}) == 24
    many = Chart("c", [Series(str(i), [(0, i), (1, i)]) for i in range(8)])
    assert 'class="line s1 d1"' in line_chart(many)
    assert legend(many)[7] == ("s1 d1", "7")
    assert 'class="line mine"' in line_chart(Chart("c", [Series("a", [(0, 1), (1, 2)], css="mine")]))


def test_a_band_widens_the_axis_and_is_drawn_around_its_line():
    plain = Series("a", [(0, 1.0), (1, 1.1)])
    wide = Series("a", [(0, 1.0), (1, 1.1)], band=[(0, 0.5, 3.0), (1, 0.9, 1.3)])
    svg = line_chart(Chart("c", [wide]))
    band = re.search(r'class="band s0" d="M([^"]*)"', svg)
    points = [tuple(map(float, pair.split())) for pair in band[1].split("L")]
    assert len(points) == 4
    assert points[0][1] < points[3][1]  # higher values lie higher
    assert points[0][0] == points[3][0]
    assert all(12 <= y <= 216 for _, y in points)  # within the plot
    assert 'class="band' not in line_chart(Chart("c", [plain]))


def test_names_of_marks_are_joined_where_they_would_overlap():
    series = [Series("a", [(0, 0.1), (1, 0.9)])]
    near = line_chart(Chart("c", series, marks={"real": 0.99, "<t>": 0.98}, named=True))
    assert ">real, &lt;t&gt;</text>" in near
    far = line_chart(Chart("c", series, marks={"real": 0.99, "<t>": 0.5}, named=True))
    assert ">real</text>" in far
    assert ">&lt;t&gt;</text>" in far
    assert ">real</text>" not in line_chart(Chart("c", series, marks={"real": 0.99}))
