"""Exports: plain LeRobot datasets of skills and subtasks."""
