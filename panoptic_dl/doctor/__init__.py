"""mode=doctor: is everything in place for a row? A table of checks, with a cure for each red."""
