"""What commands and benchmarks show in a terminal: progress, tables."""
