"""The compact backend: perception, proposals, outcomes, next graphs and values as small nets."""
