from ditq.calibration.config import CFG_SCALE as CFG_SCALE
from ditq.calibration.config import LATENT_SIZE as LATENT_SIZE
from ditq.calibration.config import MODEL as MODEL
from ditq.calibration.config import NUM_FID_SAMPLES as NUM_FID_SAMPLES
from ditq.calibration.config import NUM_SAMPLING_STEPS as NUM_SAMPLING_STEPS
from ditq.calibration.config import NUM_SELECTED_STEPS as NUM_SELECTED_STEPS
from ditq.calibration.config import SEED as SEED
