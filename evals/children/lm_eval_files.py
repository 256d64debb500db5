"""Existing lm-eval task YAML, loaded as it stands from a suite's folder; data is local."""
