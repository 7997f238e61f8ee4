"""The compiled kernels: C++20 in ``src/``, a source and a header per kernel; call them through sparsight.kernels."""
