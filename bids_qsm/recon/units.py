"""Conversions and physical constants; inside recon/ units are rad, s, T, mm and ppm."""

from collections.abc import Sequence

import numpy as np

GYROMAGNETIC_RATIO = 2.6752218708e8
"""Of the proton in water (rad/s/T), CODATA 2018 shielded value."""


def ppm_per_radian(field_strength: float, time: float = 1.0):
    """Field shift (ppm) that turns the phase by one radian in ``time`` (s) at ``field_strength`` (T)."""
    return 1e6 / (GYROMAGNETIC_RATIO * field_strength * time)


def effective_echo_time(echo_times: Sequence[float] | np.ndarray):
    """Root mean square echo time (s): sensitivity of the phase of all echoes to the field."""
    return float(np.sqrt(np.mean(np.square(echo_times))))


def mhz_from_tesla(field_strength: float):
    """Frequency (MHz) at which protons precess at ``field_strength`` (T)."""
    return field_strength * GYROMAGNETIC_RATIO / (2e6 * np.pi)


def tesla_from_mhz(imaging_frequency: float):
    """Field strength (T) at which protons precess at ``imaging_frequency`` (MHz)."""
    return imaging_frequency * 1e6 * 2 * np.pi / GYROMAGNETIC_RATIO
