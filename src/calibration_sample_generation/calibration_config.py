from ditq.calibration.config import *  # noqa: F403
