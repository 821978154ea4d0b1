"""The losses around a point in parameter space: slices, spectra, sharpness."""

from .export import export

__all__ = ["export"]
