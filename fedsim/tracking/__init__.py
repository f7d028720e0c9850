"""Where else can a run be watched while it goes: in TensorBoard, in MLflow?"""

from fedsim.tracking.feed import Log, Tracker
from fedsim.tracking.mlflow import MLflow
from fedsim.tracking.tensorboard import TensorBoard

__all__ = ["Log", "MLflow", "TensorBoard", "Tracker"]
