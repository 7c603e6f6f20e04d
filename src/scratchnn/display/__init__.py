"""Figures of fitted networks. Matplotlib is imported when one is drawn."""

from .curves import LossCurves
from .figure import LossCurveDisplay

__all__ = ["LossCurveDisplay", "LossCurves"]
