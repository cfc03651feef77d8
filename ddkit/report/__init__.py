"""Reports about runs: image grids, curves, the self-contained HTML page and comparison tables."""

from ddkit.report.compare import comparison_table
from ddkit.report.curves import curve
from ddkit.report.html import write_report
from ddkit.report.images import image_grid

__all__ = ["comparison_table", "curve", "image_grid", "write_report"]
