"""Capacity planning: how many conversations a device carries, and how many devices calls need.

Arithmetic only: nothing is loaded, measured or looked up. Every figure says whether it was
measured or is an estimate.
"""
