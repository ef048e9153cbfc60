"""Scoring methods side by side on observations hidden from them. Knows no particular method and no files."""
