"""How orders get to the clients and their replies back: in this process, or through Flower."""
