"""The figure of an evaluation: what it shows is what the tables have, and it draws where it is told to."""

import numpy as np
import pytest

from judged_cells import CONTEXT, everything
from scspecies.evaluation import evaluate
from scspecies.plot_evaluation import plot_coverage, plot_evaluation

# ---------------------------------------------------------------- figures


def test_figure_has_what_the_tables_have(cells):
    plt = pytest.importorskip("matplotlib.pyplot")
    result = everything(cells)
    confusion, recall, reliability, coverage = plot_evaluation(result)
    rows = [label.get_text() for label in confusion.get_yticklabels()]
    assert rows == ["a (300)", "b (80)", "c (9)", "new (40)"] and len(confusion.lines) == 1
    share = 100 * (cells[1][cells[0] == "a"] == "a").mean()
    assert confusion.texts[0].get_text() == f"{share:.0f}"
    order = [label.get_text().split(" ")[0] for label in recall.get_yticklabels()]
    assert order == result.by_type.sort_values("recall").index.tolist()
    assert np.allclose(recall.lines[0].get_xdata(), np.sort(result.by_type.recall))
    dots = reliability.collections[-1].get_offsets()
    assert np.allclose(dots, result.calibration[["confidence", "right"]])
    assert f"{result.summary.value['calibration_error']:.3f}" in reliability.get_title()
    shown = result.coverage[result.coverage.coverage >= 0.02]
    assert len(shown) > 100 and np.allclose(coverage.lines[0].get_ydata(), shown.accuracy)
    plt.close("all")


def test_figures_draw_on_given_axes_and_nowhere_else(cells):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.close("all")
    figure, axes = plt.subplots(1, 4)
    drawn = plot_evaluation(everything(cells), axes=axes)
    assert list(drawn) == list(axes) and plt.get_fignums() == [figure.number]
    assert plot_coverage(everything(cells).coverage, ax=axes[0]) is axes[0]
    with pytest.raises(ValueError, match="Expected `axes` to be four axes, found 3"):
        plot_evaluation(everything(cells), axes=axes[:3])
    plt.close("all")


def test_figure_without_a_confidence_says_so(cells):
    plt = pytest.importorskip("matplotlib.pyplot")
    *_, reliability, coverage = plot_evaluation(evaluate(cells[0], cells[1], CONTEXT, n_boot=5))
    assert all(ax.texts[0].get_text() == "no confidence was given" for ax in (reliability, coverage))
    plt.close("all")
