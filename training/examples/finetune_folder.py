"""Fine-tunes the embedded checkpoint with the stock `transformers.Trainer` on wav files in a folder for each class.

python training/examples/finetune_folder.py SOUNDS OUTPUT      with SOUNDS/normal/*.wav, SOUNDS/wheeze/*.wav, ...
"""

import sys
from pathlib import Path

from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, Trainer, TrainingArguments

from modeling_lung_srad.audio import read_audio
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT  # or any folder or Hub id

sounds, output = map(Path, sys.argv[1:])
classes = sorted(path.name for path in sounds.iterdir() if path.is_dir())
label2id = {name: label for label, name in enumerate(classes)}
extractor = AutoFeatureExtractor.from_pretrained(DEFAULT_CHECKPOINT)
model = AutoModelForAudioClassification.from_pretrained(
    DEFAULT_CHECKPOINT, id2label=dict(enumerate(classes)), label2id=label2id, ignore_mismatched_sizes=True
)


def read(path: Path) -> dict:
    inputs = extractor(read_audio(path, extractor.sampling_rate), sampling_rate=extractor.sampling_rate)
    return {"input_values": inputs["input_values"][0], "labels": label2id[path.parent.name]}


cycles = [read(path) for path in sorted(sounds.glob("*/*.wav"))]
arguments = TrainingArguments(str(output), num_train_epochs=3, learning_rate=5e-4, report_to="none")
trainer = Trainer(model=model, args=arguments, train_dataset=cycles, processing_class=extractor)
trainer.train()
trainer.save_model()
print(f"{len(cycles)} cycles of {', '.join(classes)}; saved to {output}")
