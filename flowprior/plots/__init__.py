"""Figures: tensors in, matplotlib figures out."""
