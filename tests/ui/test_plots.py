"""The live plots: numbers, ticks and labels without Qt, then the widget with real events."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QImage, QMouseEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication

from workbench.ui import theme
from workbench.ui.plots.curves import CurvePlot
from workbench.ui.plots.series import (
    Series,
    accuracy_range,
    log_ticks,
    loss_range,
    round_up,
    spread,
    spread_labels,
    thin,
    tick_words,
    ticks,
    with_gaps,
)


def test_a_series_grows_and_smooths_with_bias_correction() -> None:
    series = Series(0.9)
    values = [2.0, 1.0, 4.0, 0.5]
    for i, y in enumerate(values):
        series.append(i * 10, y)
    expected, moment = [], 0.0
    for i, y in enumerate(values, 1):
        moment = 0.9 * moment + 0.1 * y
        expected.append(moment / (1 - 0.9**i))
    assert series.smooth == pytest.approx(expected)
    assert series.smooth[0] == pytest.approx(2.0), "the first point is not pulled to zero"


def test_another_smoothing_gives_what_growing_with_it_would_have_given() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=700).tolist()
    grown, changed = Series(0.97), Series(0.0)
    for i, y in enumerate(values):
        grown.append(i, y)
        changed.append(i, y)
    changed.set_smoothing(0.97)
    assert changed.smooth == pytest.approx(grown.smooth)
    changed.append(700, 1.5)
    grown.append(700, 1.5)
    assert changed.smooth[-1] == pytest.approx(grown.smooth[-1]), "and it grows on from there"


def test_nothing_is_smoothed_from_one_stretch_into_the_next() -> None:
    grown, changed, second = Series(0.9), Series(0.5), Series(0.9)
    values = [6.0, 5.5, 5.0, 0.4, 0.3, 0.5]
    for i, y in enumerate(values):
        if i == 3:
            for series in (grown, changed):
                series.split()
                series.split()
        for series in (grown, changed) if i < 3 else (grown, changed, second):
            series.append(i, y)
    assert grown.begins == [0, 3], "splitting twice at one place makes no empty stretch"
    assert grown.smooth[3:] == pytest.approx(second.smooth)
    assert grown.smooth[3] == pytest.approx(0.4)
    changed.set_smoothing(0.9)
    assert changed.smooth == pytest.approx(grown.smooth)
    changed.split()
    changed.set_smoothing(0.8)
    changed.append(6, 9.0)
    assert changed.smooth[6] == pytest.approx(9.0)
    changed.clear()
    assert changed.begins == [0]


def test_no_line_joins_two_stretches() -> None:
    x = np.arange(20_000, dtype=float)
    y = np.where(x < 8000, 6.0, 0.5)
    few_x, few_y = with_gaps(x, y, [0, 8000, 20_000])
    assert len(few_x) <= 4100
    (gap,) = np.flatnonzero(np.isnan(few_y))
    assert (few_y[:gap] == 6.0).all()
    assert (few_y[gap + 1 :] == 0.5).all()
    assert few_x[gap] == few_x[gap + 1] == 8000
    assert (np.diff(few_x) >= 0).all()
    assert not np.isnan(with_gaps(x, y, [0])[1]).any()


def test_intervals_are_kept_only_where_they_were_given() -> None:
    series = Series()
    series.append(0, 0.5)
    assert not series.banded
    series.append(1, 0.6, 0.55, 0.65)
    assert series.banded
    assert math.isnan(series.low[0])
    assert series.high[1] == pytest.approx(0.65)


def test_the_nearest_point() -> None:
    series = Series()
    assert series.nearest(3) is None
    for x in (0, 10, 20):
        series.append(x, 1)
    assert [series.nearest(x) for x in (-5, 4, 6, 15, 99)] == [0, 0, 1, 1, 2]


def test_thinning_keeps_every_peak_and_the_order() -> None:
    x = np.arange(100_000, dtype=float)
    y = np.sin(x / 9000)
    y[54_321], y[77_777] = 9.0, -9.0
    few_x, few_y = thin(x, y)
    assert len(few_x) <= 4100
    assert few_y.max() == 9.0
    assert few_y.min() == -9.0
    assert (np.diff(few_x) >= 0).all()
    same_x, _ = thin(x[:4000], y[:4000])
    assert len(same_x) == 4000


@pytest.mark.parametrize(("low", "high"), [(0, 11_200), (0, 1), (0.2, 0.85), (0, 17), (0, 1e6), (0.001, 0.002)])
@pytest.mark.parametrize("most", [2, 4, 6])
def test_ticks_are_round_inside_and_few(low: float, high: float, most: int) -> None:
    found = ticks(low, high, most)
    assert 1 <= len(found) <= most
    assert all(low - 1e-9 <= t <= high + 1e-9 for t in found)
    steps = {round(b - a, 9) for a, b in itertools.pairwise(found)}
    assert len(steps) <= 1


def test_the_pictures_ticks() -> None:
    assert ticks(0, 11_200, 6) == [0, 2000, 4000, 6000, 8000, 10_000]
    assert log_ticks(0.35, 2.1, 7) == pytest.approx([0.4, 0.6, 0.8, 1, 1.5, 2])
    assert tick_words([0, 2000, 4000], whole=True) == ["0", "2,000", "4,000"]
    assert tick_words([0.2, 0.4]) == ["0.2", "0.4"]
    assert tick_words([0.25, 0.5]) == ["0.25", "0.50"]


def test_log_ticks_over_decades_stay_few() -> None:
    found = log_ticks(1e-4, 50, 6)
    assert 2 <= len(found) <= 6
    assert all(1e-4 * 0.99 <= t <= 50.1 for t in found)


def test_a_growing_axis_jumps_to_round_ends() -> None:
    assert [round_up(v) for v in (0, 1, 1.2, 160, 3001, 9999)] == [1, 1, 1.5, 200, 5000, 10_000]


def test_labels_move_apart_and_stay_inside() -> None:
    placed = spread([50, 52, 200], 16, 10, 190)
    assert placed[1] - placed[0] >= 16 - 1e-6
    assert placed[2] == 190
    assert min(placed) >= 10
    assert spread([], 16, 0, 10) == []


def test_live_labels_go_where_no_other_curve_runs() -> None:
    free = spread_labels([100, 104], 16, 0, 300, [])
    assert free == [94, 110], "without a crowd they stay at their curves' ends"
    below = spread_labels([100, 104], 16, 0, 300, [80, 90, 98])
    assert min(below) - 8 > 98, "a crowd above sends them below"
    assert below[0] < below[1], "in the order of the ends"


def test_ranges_hold_all_values_with_room() -> None:
    series = Series()
    for i, y in enumerate((1.6, 0.8, 0.4)):
        series.append(i, y)
    low, high = loss_range([series], True)
    assert 10**low < 0.4
    assert 10**high > 1.6
    assert loss_range([series], False)[0] == 0.0
    assert accuracy_range([], 0.2) == (0.2, 1.0)
    a = Series()
    a.append(0, 0.31)
    a.append(1, 0.78, 0.77, 0.79)
    low, high = accuracy_range([a], 0.2)
    assert low == pytest.approx(0.2)
    assert 0.79 < high <= 0.9


@pytest.fixture
def plot(themed: QApplication, qtbot) -> CurvePlot:
    made = CurvePlot("Accuracy", accuracy=True)
    qtbot.addWidget(made)
    made.resize(640, 200)
    made.add_live("train", "meta-train", 0, smoothed=True)
    made.add_live("validation", "validation", 1)
    made.set_expected(1000)
    for x in range(0, 500, 10):
        made.append("train", x, 0.2 + x / 1000)
    for x in range(0, 500, 100):
        made.append("validation", x, 0.2 + x / 1100, 0.15 + x / 1100, 0.25 + x / 1100)
    made.refresh()
    made.show()
    qtbot.waitExposed(made)
    return made


def count_set_data(plot: CurvePlot, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    calls: list[object] = []
    for key, curve in plot.curves.items():
        original = curve.line.setData

        def counted(*args, key=key, original=original, **kwargs):
            calls.append(key)
            return original(*args, **kwargs)

        monkeypatch.setattr(curve.line, "setData", counted)
    return calls


def test_one_set_data_per_curve_that_changed(plot: CurvePlot, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_set_data(plot, monkeypatch)
    for x in range(500, 560, 10):
        plot.append("train", x, 0.7)
    plot.refresh()
    assert calls == ["train"], "six points and one of two curves: one call"
    plot.refresh()
    assert calls == ["train"]


def test_clipping_and_downsampling_are_set_on_the_made_curve(plot: CurvePlot) -> None:
    options = plot.curves["train"].line.opts
    assert options["clipToView"] is True
    assert options["autoDownsample"] is True
    assert options["downsampleMethod"] == "peak"


def test_lines_are_one_pixel_while_live(plot: CurvePlot) -> None:
    plot.set_running(True)
    assert plot.curves["train"].line.opts["pen"].widthF() == 1.0
    plot.set_running(False)
    assert plot.curves["train"].line.opts["pen"].widthF() == 2.0


def test_an_overlay_is_dashed_and_leaves(plot: CurvePlot) -> None:
    plot.add_overlay("old", "MAML, 17 Nov", 2, 0, [0, 1000], [0.3, 0.6])
    assert plot.curves["old"].line.opts["pen"].dashPattern()
    assert "MAML, 17 Nov 0.600" in plot.summary()
    plot.remove("old")
    assert "MAML" not in plot.summary()
    plot.clear_live()
    assert plot.summary() == "Accuracy: no values yet."


def test_the_summary_names_the_last_values_and_the_interval(plot: CurvePlot) -> None:
    plot.set_reference(0.2, "chance")
    said = plot.summary()
    assert "validation 0.564 at episode 400" in said
    assert "95 % interval 0.514 to 0.614" in said
    assert "chance 0.20" in said
    assert plot.accessibleDescription() == said
    assert plot.accessibleName() == "Accuracy plot"


def test_chance_is_a_level_of_the_phases_that_it_belongs_to_alone(plot: CurvePlot) -> None:
    plot.set_reference(0.2, "chance")
    assert plot.reference_spans == [(0.0, 1000.0)]
    plot.begin_phase(0, ("train",), referenced=False)
    assert plot.reference_spans == []
    assert "chance" not in plot.summary()
    plot.begin_phase(490, ("train",), referenced=True)
    plot.append("train", 500, 0.9)
    plot.refresh()
    assert plot.reference_spans == [(490, 1000.0)]
    assert "chance 0.20" in plot.summary()
    assert "meta-train 0.900 at episode 500, from 0.900" in plot.summary()
    drawn_x, drawn_y = plot.curves["train"].line.getOriginalDataset()
    (gap,) = np.flatnonzero(np.isnan(drawn_y))
    assert drawn_x[gap] == 500
    assert plot.curves["validation"].series.begins == [0]
    y = round(plot.to_pixels(0, 0.2).y())
    drawn = plot.grab().toImage()
    scale = plot.devicePixelRatioF()

    def colours(begin: float, end: float) -> set[str]:
        xs = range(round(plot.to_pixels(begin, 0).x()), round(plot.to_pixels(end, 0).x()))
        return {drawn.pixelColor(round(x * scale), round(y * scale)).name() for x in xs}

    grid = colours(300, 480)
    assert len(grid) == 1, "only the grid's line"
    assert colours(600, 800) > grid, "the dotted line"
    plot.clear_live()
    assert plot.reference_spans == [plot.x_range]
    plot.set_reference(None)
    assert plot.reference_spans == []


def test_the_cross_hair_follows_the_pointer_and_snaps(plot: CurvePlot) -> None:
    at = plot.to_pixels(212, 0.4)
    move = QMouseEvent(
        QMouseEvent.Type.MouseMove,
        QPointF(at),
        plot.mapToGlobal(at),
        Qt.MouseButton.NoButton,
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
    )
    QApplication.sendEvent(plot, move)
    title, rows = plot.tooltip()
    assert title == "Episode 200", "it snaps to a point of the curve that has an interval"
    assert any("(0.332–0.432)" in text for _hue, _dash, text in rows)
    QApplication.sendEvent(plot, QMouseEvent(
        QMouseEvent.Type.MouseMove, QPointF(2, 2), QPointF(2, 2),
        Qt.MouseButton.NoButton, Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier,
    ))  # fmt: skip
    assert plot.at is None


def test_the_cross_hair_by_keyboard(plot: CurvePlot) -> None:
    QTest.keyClick(plot, Qt.Key.Key_Home)
    assert plot.at == 0
    QTest.keyClick(plot, Qt.Key.Key_Right)
    assert plot.at == 100
    QTest.keyClick(plot, Qt.Key.Key_Right, Qt.KeyboardModifier.ShiftModifier)
    assert plot.at == 400
    QTest.keyClick(plot, Qt.Key.Key_Left)
    assert plot.at == 300
    assert "Episode 300" in plot.accessibleDescription(), "screen readers hear the values"
    QTest.keyClick(plot, Qt.Key.Key_Escape)
    assert plot.at is None


def test_pixels_and_data_agree_on_both_scales(plot: CurvePlot) -> None:
    r = plot.plot_rect
    low, high = plot.y_range
    assert plot.to_pixels(0, low).y() == pytest.approx(r.top() + r.height())
    assert plot.to_pixels(plot.x_range[1], high).x() == pytest.approx(r.left() + r.width())
    plot.set_log(True)
    middle = math.sqrt(0.2 * 0.6)
    y = [plot.to_pixels(0, v).y() for v in (0.2, middle, 0.6)]
    assert y[1] == pytest.approx((y[0] + y[2]) / 2), "equal ratios are equal distances"


def test_a_logarithmic_axis_shows_zero_at_its_lower_end(themed: QApplication, qtbot) -> None:
    plot = CurvePlot("Loss")
    qtbot.addWidget(plot)
    plot.resize(640, 200)
    for key, value in (("some", 0.5), ("none", 0.0)):
        plot.add_live(key, key, 0)
        for x in (0, 500, 1000):
            plot.append(key, x, value)
    plot.set_log(True)
    drawn_y = plot.curves["none"].line.getOriginalDataset()[1]
    assert (plot.y_range[0] < drawn_y).all()
    assert (drawn_y < math.log10(0.5)).all()
    r = plot.plot_rect
    assert r.bottom() - 8 < plot.to_pixels(500, 0.0).y() < r.bottom()


def test_curves_are_really_drawn_in_both_themes(plot: CurvePlot, themed: QApplication) -> None:
    for name in ("light", "dark"):
        theme.apply(themed, name)
        image = plot.grab().toImage().convertToFormat(QImage.Format.Format_RGB32)
        hue = theme.class_colour(1)
        near = 0
        r = plot.plot_rect
        for x in range(r.left() + 5, r.left() + int(r.width() * 0.4), 3):
            column = {image.pixelColor(x, y).name() for y in range(r.top(), r.bottom())}
            near += any(
                abs(int(c[1:3], 16) - hue.red())
                + abs(int(c[3:5], 16) - hue.green())
                + abs(int(c[5:7], 16) - hue.blue())
                < 90
                for c in column
            )
        assert near > 20, f"the validation curve is on the picture in the {name} theme"
    theme.apply(themed, "light")


def test_a_hundred_thousand_points_stay_few_on_the_screen(plot: CurvePlot) -> None:
    rng = np.random.default_rng(1)
    for x, y in enumerate(rng.uniform(0, 1, 100_000).tolist()):
        plot.append("train", x, y)
    plot.refresh()
    x, _y = plot.curves["train"].line.getData()
    assert len(x) <= 4100
    assert x[-1] > 99_900


def test_importing_the_train_room_does_not_import_pyqtgraph_or_torch() -> None:
    code = (
        "import sys\nimport workbench.ui.rooms.train.room, workbench.ui.rooms.sources.room\n"
        "bad = {'pyqtgraph', 'torch', 'numpy', 'PIL'} & set(sys.modules)\nprint(sorted(bad))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
