"""Kernels for NVIDIA GPUs, in Triton (the ``gpu`` extra); import them where they run, for they need torch and triton.

:mod:`~sparsight.kernels.gpu.max_logits` is the head of a learned sparse encoder, forward and backward;
:mod:`~sparsight.kernels.gpu.pruned_csr` turns its weights into compressed rows on the device. The specifications stand
in :mod:`sparsight.kernels.reference.max_logits`.
"""
