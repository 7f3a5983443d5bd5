"""Spica: from the incoming folder to graded, calibrated, stacked and delivered survey images."""

__version__ = "0.1.0"
