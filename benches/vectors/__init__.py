"""Real vectors to measure on (``make bench-vectors``): SPLADE weights and SAE codes of corpora, with real queries."""
