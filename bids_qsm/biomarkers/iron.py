"""Iron of the brain post mortem by age: the norms of 1958.

References
----------
Hallgren & Sourander (1958), J Neurochem 3:41. doi:10.1111/j.1471-4159.1958.tb12607.x
"""

import numpy as np

CURVES = {'GP': (21.41, 0.09, 0.37), 'Putamen': (14.62, 0.04, 0.46), 'Caudate': (9.66, 0.05, 0.33)}
"""Iron (mg/100 g of wet tissue) a (1 - exp(-b age)) + c, by region."""
ADULTS = {'SN': (18.5, 6.5), 'RN': (19.5, 6.9), 'Dentate': (10.4, 4.9), 'Thalamus': (4.8, 1.2)}
"""Mean and standard deviation (mg/100 g) of adults, by region."""
ADULT_AGE = 30.0
"""Age (years) from which the means of `ADULTS` hold."""
REGIONS = (*CURVES, *ADULTS)


def expected_iron(region: str, age: float | np.ndarray) -> np.ndarray:
    """Iron (mg/100 g) of a region at some ages (years); NaN where there is no norm.

    >>> expected_iron('GP', np.array([30.0])).round(3).tolist()
    [20.341]
    >>> expected_iron('SN', np.array([20.0, 40.0])).tolist()
    [nan, 18.5]
    """
    age = np.asarray(age, float)
    if region in CURVES:
        a, b, c = CURVES[region]
        return a * (1 - np.exp(-b * age)) + c
    mean = ADULTS[region][0] if region in ADULTS else np.nan
    return np.where(age >= ADULT_AGE, mean, np.nan)
