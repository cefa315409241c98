"""The engine under every rule: rows, blocks, the Gram matrix, sorting, ties, aggregation."""
