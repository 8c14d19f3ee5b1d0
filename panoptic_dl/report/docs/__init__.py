"""The repository's own results: a small file of data, and the page that is made of it."""
