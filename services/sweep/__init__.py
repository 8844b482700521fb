"""Measuring every point of a landscape on Ray workers."""
