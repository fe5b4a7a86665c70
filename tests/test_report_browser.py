import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from report_makers import add_analyses, make_run, masking, read_page

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def open_page(page: Path, profile: Path) -> tuple[str, list[str]]:
    """What the browser made of a page, and the complaints on its console; the policy makes one of any request."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"]
    command += [
        "--enable-logging=stderr",
        "--v=0",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={profile}",
    ]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_report_of_two_runs_is_at_most_5000_pixels_long(tmp_path: Path) -> None:
    radii = (2 / 255, 4 / 255, 8 / 255)
    runs = [make_run(tmp_path / name, method=name, radii=radii, epochs=3) for name in ("standard", "dpaat")]
    for run in runs:
        add_analyses(run, masking=masking("pass", "believable"))
    read_page(runs, page := tmp_path / "report.html")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'page.png'}"]
    subprocess.run([*command, "--window-size=1280,5400", page.as_uri()], capture_output=True, timeout=120, check=True)
    drawn = np.flatnonzero((np.asarray(Image.open(tmp_path / "page.png").convert("L")) < 250).any(axis=1))
    assert 2000 < drawn.max() < 5000


def test_the_page_opens_without_complaint_or_request(tiny_run: Path, tmp_path: Path) -> None:
    runs = [tiny_run, make_run(tmp_path / "<i>other", radii=(4 / 255, 8 / 255))]
    page = tmp_path / "report.html"
    figures = read_page(runs, page).tags.count("figure")
    dom, complaints = open_page(page, tmp_path / "profile")
    assert complaints == []
    assert dom.count("<figure>") == figures > 5
    assert dom.count("<img ") > 5
    # The same page with a picture from elsewhere must be noticed, or the test could not fail.
    page.write_text(page.read_text().replace("<main>", '<main><img src="https://example.org/x.png" alt="">'))
    _, complaints = open_page(page, tmp_path / "profile")
    assert len(complaints) == 1
    assert "example.org" in complaints[0]
