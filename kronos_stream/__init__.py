"""Streaming real-time forecaster for financial K-lines."""

__version__ = "0.1.0"
