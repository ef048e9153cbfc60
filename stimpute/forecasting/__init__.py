"""Forecasting: good guesses per cell, and the SBATransformer (arXiv 2509.18115) that blends and corrects them on a graph."""
