"""Attention, embeddings and positions shared by all networks. Nothing here knows about files or stacks."""
