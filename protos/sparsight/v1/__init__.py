"""Generated gRPC messages and stubs of ``sparsight.v1``; ``python protos/generate.py`` writes them."""
