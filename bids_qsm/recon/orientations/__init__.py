"""Susceptibility from the local fields of one head in several positions.

Everything lies on one grid, that of the reference position: local fields (ppm), where each is known (bool),
their noise (ppm), and the direction of B0 in each position, a unit vector along the voxel axes of that grid.
"""
