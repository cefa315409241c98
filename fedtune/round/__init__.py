"""One federated round: orders, screening, aggregation, outer step, and whether the step stands."""
