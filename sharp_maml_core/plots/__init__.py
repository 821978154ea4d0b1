"""Figures. They draw what they are given: no figure trains, and no algorithm lives here."""

from .runs import curves, tasks

__all__ = ["curves", "tasks"]
