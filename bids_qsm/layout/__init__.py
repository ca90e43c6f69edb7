"""From a BIDS dataset to the series to run; input errors are found here, before the graph."""

from bids_qsm.layout.find import Plan, find_series, participants
from bids_qsm.layout.series import Rejected, Series

__all__ = ['Plan', 'Rejected', 'Series', 'find_series', 'participants']
