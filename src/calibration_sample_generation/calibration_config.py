from ditq.calibration.defaults import CFG_SCALE as CFG_SCALE
from ditq.calibration.defaults import LATENT_SIZE as LATENT_SIZE
from ditq.calibration.defaults import MODEL as MODEL
from ditq.calibration.defaults import NUM_FID_SAMPLES as NUM_FID_SAMPLES
from ditq.calibration.defaults import NUM_SAMPLING_STEPS as NUM_SAMPLING_STEPS
from ditq.calibration.defaults import NUM_SELECTED_STEPS as NUM_SELECTED_STEPS
from ditq.calibration.defaults import SEED as SEED

if __name__ == "__main__":
    from ditq.cli.library import tell

    tell("calibration_config")
