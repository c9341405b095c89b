"""Reference implementations for the benchmarks."""
