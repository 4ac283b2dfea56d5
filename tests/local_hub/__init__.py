"""A small Hugging Face Hub on this machine, which `huggingface_hub` talks to when `HF_ENDPOINT` is its address."""

from .server import READ_TOKEN, WRITE_TOKEN, Fault, LocalHub, Request

__all__ = ["READ_TOKEN", "WRITE_TOKEN", "Fault", "LocalHub", "Request"]
