"""`--protocol standard`: what is measured while a linear classifier trains on augmented views."""

from cl.config.programs import Linear
from cl.data.datamodule import ImageData
from cl.evaluation.offline.feature_scores import ValidateOnce
from cl.evaluation.offline.label_split import evaluation_sets
from cl.evaluation.offline.linear_evaluation import chosen_point, means_of_best
from cl.evaluation.online.metrics import MeasureEpoch, Measurement


def measure_linear(data: ImageData, config: Linear) -> MeasureEpoch:
    """The columns of metrics.csv, in this order."""
    measurements: list[Measurement] = [means_of_best, chosen_point]
    train, val = evaluation_sets(data, config)
    if val is not None and not config.linear.finetune:
        measurements.append(ValidateOnce(data.eval_loader(train), data.eval_loader(val)))
    return MeasureEpoch(measurements)
