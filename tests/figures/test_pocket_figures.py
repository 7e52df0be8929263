import numpy as np
import pytest
import torch

from flowprior.figures.leakage import LeakageLine, leakage_panels
from flowprior.figures.pockets import Pockets, Space, pocket_panels
from flowprior.figures.sheet import sheets_beside
from flowprior.figures.style import square
from flowprior.figures.traversal import Traversal, Way, traversal_panels


def space(cloud, marks=3):
    return Space(cloud, cloud[:marks] + 10, cloud[marks : 2 * marks] - 10)


def pockets(decoupled, images=False):
    generator = torch.Generator().manual_seed(0)
    z, data = torch.randn(2, 40, 2, generator=generator)
    shown = torch.rand(46, 1, 8, 8, generator=generator)
    return Pockets(
        samples=shown[:36] if images else data,
        log_base=z.square().sum(1).neg(),
        representation=space(z),
        generation=space(z / 2) if decoupled else None,
        data=Space(None, shown[36:40], shown[40:44]) if images else space(data),
    )


def marks(ax):
    return {dots.get_label(): np.asarray(dots.get_offsets()) for dots in ax.collections}


def test_a_line_of_twins_has_three_and_four_panels_with_their_marks():
    plain, decoupled = pockets(False), pockets(True)
    figure = pocket_panels([[("vae", plain), ("dpvae", decoupled)]])
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["samples", "q(z)", "data", "samples", "q(z)", "generation space", "data"]
    assert [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()] == ["vae", "dpvae"]
    for k, drawn in ((1, plain.representation), (2, plain.data), (5, decoupled.generation)):
        found = marks(figure.axes[k])
        np.testing.assert_allclose(found["low"], drawn.low, rtol=1e-6)
        np.testing.assert_allclose(found["high"], drawn.high, rtol=1e-6)
    circled = [len(ax.patches) for ax in figure.axes]
    assert circled == [0, 3, 0, 0, 0, 3, 0]  # N(0, I) is drawn where z0 lives
    assert [circle.radius for circle in figure.axes[5].patches] == [1, 2, 3]
    for ax in figure.axes:
        assert ax.get_aspect() == 1.0
        assert np.ptp(ax.get_xlim()) == pytest.approx(np.ptp(ax.get_ylim()))
    assert figure.axes[0].get_xlim() == figure.axes[2].get_xlim()  # samples and data on one scale


def test_samples_are_colored_by_the_density_of_their_z0():
    model = pockets(False)
    dots = pocket_panels([[("", model)]]).axes[0].collections[0]
    order = model.log_base.argsort(descending=True)
    np.testing.assert_allclose(dots.get_array(), model.log_base[order], rtol=1e-6)
    np.testing.assert_allclose(dots.get_offsets(), model.samples[order], rtol=1e-6)


def test_images_are_framed_in_the_colors_of_the_marks():
    from matplotlib.colors import to_hex

    ax = pocket_panels([[("", pockets(True, images=True))]]).axes[-1]
    frames = [to_hex(patch.get_edgecolor()) for patch in ax.patches]
    dots = [
        to_hex(each.get_facecolor()[0])
        for each in pocket_panels([[("", pockets(True))]]).axes[1].collections[1:]
    ]
    assert frames == dots[::-1]
    assert len(set(frames)) == 2


def test_the_square_holds_all_points():
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    square(ax, [torch.tensor([[0.0, 0.0]]), torch.tensor([[4.0, 1.0]])], margin=0)
    assert ax.get_xlim() == (0, 4)
    assert ax.get_ylim() == (-1.5, 2.5)


def line(label, decoupled, scores, shares):
    thresholds = tuple(-float(k) for k in range(len(scores)))
    return LeakageLine(label, thresholds, scores, [0.1] * len(scores), shares, decoupled)


def test_leakage_leaves_out_thresholds_without_draws():
    twins = [
        line("b", False, (3.0, 2.0, 1.0), (0.5, 0.2, 0.1)),
        line("b", True, (1.0, 0.5, 0.0), (0.5, 0.1, 0)),
    ]
    figure = leakage_panels({"2d": twins, "10d": [line("c", True, (1.0,), (1.0,))]})
    assert [ax.get_title() for ax in figure.axes] == ["2d", "10d"]
    dashed, solid = figure.axes[0].lines[:2]
    assert dashed.get_ydata().tolist() == [3, 2, 1]
    assert solid.get_ydata().tolist() == [1, 0.5]
    assert (dashed.get_linestyle(), solid.get_linestyle()) == ("--", "-")
    assert dashed.get_color() == solid.get_color() != figure.axes[1].lines[0].get_color()


def way(images=False):
    z = torch.linspace(0, 1, 9)[:, None].expand(9, 2)
    decoded = torch.linspace(0, 1, 9).view(9, 1, 1, 1).expand(9, 1, 8, 8) if images else 2 * z
    return Way("straight in z", "#b0413e", z, -z[:, 0], decoded)


def normal(z):
    return -z.square().sum(-1) / 2


def test_a_traversal_is_drawn_on_the_density_and_on_the_data():
    codes = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    figure = traversal_panels([Traversal("vae", [way()], normal, codes, data=2 * codes)])
    themap, profile, data = figure.subfigs[0].axes
    np.testing.assert_allclose(np.array(themap.lines[0].get_xydata()), way().z)
    np.testing.assert_allclose(profile.lines[0].get_ydata(), way().log_density)
    np.testing.assert_allclose(np.array(data.lines[0].get_xydata()), way().decoded)
    shaded = themap.images[0]
    assert shaded.get_array().max() == pytest.approx(1, abs=1e-3)  # the power of exp(0), at the origin
    stars = [each.get_xydata()[0].tolist() for each in themap.lines[1:]]
    assert stars == [[0, 0], [1, 1]]


def test_latents_of_other_sizes_have_no_map_and_images_are_strips():
    model = Traversal("vae", [way(images=True), way(images=True)], normal, torch.zeros(5, 3))
    figure = traversal_panels([model, model])
    assert [len(row.axes) for row in figure.subfigs] == [2, 2]
    strips = figure.subfigs[0].axes[1]
    pixels = strips.images[0].get_array()
    height = pixels.shape[0] // 2
    assert (pixels[:height] == pixels[height:]).all()
    middle = pixels[height // 2 + 10, 34::58, 0]  # of eight tiles 58 pixels apart
    assert middle.tolist() == sorted(middle.tolist())
    assert (middle[0], middle[-1]) == (0, 255)


def test_sheets_stand_in_columns_of_one_width():
    from PIL import Image

    small, large = Image.new("RGB", (10, 20), "red"), Image.new("RGB", (30, 10), "blue")
    page = np.asarray(sheets_beside([[small, large], [large]]))
    assert page.shape == (30, 60, 3)
    assert (page[:20, :10] == [255, 0, 0]).all()
    assert (page[:10, 30:60] == [0, 0, 255]).all()
    assert (page[20:, :30] == [0, 0, 255]).all()
    assert (page[20:, 30:] == 255).all()
