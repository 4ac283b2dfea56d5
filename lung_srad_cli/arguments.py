"""The arguments of the `lung-srad` command; only the standard library is imported, so that help is immediate."""

import argparse
import importlib.metadata
from typing import Any

from lung_srad_cli.argument_types import COUNT, PATIENTS, SEED, SHARE, SPLITS, Parser, add_batch_size, path
from lung_srad_cli.classify_arguments import add_classify
from lung_srad_cli.demo_arguments import add_demo
from lung_srad_cli.errors import UsageError
from lung_srad_cli.publish_arguments import add_publish
from lung_srad_cli.spectrum_arguments import add_spectrum

DESCRIPTION = """\
Classifies respiratory sounds (normal, crackle, wheeze, both) with the Lung-SRAD model, and trains it.

Research software, not a medical device: its answers must not be used for diagnosis or treatment."""
EPILOG = """\
examples:
  lung-srad classify recording.wav
  lung-srad classify recordings/ --output results.csv --plot plots/
  lung-srad COMMAND --help

exit codes: 0 all done; 2 some input was wrong, with one line about it on standard error; 130 interrupted"""

TRAIN_EPILOG = """\
examples:
  lung-srad train training/configs/tiny_cpu.yaml data.icbhi=ICBHI_final_database output_dir=runs/first
  lung-srad train training/configs/smoke.yaml                        simulated sounds, under a minute
  accelerate launch training/run_training.py CONFIG.yaml             several devices or machines

The same command again goes on from the last checkpoint of an interrupted run. What can be set is described in
docs/training.md; a key inside a section is written section.key."""

EVALUATE_USAGE = """\
lung-srad evaluate CHECKPOINT [CHECKPOINT ...] DATA [--split SPLIT] [--part PART] [--output DIR] [--batch-size N]
       lung-srad evaluate --predictions REPORT [--output DIR]
       lung-srad evaluate --compare A B [--output DIR]"""
EVALUATE_EPILOG = """\
examples:
  lung-srad evaluate runs/first ICBHI_final_database
  lung-srad evaluate runs/first ICBHI_final_database --split leak_free --output report/
  lung-srad evaluate runs/seed1 runs/seed2 runs/seed3 ICBHI_final_database --output seeds/
  lung-srad evaluate --predictions report/ --output again/
  lung-srad evaluate --compare seeds/seed1 seeds/seed2 --output comparison/

The figures are specificity, sensitivity and Score of ICBHI 2017, both as 4-class and as 2-class measure; precision,
recall and F1 by class; AUROC and AUPRC; calibration; abstention; and subgroups; with 95 % intervals over patients.
--output adds evaluation.json, evaluation.md, evaluation.png, predictions.csv and patients.csv. Several checkpoints get
such a folder each and one table, seeds.md, with mean and standard deviation."""

CONVERT_EPILOG = """\
examples:
  lung-srad convert DASS_medium_v2.pth converted/
  lung-srad convert vssm_small.pth start/ --num-labels 4             ImageNet weights, a new head of four classes

SOURCE is a .pth or .safetensors file of DASS, of VMamba or of the authors' training, or a folder with config.json and
model.safetensors as DASS has on the Hub. Pickles are read without running code."""

EXPORT_DESCRIPTION = """\
Writes a checkpoint as ONNX, which onnxruntime runs without torch: any batch, a fixed number of frames.

OUT gets model.onnx, config.json and preprocessor_config.json. Nothing is kept unless the logits agree with those of
torch within 1e-3, at batches of 1 and 3 of simulated sounds. It takes 10 s to a minute."""
EXPORT_EPILOG = """\
examples:
  lung-srad export modeling_lung_srad/checkpoints/lung-srad-tiny onnx/
  lung-srad export runs/first onnx/ --frames 512                     for cycles resized to 512 frames
  lung-srad export runs/first onnx/ --int8 --data ICBHI_final_database
  python examples/classify_onnx.py onnx/ cycle.wav                   onnxruntime and numpy alone

The input is input_values (batch, frames, mel bins), as LungSradFeatureExtractor or examples/numpy_features.py makes
it, the output logits (batch, labels). Opset, frames, rate and labels are in the metadata of the file. --int8 adds
model_quantized.onnx, whose linear layers have int8 weights; --data says what that changes in the Score.

It needs onnx, onnxruntime and onnxscript: pip install "lung-srad[export]". Research software, not a medical device."""

PREPARE_EPILOG = """\
examples:
  lung-srad prepare icbhi ICBHI_final_database/ prepared/ --validation 0.2
  lung-srad prepare icbhi downloads/ prepared/ --download            fetches the published zip into downloads/ first
  lung-srad prepare sprsound SPRSound/ prepared/
  lung-srad prepare simulated sounds/ --layout icbhi                 computed sounds as .wav and .txt

The result is read by datasets.load_dataset("prepared/")."""


ENV_EPILOG = """\
examples:
  lung-srad env                                      paste what it prints into a bug report

Nothing is sent anywhere. The first time, it may take some seconds, as it compiles the scan."""


def build_parser() -> Parser:
    """The parser of the command line; the name of the subcommand is in `command` of what it returns."""
    parser = Parser(prog="lung-srad", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"lung-srad {importlib.metadata.version('lung-srad')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    add_classify(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_convert(commands)
    _add_prepare(commands)
    _add_export(commands)
    add_publish(commands)
    add_demo(commands)
    add_spectrum(commands)
    _add_env(commands)
    return parser


def _add_train(commands: Any) -> None:
    summary = "train a model as a configuration file says"
    parser = commands.add_parser("train", help=summary, description=summary, epilog=TRAIN_EPILOG)
    parser.add_argument(
        "config", type=path, metavar="CONFIG.yaml", help="the configuration; training/configs has examples"
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings that replace those of the file"
    )


def _add_evaluate(commands: Any) -> None:
    summary = "measure a checkpoint on labelled cycles"
    parser = commands.add_parser(
        "evaluate", help=summary, description=summary, usage=EVALUATE_USAGE, epilog=EVALUATE_EPILOG
    )
    checkpoints = parser.add_argument(
        "checkpoints",
        nargs="+",
        type=path,
        metavar="CHECKPOINT",
        help="folder of a checkpoint, or its id on the Hub; several, such as seeds, make one table",
    )
    data = parser.add_argument(
        "data", metavar="DATA", help="ICBHI 2017 (folder or zip), or a folder that `lung-srad prepare` wrote"
    )

    class InsteadOfCheckpoints(argparse.Action):
        """An option with which checkpoints and data are not asked for."""

        def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
            checkpoints.required = data.required = False
            setattr(namespace, self.dest, values)

    parser.add_argument(
        "--predictions",
        action=InsteadOfCheckpoints,
        type=path,
        metavar="REPORT",
        help="make the report again from the predictions in this folder or .csv, without audio or model",
    )
    parser.add_argument(
        "--compare",
        action=InsteadOfCheckpoints,
        nargs=2,
        type=path,
        metavar=("A", "B"),
        help="paired bootstrap of two reports (folders or predictions.csv) of the same cycles",
    )
    parser.add_argument("--split", choices=SPLITS, help="default: official")
    parser.add_argument("--part", choices=("test", "validation", "train"), help="default: test")
    parser.add_argument("--output", type=path, metavar="DIR", help="folder for the report and the predictions")
    add_batch_size(parser)
    parser.set_defaults(batch_size=None)


def check_evaluate_arguments(arguments: argparse.Namespace) -> None:
    """Raises `UsageError` for options of `evaluate` that do not go together."""
    if not arguments.compare and not arguments.predictions:
        return
    mode = "--compare" if arguments.compare else "--predictions"
    others = {
        "--predictions": arguments.predictions if arguments.compare else None,
        "CHECKPOINT": arguments.checkpoints,
        "--split": arguments.split,
        "--part": arguments.part,
        "--batch-size": arguments.batch_size,
    }
    for name, value in others.items():
        if value:
            raise UsageError(
                f"{name} does not go with {mode}, which needs no model and no audio; leave one of them out"
            )


def _add_convert(commands: Any) -> None:
    summary = "convert an original checkpoint (DASS, VMamba) to this layout"
    parser = commands.add_parser("convert", help=summary, description=summary, epilog=CONVERT_EPILOG)
    parser.add_argument("source", type=path, metavar="SOURCE", help="the original checkpoint")
    parser.add_argument("destination", type=path, metavar="DEST", help="folder to make; it must not exist or be empty")
    parser.add_argument(
        "--num-labels", type=COUNT, metavar="N", help="classes; a head with another number is replaced by a new one"
    )


def _add_prepare(commands: Any) -> None:
    summary = "write a database as Parquet files of labelled cycles"
    parser = commands.add_parser("prepare", help=summary, description=summary, epilog=PREPARE_EPILOG)
    databases = parser.add_subparsers(title="databases", metavar="DATABASE", dest="database", required=True)
    icbhi = _add_database(databases, "icbhi", "ICBHI 2017: a folder as published, or its zip")
    icbhi.add_argument("--split", choices=SPLITS, default="official", help="default: official")
    icbhi.add_argument("--download", action="store_true", help="fetch the published zip into SOURCE first")
    _add_database(databases, "sprsound", "SPRSound (BioCAS 2022): its folder")
    simulated = _add_database(databases, "simulated", "simulated lung sounds, for trials: not recordings of anyone")
    simulated.add_argument("--patients", type=PATIENTS, default=12, metavar="N", help="default: 12")
    simulated.add_argument("--recordings-per-patient", type=COUNT, default=2, metavar="N", help="default: 2")
    simulated.add_argument("--cycles-per-recording", type=COUNT, default=6, metavar="N", help="default: 6")
    simulated.add_argument(
        "--layout",
        choices=("parquet", "icbhi"),
        default="parquet",
        help="icbhi: .wav and .txt as ICBHI 2017 has",
    )


def _add_database(databases: Any, name: str, summary: str) -> Parser:
    parser = databases.add_parser(name, help=summary, description=summary, epilog=PREPARE_EPILOG)
    if name != "simulated":
        parser.add_argument("source", type=path, metavar="SOURCE", help="the database on this machine")
    parser.add_argument("destination", type=path, metavar="DEST", help="folder to make; it must not exist or be empty")
    parser.add_argument(
        "--validation", type=SHARE, default=0.0, metavar="SHARE", help="of the training patients (default: 0)"
    )
    parser.add_argument("--seed", type=SEED, default=0, metavar="N", help="of all random choices (default: 0)")
    return parser


def _add_export(commands: Any) -> None:
    summary = "write a checkpoint as ONNX, checked against torch"
    parser = commands.add_parser("export", help=summary, description=EXPORT_DESCRIPTION, epilog=EXPORT_EPILOG)
    parser.add_argument("checkpoint", type=path, metavar="CHECKPOINT", help="its folder, or its id on the Hub")
    parser.add_argument("destination", type=path, metavar="OUT", help="folder to make; it must not exist or be empty")
    parser.add_argument(
        "--frames",
        type=COUNT,
        metavar="N",
        help="frames of the input, from 32 to 65536 (default: as the checkpoint's features have)",
    )
    parser.add_argument("--int8", action="store_true", help="write model_quantized.onnx, with int8 weights, as well")
    parser.add_argument(
        "--data",
        type=path,
        metavar="DATA",
        help="measure what --int8 changes in the Score on it: ICBHI 2017, or a folder of `lung-srad prepare`",
    )
    parser.add_argument("--split", choices=SPLITS, help="of DATA (default: official)")
    parser.add_argument(
        "--part",
        choices=("test", "validation", "train"),
        help="of DATA (default: validation, the patients that the checkpoint's training run kept for it)",
    )
    parser.add_argument("--force", action="store_true", help="replace the files of an earlier export in OUT")


def _add_env(commands: Any) -> None:
    summary = "print the versions that a bug report needs"
    commands.add_parser("env", help=summary, description=summary, epilog=ENV_EPILOG)
