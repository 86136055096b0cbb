"""Korder: a ticket reservation system that never oversells, never undersells, never forgets."""

__version__ = "0.1.0"
