"""A metric along a sweep: lines in the order of the values, with their deviations."""

import numpy as np

from flowprior.figures.sweep import SweepLine, sweep_panels


def test_values_stand_evenly_in_the_order_of_their_numbers():
    lines = [
        SweepLine("flow", ["1", "0.01", "0.1"], [3.0, 1.0, 2.0], [0.3, 0.1, 0.2]),
        SweepLine("AAE", ["0.1", "1"], [5.0, 6.0], [0.0, 0.0]),
    ]
    figure = sweep_panels({"mnist": lines, "cifar10": lines[:1]}, "fid")
    first, second = figure.axes
    assert [text.get_text() for text in first.get_xticklabels()] == ["0.01", "0.1", "1"]
    flow, aae = (container.lines[0] for container in first.containers)
    np.testing.assert_array_equal(flow.get_xydata(), [[0, 1], [1, 2], [2, 3]])
    np.testing.assert_array_equal(aae.get_xydata(), [[1, 5], [2, 6]])
    caps = np.array([cap.get_ydata() for cap in first.containers[0].lines[1]])
    np.testing.assert_allclose(np.sort(caps, 0), [[0.9, 1.8, 2.7], [1.1, 2.2, 3.3]])
    assert second.get_title() == "cifar10"
    assert flow.get_color() == second.containers[0].lines[0].get_color() != aae.get_color()
