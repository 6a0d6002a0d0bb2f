"""Speed, measured against a peer or a limit in one run; `python -m benchmarks [CASE ...]`."""

from kronos_stream.engine.environment import set_defaults

# As the engine's process has it; torch is imported by the cases.
set_defaults()
