"""Pages and tables of the results of runs, studies and evaluations."""

from lambda_grpo.report.results_table import results_table
from lambda_grpo.report.run_page import write_report
from lambda_grpo.report.study_page import write_study_report
from lambda_grpo.report.summary import Summary, summarise

__all__ = ["Summary", "results_table", "summarise", "write_report", "write_study_report"]
