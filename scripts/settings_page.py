"""Write docs/settings.md, the tables of all settings, from panoptic_dl/core/settings.py.

python scripts/settings_page.py
"""

from pathlib import Path

from panoptic_dl.core.settings import settings_page


def main() -> None:
    page = Path(__file__).parents[1] / "docs" / "settings.md"
    page.write_text(settings_page())
    print(page)


if __name__ == "__main__":
    main()
