"""Figures for print, from circuits and plain tables: how they look, what is measured, and one module a figure.

Every function returns a `matplotlib.figure.Figure` and touches no global state of matplotlib; no display is needed.
`docs/tutorials/gallery.md` shows them all.
"""
