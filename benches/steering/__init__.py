"""What steering does, measured on real abstracts: the report ``benches/results/steering.md``."""
