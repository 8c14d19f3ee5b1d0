"""Compose a config, start its processes, hand over to the mode's function. See --help."""

from panoptic_dl.__main__ import main

if __name__ == "__main__":
    main()
