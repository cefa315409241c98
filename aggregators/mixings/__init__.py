"""Mixings, which run before a rule: an (m, n) matrix over the clients, from the Gram matrix."""
