"""Annotation: outcomes, segments and boxes for datasets that came without."""
