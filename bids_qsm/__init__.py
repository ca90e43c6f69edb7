"""From gradient-echo MRI in BIDS to susceptibility maps and tables of regional susceptibility."""

__version__ = '0.1.0'
