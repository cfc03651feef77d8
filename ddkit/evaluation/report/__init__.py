"""Reports about runs: image grids, curves, the self-contained HTML page and comparison tables."""

from ddkit.evaluation.report.compare import comparison_table
from ddkit.evaluation.report.curves import curve
from ddkit.evaluation.report.html import write_report
from ddkit.evaluation.report.images import image_grid

__all__ = ["comparison_table", "curve", "image_grid", "write_report"]
