"""Calibration data: from what the user gave to checked batches of the model's signature (docs/calibration.md)."""
