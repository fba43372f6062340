"""The only place that decides what a mask is: scores, exact selection, policies, optimizer."""

from fnsft.masks.selection import random_fraction, top_fraction

__all__ = ["random_fraction", "top_fraction"]
