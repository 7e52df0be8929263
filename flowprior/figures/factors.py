"""The figure "factors": the dimensions of z that say most about the data, each moved by itself."""

import torch

from flowprior.figures.runs import FigureRun, NotApplicable, StudyRuns, check_needs, refusal_as_reason, short
from flowprior.figures.sheet import Sheet, draw_sheet
from flowprior.registry import figure

NEEDS = ("images", "posterior density", "unconditional")
FACTORS, VALUES, REACH = 5, 11, 5.0  # dimensions, images a row, standard deviations (dpVAE, Fig. 6)


@figure("factors", needs=NEEDS)
@refusal_as_reason()
def factors(run: FigureRun) -> Sheet:
    """The first reconstruction, moved along the dimensions of z that say most about the data (dpVAE, Fig. 6).

    Dimensions are ranked by the variance of the posterior mean over the mean posterior variance, r, and
    labeled with ½ log(1 + r), the nats that a Gaussian channel of that ratio carries. A row moves by `REACH`
    standard deviations of the aggregate posterior from the reconstruction in its middle.
    """
    model, aggregate = run.model, run.aggregate
    noise = aggregate.scale.square().flatten(1).mean(0)
    signal = aggregate.loc.flatten(1).var(0, correction=0)
    ratio = signal / noise
    rows = ratio.argsort(descending=True)[:FACTORS]
    z = run.test_codes(torch.tensor([0])).flatten()
    steps = torch.linspace(-REACH, REACH, VALUES).to(z)[:, None] * (signal + noise).sqrt()[rows]
    moved = z.repeat(VALUES, len(rows), 1)  # (values, rows, D)
    moved[:, torch.arange(len(rows)), rows] += steps
    images = model.decode(moved.unflatten(-1, model.prior.event_shape)).transpose(0, 1)
    nats = zip(rows.tolist(), (0.5 * ratio[rows].log1p()).tolist(), strict=True)
    tops = {0: f"-{REACH:g} sd", VALUES // 2: "reconstruction", VALUES - 1: f"+{REACH:g} sd"}
    return draw_sheet([images], sides=[f"z[{row}], {value:.2f} nats" for row, value in nats], tops=tops)


@figure("factors", of="study", needs=NEEDS)
def factors_of_study(runs: StudyRuns) -> Sheet:
    """The factors of the decoupled FactorVAE, else of the last decoupled row with most dimensions."""
    rows = [decoupled for _, decoupled in runs.twins]
    rows = [row for row in rows if short(row).startswith("factor")] or rows
    if not rows:
        raise NotApplicable("it needs a row with a decoupled prior.")
    restored = reversed([runs.restore(row) for row in rows])
    run = max(restored, key=lambda each: each.model.prior.event_shape.numel())
    check_needs(NEEDS, run)
    return factors(run)
