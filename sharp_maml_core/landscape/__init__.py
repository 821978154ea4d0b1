"""The losses around a point in parameter space: slices, spectra, sharpness."""
