"""Latent tools: paths and extremes in z and z0, for any pair of callables between them."""
