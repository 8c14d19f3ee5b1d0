"""What every other package may import: errors, files, images, processes, run folders."""
