"""Measurements, each by one command; `python -m benchmarks` compares the engine with its peers."""
