"""Speed, measured against a peer or a limit in one run; `python -m benchmarks [CASE ...]`."""
