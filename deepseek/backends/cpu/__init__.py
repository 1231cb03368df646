"""The cpu backend: kernels as LLVM IR text with explicit vectors, compiled to object code.

In flow Kernels and a Target; out flows one relocatable object for many kernels.
"""
