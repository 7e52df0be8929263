"""An experiment: what a config builds and the commands run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flowprior.data.images import Source
from flowprior.models import Autoencoder
from flowprior.training.stages import Data, Stage


@dataclass
class Experiment:
    """A model, its data, and how it is trained and judged.

    Args:
        name: of the run, such as "glf/digits".
        source: the data set; nothing is read before training begins.
        model: what is trained.
        stages: functions (model, data) -> Stage, such as `joint_stage` and `prior_stage` with settings of
            one's own.
        seed: of the run: order of the data, noise, held-out rows.
        metrics: what is measured after training.
    """

    name: str
    source: Source
    model: Autoencoder
    stages: Sequence[Callable[[Autoencoder, Data], Stage]]
    seed: int = 0
    metrics: tuple[str, ...] = ("reconstruction", "nll")

    def build_stages(self) -> list[Stage]:
        """The stages, ready for `train`."""
        return [stage(self.model, lambda: self.source.train().tensors()) for stage in self.stages]
