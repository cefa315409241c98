"""A run over a real network: Flower's SuperLink and SuperNodes, and what stands around them."""
