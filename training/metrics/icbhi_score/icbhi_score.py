"""The ICBHI 2017 measure as an `evaluate` module: `evaluate.load("./training/metrics/icbhi_score")`."""

from typing import Any

import datasets
import evaluate

from .icbhi_measure import icbhi_score

_DESCRIPTION = """\
Specificity, sensitivity and Score of the ICBHI 2017 respiratory sound challenge, with the 4-class sensitivity (exactly
the right abnormal class) and the 2-class one (any abnormal class) reported side by side under different names.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of `int`): predicted labels: 0 normal, 1 crackle, 2 wheeze, 3 both.
    references (`list` of `int`): true labels.
Returns:
    specificity, sensitivity, score, sensitivity_any_abnormal, score_any_abnormal (`float`, 0 to 1) and
    confusion_matrix (nested `list` of counts, true class by predicted class).
Examples:
    >>> icbhi_score = evaluate.load("./training/metrics/icbhi_score")
    >>> icbhi_score.compute(predictions=[0, 0, 1, 3], references=[0, 0, 1, 2])["score"]
    0.75
"""

_CITATION = """\
@inproceedings{rocha2018respiratory,
  title = {A Respiratory Sound Database for the Development of Automated Classification},
  author = {Rocha, B. M. and Filos, D. and Mendes, L. and others},
  booktitle = {Precision Medicine Powered by pHealth and Connected Health},
  year = {2018},
}
"""


class IcbhiScore(evaluate.Metric):
    """`evaluate` wrapper of `icbhi_score`; batches may be added one by one, the measure is taken over all of them."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
            reference_urls=["https://bhichallenge.med.auth.gr"],
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, Any]:
        return icbhi_score(predictions, references)
