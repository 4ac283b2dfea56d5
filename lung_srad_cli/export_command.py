"""`lung-srad export`: a checkpoint as ONNX, with a check against torch and the change that int8 makes."""

import argparse

import numpy as np
from tqdm import tqdm

from dataset_scripts.simulated import simulate_cycle
from lung_srad_cli.errors import UsageError
from modeling_lung_srad import LungSradFeatureExtractor
from modeling_lung_srad.checkpoint_loading import load_checkpoint
from modeling_lung_srad.configuration_lung_srad import CLASS_NAMES
from modeling_lung_srad.export.onnx_export import INPUT, OPSET, OUTPUT, OnnxExport, check_destination, export_onnx

NUM_STEPS = 3


def run(arguments: argparse.Namespace) -> int:
    """
    Exports what the arguments name and says what came of it.

    Args:
        arguments (`argparse.Namespace`): of `lung-srad export`.

    Returns:
        `int`: the exit code, 0.

    Raises:
        CheckpointError, ExportError, OutputError, UsageError: where nothing was written.
    """
    if arguments.data is None and (arguments.part or arguments.split):
        raise UsageError("--part and --split say which cycles of --data to take; give --data as well")
    if arguments.data is not None and not arguments.int8:
        raise UsageError("--data measures what int8 weights change; give --int8 as well")
    check_destination(arguments.destination, arguments.force)
    model, feature_extractor = load_checkpoint(arguments.checkpoint)
    part, split = arguments.part or "validation", arguments.split or "official"
    cycles = None
    if arguments.data is not None:
        from training.prediction.exported_score import load_scored_cycles

        try:
            cycles = load_scored_cycles(arguments.checkpoint, arguments.data, split, part)
        except ValueError as error:
            raise UsageError(f"--data {error}") from error
    with tqdm(total=NUM_STEPS - (not arguments.int8), unit="step", disable=None, leave=False) as bar:

        def say(step: str) -> None:
            bar.set_description(step, refresh=False)
            bar.update()

        exported = export_onnx(
            model,
            feature_extractor,
            arguments.destination,
            simulated_sounds(feature_extractor),
            num_frames=arguments.frames,
            int8=arguments.int8,
            force=arguments.force,
            say=say,
        )
    describe(exported)
    if cycles is not None:
        from training.prediction.exported_score import exported_score

        feature_extractor.num_frames = exported.num_frames
        in_float, in_int8 = (
            100 * exported_score(path, model.config, feature_extractor, cycles) for path in exported.files[:2]
        )
        print(
            f"Score on {len(cycles.cycles)} cycles of {arguments.data} ({part}, {split} split): "
            f"float32 {in_float:.2f}, int8 {in_int8:.2f}, change {in_int8 - in_float:+.2f}"
        )
    elif arguments.int8:
        print("change in Score by int8: not measured; give --data DATA, cycles with labels")
    print("Research software, not a medical device.")
    return 0


def simulated_sounds(feature_extractor: LungSradFeatureExtractor) -> list[np.ndarray]:
    """Three simulated cycles, of 2 s to 3.5 s, at the rate of the extractor."""
    generator = np.random.default_rng(0)
    return [
        simulate_cycle(CLASS_NAMES.index(name), seconds, feature_extractor.sampling_rate, generator)
        for name, seconds in (("wheeze", 2.0), ("crackle", 3.5), ("normal", 2.7))
    ]


def describe(exported: OnnxExport) -> None:
    """Prints what was written and how near to torch it is."""
    print(f"{exported.folder}: {', '.join(path.name for path in exported.files)}")
    print(f"ONNX opset {OPSET}, {INPUT} (batch, {exported.num_frames}, mel) -> {OUTPUT} (batch, labels)")
    differences = {"float32": exported.difference, "int8": exported.int8_difference}
    for (kind, difference), path in zip(differences.items(), exported.files, strict=False):
        if difference is not None:
            size = path.stat().st_size / 1e6
            print(f"{path.name}: {kind}, {size:.1f} MB, logits within {difference:.1e} of torch")
