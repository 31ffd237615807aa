"""The figures and tables of docs/paper.md and docs/tuning.md, from the stored results."""
