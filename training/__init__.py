"""Training and evaluation. Importing this package registers EfficientAT with the auto classes of transformers."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from modeling_lung_srad import LungSradFeatureExtractor
from training.teachers.efficientat import EfficientATConfig, EfficientATForAudioClassification, EfficientATModel

AutoConfig.register(EfficientATConfig.model_type, EfficientATConfig)
AutoModel.register(EfficientATConfig, EfficientATModel)
AutoModelForAudioClassification.register(EfficientATConfig, EfficientATForAudioClassification)
AutoFeatureExtractor.register(EfficientATConfig, LungSradFeatureExtractor)
