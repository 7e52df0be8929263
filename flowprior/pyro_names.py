"""What flowprior takes from pyro, imported without its one side effect on the process.

Importing pyro sets the default of argument validation for every torch distribution of the process; whoever
has switched it off keeps it off.
"""

from torch.distributions import Distribution

_validates = Distribution._validate_args
try:
    from pyro.distributions import Delta, TorchDistribution
    from pyro.distributions.transforms import AffineCoupling
finally:
    Distribution.set_default_validate_args(_validates)

__all__ = ["AffineCoupling", "Delta", "TorchDistribution"]
