"""How are the pictures of report pages under docs/report made?

    python tests/report/screenshots.py docs/report/massive.html

writes the upper part of the page beside it, as a desk and a phone show it, light and dark:
massive-1280.png, massive-1280-dark.png, massive-390.png, massive-390-dark.png.
"""

import io
import sys
import tempfile
from pathlib import Path

from browser import browser, installed
from PIL import Image

HEIGHT = 2400
"""Pixels of the page that a picture shows, from its top."""


def main(page: Path) -> None:
    """Write the pictures of a page beside it."""
    path = installed()
    if path is None:
        raise SystemExit("no Chromium here (apt-get install chromium-headless-shell)")
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        browser(path, Path(profile)) as one,
    ):
        for width in (1280, 390):
            for dark in (False, True):
                one.open(page, width, dark=dark)
                picture = page.with_name(f"{page.stem}-{width}{'-dark' if dark else ''}.png")
                # 256 colours are enough for a page, and a quarter of the size.
                Image.open(io.BytesIO(one.screenshot(HEIGHT))).quantize().save(picture)
                print(picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
