"""The smallest example that decides about each of the paper's statements.

One function a statement: it takes nothing, computes the figures that the book's errata page shows, and returns them by
name. Its docstring says which statement, the verdict (holds, slip, proof incomplete, false), and the repaired form.
"""

Figures = dict[str, float]
"""What a check found, by name."""
