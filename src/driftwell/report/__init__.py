"""The report: one self-contained page about a run, and one about the claims."""

from __future__ import annotations

from driftwell.report.claims_page import write_claims_page
from driftwell.report.measurements import Measurements, measure_run
from driftwell.report.write import write_report

__all__ = ["Measurements", "measure_run", "write_claims_page", "write_report"]
