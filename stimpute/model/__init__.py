"""The ST-Transformer: its configuration, its candidates, the network, and the method it makes."""
