"""Core: scene graphs, subgoals, packing and the protocols between the rooms. NumPy and scipy only."""
