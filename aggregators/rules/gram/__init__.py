"""Rules that return a weight for each client, from the Gram matrix of the updates."""
