"""`lung-srad export`: a checkpoint as ONNX, with a check against torch and the change that int8 makes."""

import argparse
from typing import TYPE_CHECKING, Any

from lung_srad_cli.argument_types import COUNT, SPLITS, add_revision, path
from lung_srad_cli.errors import TRAINING_MODULES, require_modules

if TYPE_CHECKING:
    import numpy as np

    from modeling_lung_srad.export.onnx_export import OnnxExport

EXPORT_MODULES = ("onnx", "onnxruntime", "onnxscript")
DESCRIPTION = """\
Writes a checkpoint as ONNX, which onnxruntime runs without torch: any batch, a fixed number of frames.

OUT gets model.onnx, config.json and preprocessor_config.json. Nothing is kept unless the logits agree with those of
torch within 1e-3, at batches of 1 and 3 of simulated sounds. It takes 10 s to a minute."""
EPILOG = """\
examples:
  lung-srad export modeling_lung_srad/checkpoints/lung-srad-tiny onnx/
  lung-srad export runs/first onnx/ --frames 512                     for cycles resized to 512 frames
  lung-srad export runs/first onnx/ --int8 --data ICBHI_final_database
  python examples/classify_onnx.py onnx/ cycle.wav                   onnxruntime and numpy alone

The input is input_values (batch, frames, mel bins), as LungSradFeatureExtractor or examples/numpy_features.py makes
it, the output logits (batch, labels). Opset, frames, rate and labels are in the metadata of the file. --float16 adds
model_fp16.onnx, half as large, which computes in float32 too. --int8 adds model_quantized.onnx, whose linear layers
have int8 weights; --data says what that changes in the Score.

It needs onnx, onnxruntime and onnxscript: pip install "lung-srad[export]". Research software, not a medical device."""


def add(commands: Any) -> None:
    """Adds the subcommand."""
    summary = "write a checkpoint as ONNX, checked against torch"
    parser = commands.add_parser("export", help=summary, description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("checkpoint", type=path, metavar="CHECKPOINT", help="its folder, or its id on the Hub")
    parser.add_argument("destination", type=path, metavar="OUT", help="folder to make; it must not exist or be empty")
    parser.add_argument(
        "--frames",
        type=COUNT,
        metavar="N",
        help="frames of the input, from 32 to 65536 (default: as the checkpoint's features have)",
    )
    parser.add_argument("--float16", action="store_true", help="write model_fp16.onnx, half as large, as well")
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
    add_revision(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """
    Exports a checkpoint and prints the result; returns the exit code.

    Raises:
        InputError: where nothing was written.
    """
    require_modules(EXPORT_MODULES, extra="export")
    if arguments.data is not None:
        require_modules(TRAINING_MODULES, extra="train")
    from tqdm import tqdm

    from modeling_lung_srad.checkpoint_loading import load_checkpoint
    from modeling_lung_srad.errors import InputError
    from modeling_lung_srad.export.onnx_export import INT8_FILE, MODEL_FILE, check_destination, export_onnx

    if arguments.data is None and (arguments.part or arguments.split):
        raise InputError("--part, --split", "say which cycles of --data to take", "give --data as well")
    if arguments.data is not None and not arguments.int8:
        raise InputError("--data", "measures what int8 weights change", "give --int8 as well")
    check_destination(arguments.destination, arguments.force)
    model, feature_extractor = load_checkpoint(arguments.checkpoint)
    part, split = arguments.part or "validation", arguments.split or "official"
    cycles = None
    if arguments.data is not None:
        from training.prediction.exported_score import load_scored_cycles

        try:
            cycles = load_scored_cycles(arguments.checkpoint, arguments.data, split, part)
        except InputError as error:
            raise error.within("--data") from error
    with tqdm(total=2 + arguments.float16 + arguments.int8, unit="step", disable=None, leave=False) as bar:

        def say(step: str) -> None:
            bar.set_description(step, refresh=False)
            bar.update()

        exported = export_onnx(
            model,
            feature_extractor,
            arguments.destination,
            simulated_sounds(feature_extractor.sampling_rate),
            num_frames=arguments.frames,
            float16=arguments.float16,
            int8=arguments.int8,
            force=arguments.force,
            say=say,
        )
    describe(exported)
    if cycles is not None:
        from training.prediction.exported_score import exported_score

        feature_extractor.num_frames = exported.num_frames
        in_float, in_int8 = (
            100 * exported_score(exported.folder / name, model.config, feature_extractor, cycles)
            for name in (MODEL_FILE, INT8_FILE)
        )
        print(
            f"Score on {len(cycles.cycles)} cycles of {arguments.data} ({part}, {split} split): "
            f"float32 {in_float:.2f}, int8 {in_int8:.2f}, change {in_int8 - in_float:+.2f}"
        )
    elif arguments.int8:
        print("change in Score by int8: not measured; give --data DATA, cycles with labels")
    print("Research software, not a medical device.")
    return 0


def simulated_sounds(sampling_rate: int) -> "list[np.ndarray]":
    """Three simulated cycles, of 2 s to 3.5 s, at that rate."""
    import numpy as np

    from dataset_scripts.simulated import simulate_cycle

    generator = np.random.default_rng(0)
    return [
        simulate_cycle(label, seconds, sampling_rate, generator) for label, seconds in ((2, 2.0), (1, 3.5), (0, 2.7))
    ]


def describe(exported: "OnnxExport") -> None:
    """Prints the files and their difference from torch."""
    from modeling_lung_srad.export.onnx_export import FLOAT16_FILE, INPUT, INT8_FILE, OPSET, OUTPUT

    print(f"{exported.folder}: {', '.join(path.name for path in exported.files)}")
    print(f"ONNX opset {OPSET}, {INPUT} (batch, {exported.num_frames}, mel) -> {OUTPUT} (batch, labels)")
    weights = {FLOAT16_FILE: "float16", INT8_FILE: "int8"}
    for name, difference in exported.differences.items():
        size = (exported.folder / name).stat().st_size / 1e6
        print(f"{name}: {weights.get(name, 'float32')}, {size:.1f} MB, logits within {difference:.1e} of torch")
