"""What `mode=` runs: evaluate, benchmark, analyze, browse. Train, demo and doctor have packages."""
