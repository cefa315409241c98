"""The bench: attacks x defences x fractions of attackers x seeds on one base recipe.

``load_bench`` reads a BENCH.yaml, ``lay_out`` makes its cells, ``run_bench`` runs those that are
not done yet, ``summarise`` makes of the results what a page and a table show.
"""
