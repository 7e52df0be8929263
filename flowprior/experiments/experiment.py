"""An experiment: what a config builds and the commands run."""

from collections.abc import Sequence
from dataclasses import dataclass

from flowprior.data.images import Source
from flowprior.models import Autoencoder
from flowprior.training.stages import Stage


@dataclass
class Experiment:
    """A model, its data, and how it is trained and judged.

    Args:
        name: of the run, such as "glf/digits".
        source: the data set; nothing is read before training begins.
        stages: of the model, ready for `train`, such as `joint_stage` and `prior_stage` make them.
        seed: of the run: order of the data, noise, held-out rows.
        metrics: what is measured after training.
    """

    name: str
    source: Source
    model: Autoencoder
    stages: Sequence[Stage]
    seed: int = 0
    metrics: tuple[str, ...] = ("reconstruction", "nll")
