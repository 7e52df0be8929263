"""Data sets as tensors on the device, batched by index."""
