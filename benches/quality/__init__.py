"""The quality report: BM25, sparse models, a dense one and hybrids on judged sets (``python -m benches.quality``)."""
