"""From gradient-echo MRI in BIDS to susceptibility maps and tables of regional susceptibility."""

__version__ = '1.0.0'
