"""Metrics: functions of tensors and callables, never of models."""
