"""What helps to write a bundle: check, scenarios, targets, diff, scans of many texts."""
