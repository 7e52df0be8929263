"""The figure "conditions": many samples at one condition, of a run and of the twins of a study."""

from collections.abc import Mapping, Sequence
from typing import Any

from einops import rearrange
from torch import Tensor

from flowprior.errors import InputError
from flowprior.figures.gathering import examples
from flowprior.figures.runs import FigureRun, NotApplicable, StudyRuns, short, variant
from flowprior.figures.sheet import Sheet, colored, draw_sheet, first_rows, sheets_beside
from flowprior.registry import figure

NEEDS = ("images", "pictures as conditions")
LINES, SAMPLES = 8, 8  # conditions, samples at each


@figure("conditions", needs=NEEDS)
def conditions(run: FigureRun) -> Sheet:
    """A condition, its original, and samples at that condition, a line each (Morrow & Chiu, Fig. 9)."""
    x, context = examples(run, LINES)
    return condition_sheet(context, x, {"": run.model.sample(SAMPLES, context)})


@figure("conditions", of="study", needs=NEEDS)
def conditions_of_twins(runs: StudyRuns) -> Sheet:
    """Samples of twins at the same conditions, the better row's below (Morrow & Chiu, Fig. 9)."""
    sheets = []
    for twins in runs.twins_with(NEEDS):
        lesser, _ = twins
        x, context = examples(twins[lesser], LINES)
        drawn = {short(row): run.model.sample(SAMPLES, context) for row, run in twins.items()}
        sheets.append(condition_sheet(context, x, drawn, title=variant(lesser) or None))
    if not sheets:
        raise NotApplicable("it needs a pair of conditional twins.")
    return sheets_beside([sheets])


def condition_sheet(
    contexts: Tensor, originals: Tensor | None, samples: Mapping[str, Tensor], *, names: Sequence[str] = (),
    title: str | None = None,
) -> Sheet:  # fmt: skip
    """For each condition: it, the original image, and n samples; a row each model (Morrow & Chiu, Fig. 9).

    Args:
        contexts, originals: (N, 1 or 3, H, W), conditions and the real images, if any, that they are of.
        samples: name of the row -> (n, N, C, H, W), n samples of each condition; of one model it may be "".
        names, title: N texts, one above each condition, and one above the sheet.

    Raises:
        InputError: if the shapes do not go together.
    """
    shapes = {tuple(each.shape) for each in samples.values()}
    if len(shapes) != 1:
        raise InputError(f"`samples` of shapes {sorted(shapes)} must all have one, (n, N, C, H, W).")
    fronts = {"condition": contexts} | ({} if originals is None else {"data": originals})
    drawn = [colored(each, 5) for each in samples.values()]
    cells = rearrange(drawn, "model n cond ... -> (cond model) n ...")
    texts: dict[str, Any] = {"tops": dict(enumerate([*fronts, "samples"])), "bands": names, "title": title}
    sides = list(samples) * len(contexts) if any(samples) else ()
    blocks = [*(first_rows(front, len(samples)) for front in fronts.values()), cells]
    return draw_sheet(blocks, row_group=len(samples), sides=sides, **texts)
