"""Calibration, conformal thresholds, support and their measures, for any backend."""
