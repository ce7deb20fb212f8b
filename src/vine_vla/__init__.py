"""VINE: a hierarchical vision-language-action system that learns from the failures, too."""

__version__ = "0.1.0"
