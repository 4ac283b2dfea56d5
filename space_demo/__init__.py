"""The demo: a page to classify recordings of lung sounds, as a Hugging Face Space or by `lung-srad demo`."""
