"""Encoders, decoders and feature networks: pure modules that know nothing of latents or losses."""
