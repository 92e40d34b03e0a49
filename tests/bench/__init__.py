"""Benches: ratios in one run, since machines are noisy. `make bench` runs all, `python -m tests.bench NAME` one."""
