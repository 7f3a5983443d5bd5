"""One way to draw: the house's style, no window system, whole files only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spica.files.checksum import atomic_path

STYLE = Path(__file__).with_name("spica.mplstyle")


@contextmanager
def figure(path: Path, width_in: float, height_in: float, title: str = "") -> Iterator[Any]:
    """Yield a Matplotlib figure in the house's style and write it whole to `path` (PNG or PDF) at the end.

    Titles are shown as they are: no mathematics is parsed in header text.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(fname=str(STYLE)):
        drawn = Figure(figsize=(width_in, height_in))
        FigureCanvasAgg(drawn)
        if title:
            drawn.suptitle(title, fontsize=11, parse_math=False)
        yield drawn
        with atomic_path(path) as temporary:
            drawn.savefig(temporary, format=path.suffix.lstrip("."), metadata=_no_dates(path))


def _no_dates(path: Path) -> dict[str, Any]:
    """Return metadata without a date: equal content gives equal files."""
    return {"CreationDate": None} if path.suffix == ".pdf" else {"Software": "Spica"}
