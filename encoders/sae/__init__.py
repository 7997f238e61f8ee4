"""Sparse autoencoders over dense embeddings: the model, its training, checkpoints of others, and what
can be said of one.

Import the modules themselves; this package loads nothing, so that it is quick where torch is not needed.
"""
