"""A run over a real network: Flower's SuperLink and SuperNodes, and what fedtune puts around them."""
