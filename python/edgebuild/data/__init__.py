"""Calibration data: from what the user gave to checked batches of the model's signature (docs/calibration.md)."""

from edgebuild.data.calibration import HINT_NO_DATA as HINT_NO_DATA
from edgebuild.data.calibration import MAX_SAMPLES as MAX_SAMPLES
from edgebuild.data.calibration import CalibrationData as CalibrationData
from edgebuild.data.calibration import open_calibration as open_calibration
from edgebuild.data.survey import as_calibration as as_calibration
from edgebuild.data.survey import sizes_of as sizes_of
from edgebuild.data.survey import survey as survey
