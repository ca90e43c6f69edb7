"""DICOM in and out: series of scanners to BIDS, and maps to images for radiologists."""
