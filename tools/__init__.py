"""Commands for trying and measuring the suite, run from its root with ``python -m tools.NAME``."""
