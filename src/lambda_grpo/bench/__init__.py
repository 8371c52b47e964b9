"""Benchmarks: speed as ratios against a peer."""
