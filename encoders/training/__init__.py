"""Training of SPLADE models: losses, schedules, training texts and the teacher of BM25.

Import the modules themselves; this package loads nothing, so that it is quick where torch is not needed.
"""
