"""Sweeps on a cluster, and the sweep files that ship with the package."""
