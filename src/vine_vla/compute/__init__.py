"""Compute: jobs on worker processes, and stages of long runs that resume."""
