"""A client's machine in a real network: what its owner allows, and the processes that do it."""
