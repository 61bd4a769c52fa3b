"""The command line: `driftwell train, sample, measure, report, claims, doctor`."""
