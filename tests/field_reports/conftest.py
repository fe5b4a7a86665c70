from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _no_drawings() -> Iterator[None]:
    """The reports here are read for their words; drawing takes seconds a page, and tests/test_report.py looks at it."""
    from dpaat.report import drawing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "to_svg", lambda canvas: '<svg viewBox="0 0 1 1"></svg>')
        yield
