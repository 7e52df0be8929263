"""Figures of what flows cost."""
