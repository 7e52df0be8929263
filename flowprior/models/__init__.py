"""Models: they encode, decode and own a prior."""
