"""The official .zip archives of datasets: which are there, are they sound, unpack them."""
