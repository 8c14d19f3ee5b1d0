"""Own figures beside published ones, with verdicts: data, Markdown, CSV and LaTeX."""
