"""The report's section about a session of which nothing is known."""

from tunetrail.data.report.report_data import ReportSection
from tunetrail.data.rows import set_aside_frame

EMPTY_SECTION = ReportSection(
    name="embedding",
    account=(),
    findings=(),
    sides={},
    set_aside=set_aside_frame("validation"),
    changes=set_aside_frame("cleaning"),
    lengths={},
    labels={},
    max_length=None,
    drift={},
    privacy={},
)
