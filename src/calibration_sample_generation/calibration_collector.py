from ditq.calibration import PointRecipe as PointRecipe
from ditq.calibration import collect_points as collect_points
from ditq.calibration import record as record

if __name__ == "__main__":
    from ditq.cli.library import tell

    tell("calibration_collector")
