"""Probes: single subgoals executed to see whether probabilities come true."""
