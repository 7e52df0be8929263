"""One training loop that knows nothing of methods: it asks the objective for losses and steps."""

from flowprior.training.checkpoint import load_weights
from flowprior.training.fit import fit
from flowprior.training.fitting import Candidate, FitResult
from flowprior.training.loop import train
from flowprior.training.optimizers import OptimizerSettings
from flowprior.training.results import EpochEnd, TrainResult
from flowprior.training.stages import Stage, joint_stage, prior_stage

__all__ = ["Candidate", "EpochEnd", "FitResult", "OptimizerSettings", "Stage", "TrainResult"]
__all__ += ["fit", "joint_stage", "load_weights", "prior_stage", "train"]
