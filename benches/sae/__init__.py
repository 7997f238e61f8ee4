"""The report on sparse autoencoders over a dense embedder's vectors (``python -m benches.sae``)."""
