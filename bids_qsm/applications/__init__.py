"""What is asked of the susceptibility map beside the regions: each application has a flag."""

FLAGS = {'candidates': 'also look for microbleeds and calcifications'}
"""Name of an application, which is its flag, and what the help says about it; imports nothing."""
