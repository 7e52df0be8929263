"""Objectives: they turn a batch into named losses, each for a named group of parameters."""
