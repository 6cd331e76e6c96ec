"""Measurements of speed, always beside other implementations in the same run.

Two machines, or two runs on one, are not comparable: what counts is the ratio within a run.
"""
