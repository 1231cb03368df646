"""Backends: one folder each. Here: who they are; in each: what it claims, emits, compiles, runs."""
