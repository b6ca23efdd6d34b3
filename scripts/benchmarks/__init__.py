"""What scripts/bench runs: rows that compare promptd with llama.cpp's own programs, in pairs and as ratios."""
