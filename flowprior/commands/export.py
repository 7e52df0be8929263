"""`flowprior export`: a prior as programs for other runtimes."""

from collections.abc import Sequence
from pathlib import Path

from flowprior.experiments.config import load_model
from flowprior.experiments.runs import is_prior
from flowprior.experiments.unchanged import restore
from flowprior.priors.prior import Prior


def run(folder: Path, *, out: Path, plugins: Sequence[str] = ()) -> dict[str, Path]:
    """Export the fitted prior in `folder`, or the prior of the run there; returns the files.

    Raises:
        InputError: if neither can be read, and as `Prior.export`.
        RunError: as `Prior.export`.
    """
    if is_prior(folder):
        prior = Prior.from_pretrained(folder)
    else:
        model = load_model(folder, plugins)
        restore(model, folder, "cpu")
        prior = model.prior
    files = prior.export(out)
    print(*(f"{name}: {path}" for name, path in files.items()), sep="\n")
    return files
