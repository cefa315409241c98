"""What crosses the network: orders, updates, votes, their hashes, and errors of a closed list."""
