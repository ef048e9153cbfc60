"""Running a method over a stack of any size: survey, tiles, blending, calibration, refusal. Knows no file formats."""
