"""The error for what a user of the demo can cure."""


class DemoError(ValueError):
    """An input that cannot be used, or a setting that cannot be; names it and the way out."""
