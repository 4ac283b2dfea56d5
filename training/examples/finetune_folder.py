"""Fine-tunes the embedded checkpoint with the stock `transformers.Trainer` on recordings in a folder for each class.

python training/examples/finetune_folder.py SOUNDS OUTPUT      with SOUNDS/normal/*.wav, SOUNDS/wheeze/*.wav, ...

A fifth of the patients is held out and measured at the end. A patient is what files' names begin with, up to the first
underscore. Research software, not a medical device.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupShuffleSplit
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, Trainer, TrainingArguments

from modeling_lung_srad.audio import read_audio
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT  # or any folder or Hub id
from modeling_lung_srad.files.recording_files import find_recordings

if len(sys.argv) != 3:
    sys.exit(__doc__)
sounds, output = map(Path, sys.argv[1:])
classes = sorted(path.name for path in sounds.glob("[!.]*") if path.is_dir())
if len(classes) < 2 or output.exists():
    sys.exit(f"{sounds} should be a folder with two classes or more ({len(classes)} now), {output} not exist yet")
extractor = AutoFeatureExtractor.from_pretrained(DEFAULT_CHECKPOINT)
try:
    recordings = [(path, label) for label, name in enumerate(classes) for path in find_recordings(sounds / name)]
    inputs = [extractor(read_audio(path), sampling_rate=16000)["input_values"][0] for path, _ in recordings]
except ValueError as error:
    sys.exit(f"finetune_folder.py: {error}")
cycles = [{"input_values": one, "labels": label} for one, (_, label) in zip(inputs, recordings, strict=True)]
patients = [Path(path).stem.split("_")[0] for path, _ in recordings]
if len(set(patients)) < 2:
    sys.exit(
        f"{sounds}: all files are of patient {patients[0]}, so none can be held out; begin names with the patient"
    )
(kept, held_out), *_ = GroupShuffleSplit(1, test_size=0.2, random_state=0).split(cycles, groups=patients)
# These were fitted to the weights of the checkpoint.
fitted = ("temperature", "crackle_threshold", "wheeze_threshold", "context_weight", "familiarity_digest")
changed = {"head": "classes"} | dict.fromkeys(fitted)
changed |= {"id2label": dict(enumerate(classes)), "label2id": {name: label for label, name in enumerate(classes)}}
model = AutoModelForAudioClassification.from_pretrained(DEFAULT_CHECKPOINT, ignore_mismatched_sizes=True, **changed)
arguments = TrainingArguments(str(output), num_train_epochs=3, learning_rate=5e-4, report_to="none")
trainer = Trainer(
    model=model,
    args=arguments,
    train_dataset=[cycles[index] for index in kept],
    eval_dataset=[cycles[index] for index in held_out],
    processing_class=extractor,
    compute_metrics=lambda found: {
        "balanced_accuracy": balanced_accuracy_score(found.label_ids, np.argmax(found.predictions, axis=-1))
    },
)
trainer.train()
trainer.save_model()
accuracy = trainer.evaluate()["eval_balanced_accuracy"]
chance = 1 / len(classes)
print(f"balanced accuracy {accuracy:.2f} on {len(held_out)} cycles of patients held out ({chance:.2f} by chance)")
print(f"{len(kept)} cycles of {', '.join(classes)}; saved to {output}")
