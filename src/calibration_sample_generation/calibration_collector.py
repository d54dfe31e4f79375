from ditq.calibration import PointRecipe, collect_points, record

__all__ = ["PointRecipe", "collect_points", "record"]
