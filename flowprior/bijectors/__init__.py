"""Invertible maps between z and z0, supplied by nflows, Pyro or the user."""
