"""The SPRSound measures as an `evaluate` module: `evaluate.load("./training/metrics/sprsound_score", "1-1")`."""

from typing import Any

import datasets
import evaluate

from .sprsound_measure import sprsound_score, task_classes

_DESCRIPTION = """\
Specificity, sensitivity, average score, harmonic score and Score of the SPRSound challenge (BioCAS 2022): Tasks 1-1
and 1-2 on events, Tasks 2-1 and 2-2 on recordings.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of `int`): predicted labels. Task 1-1: 0 normal, 1 adventitious. Task 1-2: 0 normal, 1 fine
        crackle, 2 coarse crackle, 3 wheeze, 4 rhonchi, 5 stridor, 6 wheeze and crackle. Task 2-1: 0 normal,
        1 adventitious, 2 poor quality. Task 2-2: 0 normal, 1 CAS, 2 DAS, 3 CAS and DAS, 4 poor quality.
    references (`list` of `int`): true labels.
Returns:
    specificity, sensitivity, average_score, harmonic_score, score (`float`, 0 to 1) and confusion_matrix (nested
    `list` of counts, true class by predicted class).
Examples:
    >>> sprsound_score = evaluate.load("./training/metrics/sprsound_score", "1-2")
    >>> sprsound_score.compute(predictions=[0, 0, 1, 3], references=[0, 0, 1, 4])["average_score"]
    0.75
"""

_CITATION = """\
@article{zhang2022sprsound,
  title = {SPRSound: Open-Source SJTU Paediatric Respiratory Sound Database},
  author = {Zhang, Q. and Zhang, J. and Yuan, J. and others},
  journal = {IEEE Transactions on Biomedical Circuits and Systems},
  volume = {16},
  number = {5},
  year = {2022},
}
"""


class SprsoundScore(evaluate.Metric):
    """`evaluate` wrapper of `sprsound_score`; its configuration names the task. Batches may be added one by one."""

    def _info(self) -> evaluate.MetricInfo:
        # An unknown task is an error when the module is loaded, before any prediction is made.
        task_classes(self.config_name)
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
            reference_urls=["https://github.com/SJTU-YONGFU-RESEARCH-GRP/SPRSound"],
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, Any]:
        return sprsound_score(predictions, references, self.config_name)
