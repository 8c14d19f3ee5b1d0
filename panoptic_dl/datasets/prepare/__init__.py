"""Make downloaded datasets ready: unpack, make what is missing, count."""
