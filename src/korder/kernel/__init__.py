"""Pure building blocks without I/O: ids, clock, refusals, messages."""
