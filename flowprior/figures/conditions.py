"""The figure "conditions": many samples at one condition, of a run and of the twins of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from einops import rearrange
from torch import Tensor

from flowprior.errors import InputError
from flowprior.figures.gathering import examples
from flowprior.figures.needs import check_needs
from flowprior.figures.runs import FigureRun, NotApplicable, StudyRuns, short, variant
from flowprior.figures.sheet import colored, draw_sheet, first_rows, sheets_beside
from flowprior.registry import figure

if TYPE_CHECKING:
    from PIL import Image

NEEDS = ("images", "pictures as conditions")
LINES, SAMPLES = 8, 8  # conditions, samples at each


@figure("conditions", needs=NEEDS)
def conditions(run: FigureRun) -> Image.Image:
    """A condition, its original, and samples at that condition, a line each (Morrow & Chiu, Fig. 9)."""
    x, context = examples(run, LINES)
    return condition_sheet(context, x, {"": run.model.sample(SAMPLES, context)})


@figure("conditions", of="study", needs=NEEDS)
def conditions_of_twins(runs: StudyRuns) -> Image.Image:
    """Samples of twins at the same conditions, the better row's below (Morrow & Chiu, Fig. 9)."""
    sheets = []
    for twins in runs.twins:
        lesser, better = (runs.restore(row) for row in twins)
        check_needs(NEEDS, lesser)
        x, context = examples(lesser, LINES)
        drawn = {
            short(row): run.model.sample(SAMPLES, context)
            for row, run in zip(twins, (lesser, better), strict=True)
        }
        sheets.append(condition_sheet(context, x, drawn, title=variant(twins[0]) or None))
    if not sheets:
        raise NotApplicable("it needs a pair of conditional twins.")
    return sheets_beside([sheets])


def condition_sheet(
    contexts: Tensor,
    originals: Tensor | None,
    samples: Mapping[str, Tensor],
    *,
    names: Sequence[str] = (),
    title: str | None = None,
) -> Image.Image:
    """For each condition: it, the original image, and n samples; a row each model (Morrow & Chiu, Fig. 9).

    Args:
        contexts: (N, 1 or 3, H, W), the conditions.
        originals: (N, C, H, W), the real images they were taken from; None where there are none.
        samples: name of the row -> (n, N, C, H, W), n samples of each condition; of one model it may be "".
        names: N texts, one above each condition.
        title: a line above the sheet.

    Raises:
        InputError: if the shapes do not go together.
    """
    fronts = {"condition": contexts} if originals is None else {"condition": contexts, "data": originals}
    shapes = {tuple(drawn.shape) for drawn in samples.values()}
    sizes = {(len(front), *front.shape[2:]) for front in fronts.values()}
    if (
        {len(shape) for shape in shapes} != {5}
        or {(s[1], *s[3:]) for s in shapes} != sizes
        or len(shapes) > 1
    ):
        raise InputError(
            f"`samples` of shapes {sorted(shapes)} must all be (n, N, C, H, W), and `contexts` and "
            f"`originals` of shapes {[tuple(front.shape) for front in fronts.values()]} (N, 1 or 3, H, W), "
            "of that N, H and W."
        )
    cells = rearrange(
        [colored(drawn, 5) for drawn in samples.values()], "model n cond ... -> (cond model) n ..."
    )
    return draw_sheet(
        [*(first_rows(front, len(samples)) for front in fronts.values()), cells],
        row_group=len(samples),
        sides=list(samples) * len(contexts) if any(samples) else (),
        tops=dict(enumerate([*fronts, "samples"])),
        bands=names,
        title=title,
    )
