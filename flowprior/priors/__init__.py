"""Priors: modules that, called with a context or without one, return a distribution over z."""
