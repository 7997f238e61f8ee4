"""The search benchmark: this engine and its peers on the same vectors, one core each (``make bench-search``)."""
