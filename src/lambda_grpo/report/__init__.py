"""Pages and tables of the results of runs, studies and evaluations."""
