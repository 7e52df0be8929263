"""The same parts from Python: `python train.py`."""

from my_parts import PulledFlow, TwoConvolutions

from flowprior import FlowPrior
from flowprior.data import Source
from flowprior.evaluation import measure
from flowprior.models import Autoencoder
from flowprior.networks import SmallDecoder
from flowprior.training import OptimizerSettings, Stage, train

source = Source("digits")
model = Autoencoder(TwoConvolutions(1, 8, 8), SmallDecoder(8, 1), FlowPrior(8))
train([Stage("joint", PulledFlow(model), source.train().tensors(), 3, 64, OptimizerSettings())])
print(measure(model.eval(), source, ["reconstruction", "nll", "radius"]).values)
