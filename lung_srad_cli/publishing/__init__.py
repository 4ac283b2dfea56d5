"""Publishing on the Hugging Face Hub: what goes into a repository, its card, and the upload.

`model_repository`, `dataset_repository` and `space_repository` collect the files without network; `upload` sends them.
"""
