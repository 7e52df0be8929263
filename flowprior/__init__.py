"""Learned normalizing-flow priors for autoencoders and VAEs."""

__version__ = "0.1.0"
